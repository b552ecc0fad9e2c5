"""Synthetic conversations at the desk of a lending library, for the `chat` task.

A row is `{"id", "messages"}`. The assistant asks for what is missing, one thing a turn in a fixed order, and then says
the order as JSON. Titles, branches and rooms are invented.
"""

from adapters.data_aug.desk.conversation import synthesize

__all__ = ["synthesize"]
