"""What labels are worth to a proxy: more of them, the unsure texts first, and a large model's instead of a person's.

    python scripts/bench/bench_proxies.py POOL TEST --out FOLDER [--sizes 64,128,256,512] [--more 2048] [--seeds 1,2,3]

POOL and TEST hold rows of the task `mine` about spans, of one question. A proxy is recipes/mine_minilm.yaml with other
data: three passes over the labels, but at least 120 steps and at most 400. Compared on the same test rows are:

- random: the first texts of the pool in the order of a seed, as `adapters annotate` draws them;
- unsure: from the smallest random set on, each larger one adds the texts that `adapters mine --uncertain` names;
- annotated, noisy: the strings that an annotator answers for the largest random set, through `adapters annotate`; the
  noisy one leaves out 30 % of them. It is a server on loopback that knows the gold spans.

A difference has a 95 % interval over test rows and seeds. A stopped script goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import benchmarks

from adapters.evaluation.comparison import changes_over_seeds
from adapters.files import read_jsonl, write_jsonl
from adapters.mining.questions import Question
from adapters.mining.sample import order
from adapters.pipeline.run_folder import RunFolder
from adapters.types import Row

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))
from chat_server import ChatServer  # noqa: E402

RECIPE = ROOT / "recipes" / "mine_minilm.yaml"
MODE = "word"
DROPPED = 0.3


class Experiment:
    """The proxies of one pool and test set, in a folder."""

    def __init__(self, pool: Sequence[Row], test: Path, out: Path) -> None:
        self.pool = {row["text"]: row for row in pool}
        self.test, self.out = test, out
        [self.question] = {row["instruction"] for row in pool}
        self.program = out / "program.json"
        step = {"span": "found", "instruction": self.question}
        self.program.write_text(json.dumps({"version": 1, "task": self.question, "steps": [step]}))

    def random(self, n: int, seed: int) -> list[str]:
        """The first texts in the order of a seed."""
        return sorted(self.pool, key=lambda text: order(text, seed))[:n]

    def proxy(self, name: str, rows: Sequence[Row], seed: int) -> RunFolder:
        """A proxy of these rows, evaluated."""
        data = self.out / f"{name}.jsonl"
        if not data.exists():
            write_jsonl(data, rows)
        steps = min(400, max(120, 3 * len(rows) // 16))
        test = [{"name": "test", "data": [{"path": str(self.test)}]}]
        settings = [f"name={name}", f"run_dir={self.out / 'runs'}", f"seed={seed}", f"evaluate={json.dumps(test)}"]
        stage = [f"stages.0.data={json.dumps([{'path': str(data)}])}", f"stages.0.max_steps={steps}"]
        self.adapters("run", str(RECIPE), *settings, *stage)
        return RunFolder.open(self.out / "runs" / name)

    def labelled(self, texts: Iterable[str]) -> list[Row]:
        """The rows of these texts, with the labels of people."""
        return [self.pool[text] for text in texts]

    def unsure(self, known: Sequence[str], proxy: RunFolder, n: int) -> list[str]:
        """The texts beyond the known ones that a proxy is least sure of."""
        rest, found = self.out / f"{proxy.path.name}.rest.jsonl", self.out / f"{proxy.path.name}.unsure.jsonl"
        if not found.exists():
            write_jsonl(rest, [{"text": text} for text in self.pool if text not in set(known)])
            target = self.out / f"{proxy.path.name}.mined.jsonl"
            asked = ["--uncertain", str(n), str(found)]
            self.adapters("mine", str(self.program), str(proxy.path), str(rest), "-o", str(target), *asked)
        return [row["text"] for row in read_jsonl(found)]

    def annotated(self, name: str, n: int, seed: int, dropped: float) -> list[Row]:
        """The random rows with the labels of an annotator that answers strings."""
        corpus, target = self.out / "pool.jsonl", self.out / f"{name}.answers.jsonl"
        write_jsonl(corpus, [{"id": row["id"], "text": text} for text, row in self.pool.items()])
        with ChatServer(answers(self.pool, self.question, dropped)) as server:
            endpoint = ["--endpoint", server.url, "--model", name]
            about = ["--span", self.question, "-n", str(n), "--seed", str(seed), *endpoint]
            self.adapters("annotate", str(corpus), "-o", str(target), *about, "--yes")
        return [row for row in read_jsonl(target) if not row["error"]]

    def adapters(self, *words: str) -> None:
        """Run a command of the project; its screen goes to a file."""
        with (self.out / "log.txt").open("a") as log:
            done = subprocess.run([sys.executable, "-m", "adapters", *words], stdout=log, stderr=log, check=False)
        if done.returncode:
            raise SystemExit(f"adapters {words[0]} failed; its screen is in {self.out / 'log.txt'}")


def answers(pool: Mapping[str, Row], question: str, dropped: float) -> dict[str, str]:
    """What an annotator says that knows the gold strings of each text, without a share of them."""
    out = {}
    for text, row in pool.items():
        kept = [text[a:b] for n, (a, b) in enumerate(row["gold"]) if chance(text, n) >= dropped]
        asked = Question(0, "", text, "span", question).messages[-1]["content"]
        out[str(asked)] = json.dumps({"spans": list(dict.fromkeys(kept))}, ensure_ascii=False)
    return out


def chance(text: str, n: int) -> float:
    """A number in [0, 1) that depends on a text and the number of a string in it."""
    return int(hashlib.sha256(f"{n}\n{text}".encode()).hexdigest()[:8], 16) / 2**32


def samples(run: RunFolder) -> list[Row]:
    """The answers of a proxy to the test rows."""
    return [dict(row) for row in run.sets["test"][-1].samples]


def main() -> None:
    """Train all proxies, and print the tables."""
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(list(read_jsonl(options.pool)), options.test.resolve(), options.out.resolve())
    sizes, most = options.sizes, options.sizes[-1]
    arms: dict[str, dict[int, list[list[Row]]]] = {"random": {}, "unsure": {}, "annotated": {}, "noisy": {}}
    for seed in options.seeds:
        first = known = experiment.random(sizes[0], seed)
        proxy = experiment.proxy(f"random_{sizes[0]}_{seed}", experiment.labelled(first), seed)
        for arm in ("random", "unsure"):
            arms[arm].setdefault(sizes[0], []).append(samples(proxy))
        for n in (*sizes[1:], *options.more):
            run = experiment.proxy(f"random_{n}_{seed}", experiment.labelled(experiment.random(n, seed)), seed)
            arms["random"].setdefault(n, []).append(samples(run))
        for n in sizes[1:]:
            known = [*known, *experiment.unsure(known, proxy, n - len(known))]
            proxy = experiment.proxy(f"unsure_{n}_{seed}", experiment.labelled(known), seed)
            arms["unsure"].setdefault(n, []).append(samples(proxy))
        for arm, dropped in (("annotated", 0.0), ("noisy", DROPPED)):
            name = f"{arm}_{most}_{seed}"
            run = experiment.proxy(name, experiment.annotated(name, most, seed, dropped), seed)
            arms[arm].setdefault(most, []).append(samples(run))
    print_tables(arms)


def print_tables(arms: Mapping[str, Mapping[int, Sequence[Sequence[Row]]]]) -> None:
    """F1 by size and arm, beside the random set of the same size."""
    rows = []
    for arm, by_size in arms.items():
        for n, runs in by_size.items():
            [change] = changes_over_seeds(arms["random"][n], runs, MODE)
            low, high = change.interval
            beside = "" if arm == "random" else f"{change.delta:+.3f} ({low:+.3f} to {high:+.3f})"
            share = "" if arm == "random" else f"{change.after / change.before:.0%}"
            rows.append((arm, f"{n:,}", f"{change.after:.3f}", beside, share))
    title = f"F1 of words on {len(arms['random'][min(arms['random'])][0]):,} test rows, {MODE} mode"
    benchmarks.markdown(title, ("labels", "texts", "F1", "against random", "share"), rows)
    print(f"\n{benchmarks.machine()}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=numbers, default=[64, 128, 256, 512])
    parser.add_argument("--more", type=numbers, default=[], help="larger random sets")
    parser.add_argument("--seeds", type=numbers, default=[1, 2, 3])
    return parser.parse_args()


def numbers(given: str) -> list[int]:
    """Comma-separated whole numbers."""
    return sorted(int(part) for part in given.split(","))


if __name__ == "__main__":
    main()
