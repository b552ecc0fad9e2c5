"""Synthetic receipts with exact labels, for the `records` task.

Shops, goods and numbers are invented. A row is `{"id", "text", "object"}`; the object's schema is
`adapters.rewards.records_schema.RECEIPT`. Labels: the shop's name in its usual case, however the receipt prints it; a
price is that of one piece; number and way of payment are left out where the receipt does not say them.
"""

from adapters.data_aug.receipts.receipt import synthesize

__all__ = ["synthesize"]
