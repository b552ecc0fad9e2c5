"""Statements a second on one core: this package beside nlpaug, textnoisr and AugLy where they can be imported.

    python scripts/bench/bench_noise.py [FILE.jsonl] [--seconds 20]

    pip install nlpaug textnoisr augly nltk     # the others; those that are missing are left out, and said

Without a file it writes its own 350 statements. Only this package keeps the labelled spans; its figure includes
finding them. The others are set to change about as many characters as document/medium does; the table shows how many.
A line below the table says where the time of document/medium goes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

from rapidfuzz.distance import Levenshtein
from rich.console import Console
from rich.table import Table

from adapters.data_aug.noise import LEVELS, PRESETS, Invisible, Noise, compose, labels, noise_row, preset

PLACES = ("Northern", "Coastal", "Federal", "Royal", "Alpine", "Central", "Île-de-Mer", "São Vento", "Østland")
BODIES = ("Science Foundation", "Research Council", "Office of Scientific Affairs", "Fund for Efficient Energy")
THANKS = (
    "We thank the staff of the field office for their efficient help and two referees for useful comments.",
    "The funders had no role in study design, data collection and analysis, or preparation of the manuscript.",
    'A.B. was a fellow of the "Bright Offices" programme (2012–2015); 35% of the costs were borne by the authors.',
)


def write_statements(count: int = 350) -> list[dict[str, Any]]:
    """Invented statements with their funders and award ids."""
    rng = random.Random(0)
    rows = []
    for index in range(count):
        funders, clauses = [], []
        for _ in range(rng.choice((1, 1, 2, 2, 3))):
            name = f"{rng.choice(PLACES)} {rng.choice(BODIES)}"
            ids = [f"{rng.choice(('AB', 'EX', 'R'))}-{rng.randint(10, 99)}-{rng.randint(1000, 99999)}"]
            clauses.append(f"the {name} (grant No. {ids[0]})")
            funders.append({"funder_name": name, "awards": [{"award_ids": ids}]})
        text = f"This work was supported by {', and by '.join(clauses)}. " + rng.choice(THANKS)
        rows.append({"id": str(index), "funding_statement": text, "funders": funders})
    return rows


def contenders(rows: list[dict[str, Any]]) -> Iterator[tuple[str, Callable[[dict[str, Any]], object]]]:
    """Every noiser that is installed, ours first."""
    for name in PRESETS:
        for level in LEVELS if name == "document" else ("medium",):
            noise = preset(name, level)
            yield f"{name}/{level}, protect", lambda row, noise=noise: noise_row(row, noise)
    document = preset("document")
    yield "document/medium, follow", lambda row: noise_row(row, document, policy="follow")
    # what AugLy's fastest does, and no more: marks that cannot be seen, one after every hundredth character
    invisible = Noise((Invisible(rate=0.01),))
    yield "invisible marks alone, protect", lambda row: noise_row(row, invisible)
    try:
        import nlpaug.augmenter.char as nac

        ocr = nac.OcrAug(aug_char_p=0.05, aug_word_p=0.2)
        yield "nlpaug OcrAug", lambda row: ocr.augment(row["funding_statement"])
    except Exception as error:
        print(f"nlpaug: {error!r}", file=sys.stderr)
    try:
        from textnoisr import noise as textnoisr

        for actions in (("delete", "insert", "substitute"), ("delete", "insert", "substitute", "swap")):
            noiser = textnoisr.CharNoiseAugmenter(noise_level=0.07, actions=actions, seed=0)
            label = "textnoisr" + (" with swap" if "swap" in actions else "")
            yield label, lambda row, noiser=noiser: noiser.add_noise(row["funding_statement"])
    except Exception as error:
        print(f"textnoisr: {error!r}", file=sys.stderr)
    try:
        from augly import text as augly

        yield (
            "AugLy similar characters",
            lambda row: augly.replace_similar_chars(row["funding_statement"], aug_char_p=0.05, aug_word_p=0.2),
        )
        yield (
            "AugLy look-alikes",
            lambda row: augly.replace_similar_unicode_chars(row["funding_statement"], aug_char_p=0.05, aug_word_p=0.2),
        )
        yield "AugLy zero-width", lambda row: augly.insert_zero_width_chars(row["funding_statement"])
        yield (
            "AugLy zero-width, every 100th",
            lambda row: augly.insert_zero_width_chars(row["funding_statement"], cadence=100.0),
        )
    except Exception as error:
        print(f"AugLy: {error!r}", file=sys.stderr)


def text_of(result: Any) -> str:
    """The noisy text in whatever a noiser returns."""
    if hasattr(result, "noised"):
        return str(result.noised.text)
    return str(result[0] if isinstance(result, list) else result)


def changed(noiser: Callable[[dict[str, Any]], object], rows: list[dict[str, Any]]) -> float:
    """Edit distance between clean and noisy texts, for each clean character."""
    clean = [row["funding_statement"] for row in rows]
    noisy = [text_of(noiser(row)) for row in rows]
    return sum(map(Levenshtein.distance, clean, noisy)) / sum(map(len, clean))


def measure(
    noisers: dict[str, Callable[[dict[str, Any]], object]], rows: list[dict[str, Any]], seconds: float
) -> dict[str, float]:
    """Statements a second of each: the median over rounds in which each has its turn, so that all see the same load."""
    rates: dict[str, list[float]] = {name: [] for name in noisers}
    stop = time.perf_counter() + seconds
    while not any(rates.values()) or time.perf_counter() < stop:
        for name, noiser in noisers.items():
            start = time.perf_counter()
            for row in rows:
                noiser(row)
            rates[name].append(len(rows) / (time.perf_counter() - start))
    return {name: statistics.median(figures) for name, figures in rates.items()}


PARTS = {
    "drawing the edits": (labels, "noise_text"),
    "finding the labels": (labels, "find_spans"),
    "admitting edits": (compose, "admit"),
    "moving the labels": (compose, "carried"),
    "labels in the noisy text": (labels, "_surfaces"),
    "making edits": (compose, "apply"),
}


def shares(rows: list[dict[str, Any]], rounds: int = 20) -> dict[str, float]:
    """Shares of the parts in the time of document/medium; what one part calls counts there alone."""
    spent, inside = dict.fromkeys(PARTS, 0.0), [0.0]

    def clocked(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            inside.append(0.0)
            start = time.perf_counter()
            result = function(*args, **kwargs)
            whole = time.perf_counter() - start
            spent[part] += whole - inside.pop()
            inside[-1] += whole
            return result

        return timed

    noise = preset("document")
    with contextlib.ExitStack() as stack:
        for part, (module, name) in PARTS.items():
            stack.enter_context(mock.patch.object(module, name, clocked(part, getattr(module, name))))
        start = time.perf_counter()
        for row in rows * rounds:
            noise_row(row, noise)
        whole = time.perf_counter() - start
    return {**{part: seconds / whole for part, seconds in spent.items()}, "the rest": 1 - sum(spent.values()) / whole}


def main() -> None:
    """Run, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="JSONL with funding_statement and funders")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for the whole table")
    arguments = parser.parse_args()
    rows = write_statements()
    if arguments.file:
        rows = [json.loads(line) for line in Path(arguments.file).read_text(encoding="utf-8").splitlines() if line]
    characters = sum(len(row["funding_statement"]) for row in rows)
    median = statistics.median(len(row["funding_statement"]) for row in rows)
    noisers, damage = {}, {}
    for name, noiser in contenders(rows):
        try:
            damage[name] = changed(noiser, rows)
            noisers[name] = noiser
        except Exception as error:
            print(f"{name}: {error!r}", file=sys.stderr)
    rates = measure(noisers, rows, arguments.seconds)
    table = Table(title=f"{len(rows)} statements, median {median:.0f} characters")
    table.add_column("noise")
    for column in ("statements/s", "Mchar/s", "characters changed", "document/medium is faster by"):
        table.add_column(column, justify="right")
    for name, rate in rates.items():
        mega = rate * characters / len(rows) / 1e6
        ratio = rates["document/medium, protect"] / rate
        table.add_row(name, f"{rate:,.0f}", f"{mega:.2f}", f"{damage[name]:.1%}", f"{ratio:.1f}x")
    console = Console(width=100)
    console.print(table)
    parts = sorted(shares(rows).items(), key=lambda each: -each[1])
    console.print("document/medium: " + ", ".join(f"{part} {share:.0%}" for part, share in parts))
    console.print(
        f"Python {platform.python_version()}, {platform.machine()}, {cpu()}, {os.cpu_count()} cores, one used"
    )


def cpu() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or "unknown processor"


if __name__ == "__main__":
    main()
