"""The base beside the last stage, a line a test set: the table that a card opens with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def deltas(sets: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One dict a test set and field: n, F1 of the first and the last model in the first matching mode, and delta.

    `sets` is a report's: set -> model -> figures, base first. `parse_errors` are of both models. Fields of which the
    set has no gold are left out; sets that one model was evaluated on give nothing. When every set has one field, the
    last line is their plain average.
    """
    lines: list[dict[str, Any]] = []
    for name, models in sets.items():
        if len(models) < 2:
            continue
        (first, base), *_, (last, tuned) = models.items()
        mode = next(iter(base["metrics"]))
        for field, figures in base["metrics"][mode].items():
            if figures["gold"]:
                f1 = figures["f1"], tuned["metrics"][mode][field]["f1"]
                errors = [m.get("parse_errors") for m in (base, tuned)]
                line = {"set": name, "field": field, "mode": mode, "n": base["n"], "from": first, "to": last}
                lines.append(line | {"base": f1[0], "tuned": f1[1], "delta": f1[1] - f1[0], "parse_errors": errors})
    if len(lines) > 1 and len({line["set"] for line in lines}) == len(lines):
        means = {key: sum(line[key] for line in lines) / len(lines) for key in ("base", "tuned", "delta")}
        lines.append({**lines[0], "set": "average", "field": "", "n": sum(line["n"] for line in lines), **means,
                      "parse_errors": [None, None]})  # fmt: skip
    return lines


def table(lines: list[dict[str, Any]]) -> Table:
    """How `deltas` is shown. Raises IndexError for no lines."""
    head = lines[0]
    out = Table(title=f"F1, {head['from']} -> {head['to']}, {head['mode']}", title_justify="left")
    for column in ("set", "field"):
        out.add_column(column, overflow="fold")
    for column in ("n", head["from"], head["to"], "delta", "parse errors"):
        out.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        errors = "" if line["parse_errors"][0] is None else " -> ".join(f"{e:,}" for e in line["parse_errors"])
        scores = f"{line['base']:.4f}", f"{line['tuned']:.4f}", f"{line['delta']:+.4f}"
        out.add_row(line["set"], line["field"], f"{line['n']:,}", *scores, errors)
    return out
