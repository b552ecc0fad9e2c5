"""Merge the outputs of all shards of an extraction into one file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from heapq import merge as merge_sorted
from pathlib import Path
from typing import Any, Final

from adapters.data.rows import read_records
from adapters.errors import UserError
from adapters.extraction import files
from adapters.extraction.resumable import CHANGEABLE_EXTRACTION_KEYS, manifest
from adapters.files import manifest_path, write_json

SUMS: Final = ("rows", "records", "empty", "tokens", "chunks", "cut", "kept", "clipped", "unsure")
"""Counts of parts that add up."""


def merge(parts: Sequence[Path], out: Path, *, fresh: bool = False) -> dict[str, Any]:
    """Merge the outputs of `--shard 1/n` … `n/n`. Returns the summed counts. Raises UserError unless all fit."""
    files.check_output(out)
    if out.exists() and not fresh:
        raise UserError(f"{out} exists; choose another name, or replace it with --fresh.")
    if out.resolve() in {part.resolve() for part in parts}:
        raise UserError(f"{out} is one of the parts.")
    manifests = [complete(part) for part in parts]
    settings, schema = manifests[0]["settings"], manifests[0]["schema"]
    _check_settings(parts, [value["settings"] for value in manifests])
    rows = merge_sorted(*(_rows(part) for part in parts), key=lambda row: row["row"])
    shards = [value["counts"] for value in manifests]
    whole = settings["rows"] if not settings.get("only_kept") else None
    written = files.write(out, _in_order(rows, whole), schema)
    counts = summed(shards)
    described = {"settings": {**settings, "shard": "1/1"}, "paths": manifests[0].get("paths"), "schema": schema}
    write_json(manifest_path(out), {"complete": True, **described, "counts": counts})
    return {**counts, "rows": written} if whole is not None else counts


def summed(counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of parts added up."""
    there = {name for c in counts for name in c}
    whole: dict[str, Any] = {name: sum(c.get(name, 0) for c in counts) for name in SUMS if name in there}
    for name in ("errors", "matches", "left_out", "notes"):
        if name in there:
            whole[name] = dict(sum((Counter(c.get(name, {})) for c in counts), Counter[str]()))
    if mined := [c["steps"] for c in counts if "steps" in c]:  # of `mine`: counts of each step; none without rows
        steps = {name: [each[name] for each in mined] for name in mined[0]}
        whole["steps"] = {name: dict(sum(map(Counter, each), Counter[str]())) for name, each in steps.items()}
    return whole


def complete(part: Path) -> dict[str, Any]:
    """The manifest of a finished output. Raises UserError for any other file."""
    value = manifest(part)
    if value is None:
        if not part.is_file():
            raise UserError(f"there is no file {part}." if not part.exists() else f"{part} is a folder, not an output.")
        raise UserError(f"{part} is no output of adapters extract: {manifest_path(part).name} is missing or damaged.")
    if not value.get("complete") or not part.is_file():
        raise UserError(
            f"{part} is not finished (shard {value['settings']['shard']}): wait if its command still runs, else run it "
            "again."
        )
    return value


def _check_settings(parts: Sequence[Path], settings: Sequence[Mapping[str, Any]]) -> None:
    """Refuse parts that differ in more than their shard, and shards that are missing or given twice."""
    free = (*CHANGEABLE_EXTRACTION_KEYS, "shard")
    for part, own in zip(parts, settings, strict=True):
        if other := [name for name, value in own.items() if name not in free and settings[0].get(name) != value]:
            raise UserError(f"{part} was made with other settings than {parts[0]}: {', '.join(other)}.")
    if any("/" not in own["shard"] for own in settings):
        raise UserError("these are parts of --engine ray, in order: `cat` joins those in .jsonl.")
    shards = [own["shard"].partition("/") for own in settings]
    totals = sorted({total for _, _, total in shards})
    if len(totals) > 1:
        raise UserError(f"the parts are of different divisions: into {' and into '.join(totals)}.")
    numbers, count = Counter(int(number) for number, _, _ in shards), int(totals[0])
    if twice := sorted(n for n, times in numbers.items() if times > 1):
        raise UserError(f"shard {twice[0]}/{count} was given twice.")
    if missing := [f"{n}/{count}" for n in range(1, count + 1) if n not in numbers]:
        raise UserError(f"{len(missing)} of {count} shards are missing: {', '.join(missing[:10])}.")


def _rows(part: Path) -> Iterator[dict[str, Any]]:
    for _, row in read_records(part):
        if not isinstance(row.get("row"), int):
            raise UserError(f"{part} is damaged: a row has no number.")
        yield dict(row)


def _in_order(rows: Iterator[dict[str, Any]], total: int | None) -> Iterator[dict[str, Any]]:
    """The rows, checked to be all of `total`; None: some were left out on purpose."""
    count = 0
    for count, row in enumerate(rows, 1):
        if total is not None and row["row"] != count:
            fault = f"row {count} is missing" if row["row"] > count else f"row {row['row']} is there twice"
            raise UserError(f"the parts do not make up the input: {fault}. Nothing was written.")
        if isinstance(row.get("record"), str):  # JSON text in a Parquet part of a task whose records have no columns
            row["record"] = json.loads(row["record"])
        yield row
    if total is not None and count != total:
        raise UserError(f"the parts hold {count} rows, the input {total}. Nothing was written.")
