"""The end of every verb that fills an output file and continues it when started again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters.cli.errors import State
    from adapters.extraction.resumable import Resumable
    from adapters.types import Progress

Counts = dict[str, Any]


def filled(
    job: Resumable,
    state: State,
    run: Callable[[Progress], Mapping[str, Any]],
    *,
    fresh: bool,
    waiting: str = "starting the engine",
    done: Callable[[Any], Counts | None] | None = None,
    agree: Callable[[], None] = lambda: None,
) -> Counts:
    """The counts of an output: what is missing is done by `run` first, with progress on screen and a log beside it.

    `done` gives the counts of a finished one. `agree` asks the user before the work. Raises what both raise.
    """
    from adapters.console import note, progress, quiet
    from adapters.extraction.resumable import finished, open_or_resume

    with open_or_resume(job, fresh=fresh):
        if (counts := (done or finished)(job)) is not None:
            note(f"{job.out} is complete already; --fresh would do it again.")
            return counts
        agree()
        state.log = job.out.with_name(f"{job.out.name}.log")
        with quiet(state.log), progress(job.out.name, waiting) as bar:
            return dict(run(bar))
