"""Funding statements hidden in long documents of other text: how many an adapter finds, cut into windows and not.

    python scripts/bench/bench_long_texts.py RUN_OR_ADAPTER [-n 20] [--statements 4] [--characters 20000]
        [--windows 256,512,1024] [--passes 1,2] [--file test.jsonl] [--engine vllm] [--base B]

Each document is sentences that name no funder (declarations, remarks), with statements at even distances. Without a
file the statements are synthetic, of a seed that no recipe uses. The right answer is the merge of the statements'
labels. Compared are: each statement alone, which is the most that cutting can reach; the document as it is, which is
an error beyond the context; and windows. F1 is micro, in the balanced mode of the task's scorer.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import benchmarks

from adapters.data.rows import read_records
from adapters.data_aug.funding_statements import background, synthesize
from adapters.extraction import adapter_source, chunk_sizes, engines, extract, resumable
from adapters.extraction.chunks import Cutter
from adapters.extraction.engine import Engine, Options
from adapters.files import write_jsonl

SEED = 230_000
FIELDS = ("funder", "award_id")


def document(rng: random.Random, statements: Sequence[str], characters: int) -> str:
    """Statements at even distances in paragraphs of other text."""
    share = characters // (len(statements) + 1)
    parts = [other_text(rng, share)]
    for statement in statements:
        parts += [statement, other_text(rng, share)]
    return "\n\n".join(parts)


def other_text(rng: random.Random, characters: int) -> str:
    """Paragraphs of sentences that name no funder."""
    paragraphs, length = [[""]], 0
    while length < characters:
        sentence = background.other(rng)
        length += len(sentence) + 1
        paragraphs[-1].append(sentence)
        if rng.random() < 0.15:
            paragraphs.append([])
    return "\n\n".join(" ".join(filter(None, paragraph)) for paragraph in paragraphs if any(paragraph))


def read(source: adapter_source.Source, engine: Engine, rows: Sequence[Mapping], cutter: Cutter | None) -> list[dict]:
    """The output of an extraction of the rows."""
    with tempfile.TemporaryDirectory() as folder:
        write_jsonl(Path(folder, "in.jsonl"), rows)
        out = Path(folder, "out.jsonl")
        job = extract.prepare(source, Path(folder, "in.jsonl"), out, engine={"engine": "bench"})
        with resumable.open_or_resume(job, fresh=True):
            extract.run(job, lambda: engine, lambda *_: None, cutter)
        return [dict(row) for _, row in read_records(out)]


def f1(task: Any, golds: Sequence[Any], records: Sequence[Any], texts: Sequence[str]) -> dict[str, float]:
    """Micro F1 of each field; no record counts as an empty one."""
    sums: Counter[tuple[str, str]] = Counter()
    for gold, record, text in zip(golds, records, texts, strict=True):
        for field, counts in task.counts(gold, task.answer(record or []), text)["balanced"].items():
            sums[field, "matched"] += 2 * counts.matched
            sums[field, "all"] += counts.gold + counts.pred
    return {field: sums[field, "matched"] / max(sums[field, "all"], 1) for field in FIELDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter")
    parser.add_argument("-n", type=int, default=20, help="Documents.")
    parser.add_argument("--statements", type=int, default=4, help="Statements in each.")
    parser.add_argument("--characters", type=int, default=20_000, help="Other text in each.")
    parser.add_argument("--windows", default="256,512,1024")
    parser.add_argument("--passes", default="1,2")
    parser.add_argument("--file", type=Path, help="Rows of the task funding, to take statements from.")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--base")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    source = adapter_source.find(given.adapter, base=given.base)
    task, count = source.task, given.n * given.statements
    rows = [row for _, row in read_records(given.file)] if given.file else list(synthesize(2 * count, SEED))
    chosen = rng.sample([row for row in rows if row["funders"]], count)
    groups = [chosen[n : n + given.statements] for n in range(0, count, given.statements)]
    golds = [task.merge([task.gold(row) for row in group]) for group in groups]
    hidden = [[row["funding_statement"] for row in group] for group in groups]
    texts = [document(rng, statements, given.characters) for statements in hidden]
    options = Options(given.max_new_tokens)
    engine = engines.make(given.engine, source, options, print)
    sizes = chunk_sizes.load(given.engine, source, options)

    def show(name: str, rows: Sequence[Mapping[str, Any]], records: Sequence[Any], seconds: float) -> None:
        found = f1(task, golds, records, texts)
        failed, chunks = sum(row["error"] is not None for row in rows), sum(row["chunks"] for row in rows)
        values = " | ".join(f"{found[field]:.3f}" for field in FIELDS)
        print(f"| {name} | {values} | {failed} | {chunks:,} | {seconds:,.0f} |", flush=True)

    characters = sum(map(len, texts)) // len(texts)
    print(f"{given.n} documents of {characters:,} characters, {given.statements} statements in each")
    print(f"context: {sizes.context}\n\n| read as | F1 funders | F1 award ids | errors | prompts | seconds |")
    print("|---|---:|---:|---:|---:|---:|")
    start = time.perf_counter()
    alone = read(source, engine, [{task.text_field: text} for group in hidden for text in group], None)
    parts = [alone[n : n + given.statements] for n in range(0, count, given.statements)]
    merged = [task.merge([row["record"] for row in group if row["record"] is not None]) for group in parts]
    show("each statement alone", alone, merged, time.perf_counter() - start)
    plans: list[tuple[str, Cutter | None]] = [("documents as they are", None)]
    plans += [("cut where they must", Cutter(lambda: sizes, given.max_new_tokens))]
    for window in map(int, given.windows.split(",")):
        for passes in map(int, given.passes.split(",")):
            name = f"windows of {window:,} tokens" + f", {passes} passes" * (passes > 1)
            plans.append((name, Cutter(lambda: sizes, given.max_new_tokens, window, passes)))
    for name, cutter in plans:
        start = time.perf_counter()
        found = read(source, engine, [{task.text_field: text} for text in texts], cutter)
        show(name, found, [row["record"] for row in found], time.perf_counter() - start)
    print(f"\n{json.dumps(vars(given), default=str)}\n{benchmarks.machine()}")


if __name__ == "__main__":
    main()
