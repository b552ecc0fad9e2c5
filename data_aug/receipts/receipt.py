"""One receipt: what was bought, and a text that says it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, Final

from adapters.data_aug.data_files import read_data

SIGNS: Final = {"EUR": "\u20ac", "GBP": "\u00a3", "USD": "$"}


def synthesize(n: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows 0 to n - 1 of a seed; row i depends on the seed and i alone."""
    for i in range(n):
        rng = random.Random(f"receipts:{seed}:{i}")
        bought, when, printed = _purchase(rng)
        layout = rng.choice((_slip, _slip, _letter, _table))
        yield {"id": f"receipt-{seed}-{i}", "text": layout(rng, bought, _written(rng, when), printed), "object": bought}


def _purchase(rng: random.Random) -> tuple[dict[str, Any], date, str]:
    """The object of a receipt, its day, and its number as it is printed (perhaps not at all)."""
    words = read_data("receipts/words.json")
    trade = rng.choice(list(words["trades"]))
    when = date(2019, 1, 1) + timedelta(days=rng.randrange(2500))
    shape = rng.choice(words["numbers"])
    number = (
        shape.format(a=rng.randrange(100, 9999), b=rng.randrange(10, 99), y=when.year) if rng.random() < 0.7 else ""
    )
    goods = rng.sample(words["trades"][trade], rng.choice((1, 1, 2, 2, 3)))
    items = [
        {"name": name, "quantity": rng.choice((1, 1, 1, 2, 3, 4, 6)), "price": rng.randrange(50, 4000, 5) / 100}
        for name in goods
    ]
    bought: dict[str, Any] = {"shop": f"{rng.choice(words['owners'])} {trade}"}
    bought |= {"number": number.lstrip("#")} if number else {}
    bought |= {"date": when.isoformat(), "currency": rng.choice(list(SIGNS)), "items": items}
    bought["total"] = round(sum(item["quantity"] * item["price"] for item in items), 2)
    bought |= {"paid_by": rng.choice(("cash", "card"))} if rng.random() < 0.7 else {}
    return bought, when, number


def _written(rng: random.Random, when: date) -> str:
    text = when.strftime(rng.choice(read_data("receipts/words.json")["dates"]))
    return text.removeprefix("0") if text[2:3] == " " else text


def _slogan(rng: random.Random) -> str:
    return str(rng.choice(read_data("receipts/words.json")["slogans"]))


def _slip(rng: random.Random, bought: dict[str, Any], day: str, number: str) -> str:
    """A till's slip, a line for each item."""
    comma, total = rng.random() < 0.3, rng.choice(("TOTAL", "Total", "Sum", "To pay"))
    lines = [rng.choice((bought["shop"].upper(), bought["shop"]))]
    lines += [_slogan(rng)] if rng.random() < 0.3 else []
    lines.append(f"{rng.choice(('Receipt', 'No.', 'Bon'))} {number}  {day}" if number else day)
    for item in bought["items"]:
        count = f"{item['quantity']} x " if item["quantity"] > 1 or rng.random() < 0.5 else ""
        lines.append(f"{count}{item['name']} {_money(item['price'], comma)}")
    sign = SIGNS[bought["currency"]]
    amount = _money(bought["total"], comma)
    lines.append(f"{total} {rng.choice((sign + amount, amount + ' ' + bought['currency']))}")
    lines += [rng.choice((bought["paid_by"].upper(), f"Paid by {bought['paid_by']}"))] if "paid_by" in bought else []
    lines += [_slogan(rng)] if rng.random() < 0.3 else []
    return "\n".join(lines)


def _letter(rng: random.Random, bought: dict[str, Any], day: str, number: str) -> str:
    """A confirmation in sentences."""
    goods = [f"{item['quantity']} {item['name'].lower()} at {_money(item['price'], False)}" for item in bought["items"]]
    listed = ", ".join(goods[:-1]) + " and " * (len(goods) > 1) + goods[-1]
    start = f"{rng.choice(('Your order', 'Your purchase'))} {number} at {bought['shop']}".replace("  ", " ")
    paid = f" by {bought['paid_by']}" if "paid_by" in bought else ""
    return f"{start} on {day}: {listed}. You paid {_money(bought['total'], False)} {bought['currency']}{paid}."


def _table(rng: random.Random, bought: dict[str, Any], day: str, number: str) -> str:
    """A bill with columns."""
    comma, bar = rng.random() < 0.5, rng.choice((" | ", "; ", "   "))
    head = bar.join(filter(None, (bought["shop"], number, day)))
    rows = [bar.join((i["name"], str(i["quantity"]), _money(i["price"], comma))) for i in bought["items"]]
    foot = f"Sum{bar}{_money(bought['total'], comma)} {bought['currency']}"
    return "\n".join([head, *rows, foot, *([f"Payment: {bought['paid_by']}"] if "paid_by" in bought else [])])


def _money(amount: float, comma: bool) -> str:
    text = f"{amount:,.2f}"
    return text.translate(str.maketrans(",.", ".,")) if comma else text
