"""Shards to one file: complete or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from heapq import merge as merge_sorted
from pathlib import Path
from typing import Any

from adapters.data.rows import read_records
from adapters.errors import UserError
from adapters.extraction import files
from adapters.extraction.extract import CHANGEABLE_EXTRACTION_KEYS, manifest, manifest_path
from adapters.files import write_json


def merge(parts: Sequence[Path], out: Path, *, fresh: bool = False) -> dict[str, Any]:
    """Merge the outputs of `--shard 1/n` … `n/n` in the order of the input. Returns the summed counts.

    Raises UserError when a shard is missing, unfinished, there twice or made with other settings, or lacks a row.
    """
    if out.suffix.lower() not in files.OUTPUTS:
        raise UserError(f"-o {out}: an output file ends in {' or '.join(files.OUTPUTS)}.")
    if not out.parent.is_dir():
        raise UserError(f"-o {out}: there is no folder {out.parent}.")
    if out.exists() and not fresh:
        raise UserError(f"{out} exists; choose another name, or replace it with --fresh.")
    if out.resolve() in {part.resolve() for part in parts}:
        raise UserError(f"{out} is one of the parts.")
    held = {part: _complete(part) for part in parts}
    first = next(iter(held.values()))
    for part, found in held.items():
        odd = [
            k
            for k, v in found["settings"].items()
            if k not in (*CHANGEABLE_EXTRACTION_KEYS, "shard") and first["settings"].get(k) != v
        ]
        if odd:
            raise UserError(f"{part} was made with other settings than {parts[0]}: {', '.join(odd)}.")
    count = int(first["settings"]["shard"].partition("/")[2])
    numbers = [int(found["settings"]["shard"].partition("/")[0]) for found in held.values()]
    counts = {found["settings"]["shard"].partition("/")[2] for found in held.values()}
    if len(counts) > 1:
        raise UserError(f"the parts are of different divisions: into {' and into '.join(sorted(counts))}.")
    if twice := sorted({n for n in numbers if numbers.count(n) > 1}):
        raise UserError(f"shard {twice[0]}/{count} was given twice.")
    if missing := [f"{n}/{count}" for n in range(1, count + 1) if n not in numbers]:
        raise UserError(f"{len(missing)} of {count} shards are missing: {', '.join(missing[:10])}.")
    total = first["settings"]["rows"]
    rows = merge_sorted(*(_rows(part) for part in parts), key=lambda row: row["row"])
    written = files.write(out, _in_order(rows, total), first["schema"])
    errors: dict[str, int] = {}
    for found in held.values():
        for kind, n in found["counts"]["errors"].items():
            errors[kind] = errors.get(kind, 0) + n
    sums = {name: sum(f["counts"][name] for f in held.values()) for name in ("rows", "records", "empty", "tokens")}
    merged = {**sums, "errors": errors}
    settings = {**first["settings"], "shard": "1/1"}
    manifest_of = {"complete": True, "settings": settings, "schema": first["schema"], "counts": merged}
    write_json(manifest_path(out), manifest_of)
    return {**merged, "rows": written}


def _complete(part: Path) -> dict[str, Any]:
    found = manifest(part)
    if found is None:
        raise UserError(f"{part} is no output of adapters extract: {manifest_path(part).name} is missing or damaged.")
    if not found.get("complete") or not part.is_file():
        raise UserError(f"{part} is not finished (shard {found['settings']['shard']}); run its command again.")
    return found


def _rows(part: Path) -> Iterator[dict[str, Any]]:
    for _, row in read_records(part):
        if not isinstance(row.get("row"), int):
            raise UserError(f"{part} is damaged: a row has no number.")
        yield dict(row)


def _in_order(rows: Iterator[dict[str, Any]], total: int) -> Iterator[dict[str, Any]]:
    expected = 1
    for row in rows:
        if row["row"] != expected:
            what = f"row {expected} is missing" if row["row"] > expected else f"row {row['row']} is there twice"
            raise UserError(f"the parts do not make up the input: {what}. Nothing was written.")
        if isinstance(row.get("record"), str):  # JSON text in a Parquet part of a task whose records have no columns
            row["record"] = json.loads(row["record"])
        expected += 1
        yield row
    if expected != total + 1:
        raise UserError(f"the parts hold {expected - 1} rows, the input {total}. Nothing was written.")
