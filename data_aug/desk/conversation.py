"""One conversation: what a reader wants, in how many turns it is said, and the order at the end."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

TITLES: Final = (
    ("The", "A", "Our", "Every"),
    ("Silver", "Quiet", "Northern", "Paper", "Borrowed", "Distant", "Green", "Second", "Salt", "Winter"),
    ("Harbour", "Orchard", "Clock", "Bridge", "Lantern", "Garden", "Map", "Violin", "Ferry", "Staircase"),
    ("", "", " of Halden", " at Noon", " in the Rain", " without a Name"),
)
BRANCHES: Final = ("Millgate", "Old Quay", "Fernhill", "Station Road", "Eastport", "Chapel Lane")
ROOMS: Final = ("Amber", "Birch", "Cedar", "Linden", "Rowan")
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
NUMBERS: Final = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


class Slot(NamedTuple):
    """A detail of an order: how the desk asks for it, and how a reader says it within a wish and alone."""

    question: str
    within: tuple[str, ...]
    alone: tuple[str, ...]


SLOTS: Final = {
    "title": Slot("Which title?", (' "{}"', " the book {}"), ("{}", "It is called {}.", '"{}", please')),
    "branch": Slot("Which branch?", (" at {}", " at the {} branch"), ("{}", "{}, please", "At {}.")),
    "room": Slot("Which room?", (" the {} room", " room {}"), ("{}", "The {} room.", "{}, please")),
    "day": Slot("Which day?", (" on {}", " for {}"), ("{}", "On {}.", "{} if you can")),
    "weeks": Slot("For how many weeks?", (" for {} weeks", " by {} more weeks"), ("{}", "{} weeks", "{}, please")),
    "hour": Slot("At what hour?", (" at {} o'clock",), ("{} o'clock", "At {}.", "{}, please")),
}
"""A number is said in words, and stands in the order as one."""
WISHES: Final = {
    "reserve": (("title", "branch", "day"), ("I would like to reserve", "Please put aside", "Can I reserve")),
    "renew": (("title", "weeks"), ("I want to renew", "Please renew", "Can I keep")),
    "room": (("room", "day", "hour"), ("I would like to book", "Please book me", "Is it possible to have")),
}
VAGUE: Final = {"title": " a book", "room": " a study room"}
THANKS: Final = ("Thank you!", "Thanks, that is all.", "Great, thanks.")
WELCOME: Final = "You are welcome."


def synthesize(n: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows 0 to n - 1 of a seed; row i depends on the seed and i alone."""
    for i in range(n):
        rng = random.Random(f"desk:{seed}:{i}")
        yield {"id": f"desk-{seed}-{i}", "messages": _conversation(rng)}


def _conversation(rng: random.Random) -> list[dict[str, str]]:
    action = rng.choice(list(WISHES))
    names, openings = WISHES[action]
    values = {name: _value(rng, name) for name in names}
    missing = rng.sample(names, rng.choice((0, 1, 1, 2, len(names))))
    opening = rng.choice(openings)
    said = {name: rng.choice(SLOTS[name].within).format(_spoken(values[name])) for name in names}
    wish = "".join(VAGUE.get(name, "") if name in missing else text for name, text in said.items())
    turns = [("user", f"{opening}{wish}{'.' if opening in openings[:2] else '?'}")]
    for name in (name for name in names if name in missing):
        turns.append(("assistant", SLOTS[name].question))
        turns.append(("user", rng.choice(SLOTS[name].alone).format(_spoken(values[name]))))
    turns.append(("assistant", json.dumps({"action": action, **values}, ensure_ascii=False)))
    if rng.random() < 0.15:
        turns += [("user", rng.choice(THANKS)), ("assistant", WELCOME)]
    return [{"role": role, "content": text} for role, text in turns]


def _value(rng: random.Random, name: str) -> str | int:
    if name == "title":
        first, second, third, fourth = (rng.choice(part) for part in TITLES)
        return f"{first} {second} {third}{fourth}"
    if name in ("weeks", "hour"):
        return rng.randint(2, 6) if name == "weeks" else rng.randint(8, 12)
    return rng.choice({"branch": BRANCHES, "room": ROOMS, "day": DAYS}[name])


def _spoken(value: str | int) -> str:
    return NUMBERS[value - 1] if isinstance(value, int) else value
