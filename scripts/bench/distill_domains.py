"""Four domain adapters into one: the distilled student beside its teachers, PEFT's merges, and joint SFT.

    python scripts/bench/distill_domains.py --data FOLDER --out FOLDER [--noise ocr]

FOLDER holds the IE corpora of docs/ie.md: bio (bc5cdr, ncbi), tweets (btc), science (scierc_ner), relations
(conll04_re). Teachers are recipes/distill_teacher.yaml with other data, the student is recipes/distill_domains.yaml,
and joint SFT is the teacher's recipe on all data, for as many optimizer steps as the student takes. The merges have the
teachers' rank; their weight and density are chosen on dev rows. bc5cdr and scierc_ner have no test file: half of their
dev ids is used to choose, the other half to test. A stopped script goes on where it was. The table is NAME.md.

To try other settings of the student, give them with --student, and a new --name: the teachers, the student's SFT stage
and all stored answers are taken over, and only the distillation is trained. Other numbers of steps need a new --name
too; joint SFT is then trained again, for as many.

With --noise a second student learns from damaged prompts whose teachers read the clean text, and it, the first student
and the teachers answer damaged test rows. Their labels are wanted once as they stood before the damage (clean), and
once as they stand in the text (follow).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).parents[2]
TEACHER, STUDENT = (ROOT / "recipes" / f"distill_{name}.yaml" for name in ("teacher", "domains"))
HALVES: Final = {"dev": 0.5, "test": 0.5}
TRAIN: Final[Mapping[str, list[dict[str, Any]]]] = {
    "bio": [
        {"path": "bc5cdr.train.jsonl", "name": "bc5cdr", "max_rows": 1200},
        {"path": "ncbi.train.jsonl", "name": "ncbi", "max_rows": 1200, "keep_empty": 0.5},
    ],
    "tweets": [{"path": "btc.train.jsonl", "name": "btc", "max_rows": 2400, "keep_empty": 0.5}],
    "science": [{"path": "scierc_ner.train.jsonl", "name": "scierc_ner"}],
    "relations": [{"path": "conll04_re.train.jsonl", "name": "conll04"}],
}
CORPORA: Final = {
    "bio": ("bc5cdr", "ncbi"),
    "tweets": ("btc",),
    "science": ("scierc_ner",),
    "relations": ("conll04_re",),
}
WITHOUT_TEST: Final = ("bc5cdr", "scierc_ner")
DENSITIES: Final[Sequence[Mapping[str, float]]] = ({"density": 0.3}, {"density": 0.7})
MERGES: Final[Mapping[str, Sequence[Mapping[str, float]]]]
MERGES = {"linear": [{}], "svd": [{}], "ties": DENSITIES, "dare_ties": DENSITIES}
POLICIES: Final = ("clean", "follow")


def main() -> None:
    """Train, merge, measure, and write the table."""
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    os.chdir(options.out)  # relative paths of the recipes, such as the run folder, lead here
    teachers = {
        domain: train(options, TEACHER, f"ie_{domain}", options.teacher_steps, TRAIN[domain]) for domain in TRAIN
    }
    models = {f"teacher {domain}": folder for domain, folder in teachers.items()}
    models["student"] = distilled(options, options.name, teachers)
    everything = [source for sources in TRAIN.values() for source in sources]
    steps = options.start_steps + options.steps
    models["joint SFT"] = train(options, TEACHER, f"joint_{steps}", steps, everything)
    measure = Measure(options)
    chosen = {how: best_merge(options, measure, how, teachers) for how in MERGES}
    models |= {f"merge {how}": Path(choice["folder"]) for how, choice in chosen.items()}
    table = measure(models, sets(options, "test"), base=True)
    result: dict[str, Any] = {"options": vars(options) | {"data": str(options.data.name), "out": ""}, "f1": table}
    result |= {"goals": goals(table), "merges": chosen}
    others = [("joint SFT", d) for d in TRAIN] + [(result["goals"]["best_merge"], d) for d in TRAIN]
    others += [(f"teacher {d}", d) for d in TRAIN]
    result["against"] = {f"{other}, {d}": paired(models[other], models["student"], f"test-{d}") for other, d in others}
    if options.noise:
        result["noise"] = hardened(options, measure, models, teachers)
    Path(f"{options.name}.json").write_text(json.dumps(result, indent=2, default=str))
    page = "\n".join(markdown(result))
    Path(f"{options.name}.md").write_text(page + "\n")
    print(page)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--teacher-steps", type=int, default=150)
    parser.add_argument("--start-steps", type=int, default=150, help="SFT steps of the student before it distills")
    parser.add_argument("--steps", type=int, default=300, help="distillation steps")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--test-rows", type=int, default=100, help="of each domain's corpora")
    parser.add_argument("--dev-rows", type=int, default=40)
    parser.add_argument("--noise", metavar="PRESET", help="ocr, document … : the experiment on damaged texts too")
    parser.add_argument("--every", action="append", default=[], metavar="KEY=VALUE", help="override of every recipe")
    parser.add_argument("--student", action="append", default=[], metavar="KEY=VALUE", help="override of the student")
    parser.add_argument("--name", default="student", help="the student's run; other settings need another name")
    return parser.parse_args()


def adapters(*words: str) -> None:
    """Run a command of the project, which says on this screen how far it is."""
    subprocess.run([sys.executable, "-m", "adapters", *words], check=True)


def train(options: argparse.Namespace, recipe: Path, name: str, steps: int, data: Sequence[Mapping[str, Any]]) -> Path:
    """A run of SFT; returns its adapter."""
    shape = [f"stages.0.max_steps={steps}", f"stages.0.batch_size={options.batch}", f"stages.0.data={json.dumps(data)}"]
    known = [f"name={name}", f"data_root={options.data}", "run_dir=runs", "evaluate=[]", *options.every]
    adapters("run", str(recipe), *known, *shape)
    return Path("runs") / name / "1-sft"


def distilled(options: argparse.Namespace, name: str, teachers: Mapping[str, Path], *more: str) -> Path:
    """The run of the student; returns its adapter."""
    data = json.dumps([{**source, "domain": domain} for domain, sources in TRAIN.items() for source in sources])
    known = {domain: str(folder) for domain, folder in teachers.items()}
    shape = [f"stages.0.max_steps={options.start_steps}", f"stages.1.max_steps={options.steps}"]
    shape += [f"stages.{n}.batch_size={options.batch}" for n in (0, 1)] + [f"stages.{n}.data={data}" for n in (0, 1)]
    shape += [f"stages.1.teachers={json.dumps(known)}", *options.every, *options.student, *more]
    own = Path("runs") / name
    if not own.exists() and all(key.startswith("stages.1.") for key in options.student):
        for start in Path("runs").glob("*/1-sft"):
            if (start.parent / "2-distill").is_dir() and steps_of(start.parent) == options.start_steps:
                shutil.copytree(start, own / start.name)  # of the same fingerprint: not trained again
                break
    adapters("run", str(STUDENT), f"name={name}", f"data_root={options.data}", "run_dir=runs", "evaluate=[]", *shape)
    return Path("runs") / name / "2-distill"


def steps_of(run: Path) -> int:
    """The optimizer steps of a run's first stage."""
    return int(json.loads((run / "recipe.json").read_text())["stages"][0]["max_steps"])


def sets(options: argparse.Namespace, part: str, damaged: Path | None = None) -> list[dict[str, Any]]:
    """A test set for each domain, of dev or test rows; the folder `damaged` holds damaged files of the same names."""
    rows = options.dev_rows if part == "dev" else options.test_rows
    out = []
    for domain, corpora in CORPORA.items():
        sources = []
        for corpus in corpora:
            file, most = file_of(corpus, part), max(1, rows // len(corpora))
            half = {"split": {"name": part, "fractions": HALVES}} if corpus in WITHOUT_TEST else {}
            sources.append({"path": str(damaged / file if damaged else file), "name": corpus, "max_rows": most, **half})
        name = f"{damaged.name if damaged else part}-{domain}"
        out.append({"name": name, "data": sources, "max_new_tokens": 96})
    return out


def file_of(corpus: str, part: str) -> str:
    """The file that holds the rows of a part."""
    return f"{corpus}.{'dev' if corpus in WITHOUT_TEST else part}.jsonl"


class Measure:
    """F1 of adapters by domain, in the task's main mode over all its fields. What is stored is not asked for again."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def __call__(
        self, models: Mapping[str, Path], tests: Sequence[Mapping[str, Any]], *, base: bool = False
    ) -> dict[str, dict[str, float]]:
        """Model -> domain -> F1."""
        named: list[tuple[str, Path | None]] = [*([("base", None)] if base else []), *models.items()]
        found = self.figures(named, tests)
        return {
            name: {test.rpartition("-")[2]: f1(by_model[label(folder)]) for test, by_model in found.items()}
            for name, folder in named
        }

    def figures(self, named: Sequence[tuple[str, Path | None]], tests: Sequence[Mapping[str, Any]]) -> Any:
        """The figures of `adapters eval`: test set -> label -> figures."""
        from adapters.backends import backend as make_backend
        from adapters.pipeline.evaluations import evaluations
        from adapters.pipeline.reading import task_of
        from adapters.pipeline.run import evaluate_all
        from adapters.recipe.load import load_recipe

        known = [f"data_root={self.options.data}", f"evaluate={json.dumps(list(tests))}", *self.options.every]
        file = load_recipe(STUDENT, known)
        backend, task = make_backend(file.recipe), task_of(file)
        labelled = [(label(folder), folder) for _, folder in named]
        return evaluate_all(labelled, evaluations(file, backend, task), task, [], Path.cwd(), backend)


def label(model: Path | None) -> str:
    """The folder of a model's answers: the name of its run, or of its merge."""
    return model.parent.name if model else "base"


def f1(figures: Mapping[str, Any]) -> float:
    """Micro F1 over all fields of the main mode."""
    from adapters.evaluation.metrics import main_mode
    from adapters.types import Counts

    fields = figures["metrics"][main_mode(figures["metrics"])].values()
    return sum((Counts(f["gold"], f["pred"], f["matched"]) for f in fields), Counts(0, 0, 0)).f()


def best_merge(options: argparse.Namespace, measure: Measure, how: str, teachers: Mapping[str, Path]) -> dict[str, Any]:
    """The merge of a kind with the best mean F1 on dev rows, among weights and densities."""
    tried = []
    for weight in (1 / len(teachers), 0.5, 1.0):
        for extra in MERGES[how]:
            folder = merged(options, how, weight, extra, teachers)
            name = f"{how} {weight:g} {extra.get('density', '')}"
            [by_domain] = measure({name: folder}, sets(options, "dev")).values()
            tried.append({"folder": folder, "weight": weight, **extra, "dev": sum(by_domain.values()) / len(by_domain)})
    return max(tried, key=lambda one: one["dev"]) | {"tried": len(tried)}


def merged(
    options: argparse.Namespace, how: str, weight: float, extra: Mapping[str, float], teachers: Mapping[str, Path]
) -> Path:
    """The folder of a merge of equal rank by PEFT's `add_weighted_adapter`; made once."""
    out = Path("merges") / "-".join([how, f"{weight:g}", *(f"{value:g}" for value in extra.values())])
    if (out / "merged" / "adapter_model.safetensors").is_file():
        return out / "merged"
    import torch
    from peft import PeftModel

    from adapters.backends.local.base_model import resolve
    from adapters.backends.local.model import load_base
    from adapters.recipe.load import load_recipe

    recipe = load_recipe(STUDENT, options.every).recipe
    names, folders = list(teachers), list(teachers.values())
    base = load_base(resolve(recipe.model.base, recipe.model.revision), recipe.model)
    model = PeftModel.from_pretrained(base, str(folders[0]), adapter_name=names[0])
    for name, folder in zip(names[1:], folders[1:], strict=True):
        model.load_adapter(str(folder), adapter_name=name)
    torch.manual_seed(recipe.seed)  # DARE drops values by chance
    rank = {"svd_rank": recipe.lora.rank} if how == "svd" else {}
    model.add_weighted_adapter(names, [weight] * len(names), "merged", combination_type=how, **rank, **extra)
    model.save_pretrained(str(out), selected_adapters=["merged"])
    return out / "merged"


def goals(table: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What the student keeps of the teachers' gain, and how it stands beside merges and joint SFT."""
    base, student, joint = table["base"], table["student"], table["joint SFT"]
    gains = {d: table[f"teacher {d}"][d] - base[d] for d in TRAIN}
    kept = {d: (student[d] - base[d]) / gain if gain else float("nan") for d, gain in gains.items()}
    means = {name: sum(row.values()) / len(row) for name, row in table.items()}
    best = max((name for name in table if name.startswith("merge ")), key=lambda name: means[name])
    return {
        "retained": kept,
        "retained_mean": sum(kept.values()) / len(kept),
        "retained_worst": min(kept.values()),
        "best_merge": best,
        "above_best_merge": means["student"] - means[best],
        "domains_above_joint": sum(student[d] > joint[d] for d in TRAIN),
        "means": means,
    }


def hardened(
    options: argparse.Namespace, measure: Measure, models: Mapping[str, Path], teachers: Mapping[str, Path]
) -> dict[str, Any]:
    """A student of damaged prompts and clean teachers beside all others on damaged test rows, by policy."""
    noise = f"stages.1.noise={{use: {options.noise}, share: 1.0, policy: clean, teacher: clean}}"
    named: dict[str, Path] = {k: v for k, v in models.items() if k.startswith("teacher ")}
    named["student"] = models["student"]
    named["hardened"] = distilled(options, f"{options.name}_{options.noise}", teachers, noise)
    out = {}
    for policy in POLICIES:
        folder = Path("damaged").resolve() / f"{options.noise}-{policy}"
        folder.mkdir(parents=True, exist_ok=True)
        for file in {file_of(corpus, "test") for corpora in CORPORA.values() for corpus in corpora}:
            if not (folder / file).is_file():
                how = ["--preset", options.noise, "--policy", policy, "--task", "ie"]
                adapters("data", "noise", str(options.data / file), *how, "-o", str(folder / file))
        table = measure(named, sets(options, "test", folder))
        against = {
            f"{other}, {d}": paired(named[other], named["hardened"], f"{folder.name}-{d}")
            for d in TRAIN
            for other in (f"teacher {d}", "student")
        }
        out[policy] = {"f1": table, "against": against}
    return out


def paired(before: Path, after: Path, test: str) -> dict[str, Any]:
    """How much higher the micro F1 of `after` is on a test set, with the 95 % paired bootstrap interval over rows."""
    import numpy as np

    from adapters.evaluation.metrics import change_intervals, f1_of_sums, main_mode
    from adapters.files import read_jsonl

    tables = []
    for model in (before, after):
        counts = [s["counts"] for s in read_jsonl(Path("eval") / label(model) / test / "samples.jsonl")]
        rows = [np.sum(list(of_row[main_mode(of_row)].values()), axis=0) for of_row in counts]
        tables.append(np.array(rows, dtype=float)[:, None, None])  # rows, seeds, fields, counts
    old, new = (float(f1_of_sums(table.sum(axis=(0, 1, 2)))) for table in tables)
    [interval] = change_intervals(tables[0], tables[1], f1_of_sums)
    return {"delta": new - old, "interval": interval}


def markdown(result: Mapping[str, Any]) -> Iterator[str]:
    """The tables as Markdown."""
    noise = result.get("noise") or {}
    for title, table in {"F1": result["f1"], **{f"F1, damaged, {p}": noise[p]["f1"] for p in noise}}.items():
        yield from ["", f"| {title} | {' | '.join(TRAIN)} | mean |", "|---|" + "---|" * (len(TRAIN) + 1)]
        for name, row in table.items():
            values = [row[d] for d in TRAIN]
            yield f"| {name} | {' | '.join(f'{v:.3f}' for v in values)} | {sum(values) / len(values):.3f} |"
    reached = result["goals"]
    yield from ["", "| goal | reached |", "|---|---|"]
    yield f"| retained, mean (0.9) | {reached['retained_mean']:.2f} |"
    yield f"| retained, worst domain (0.8) | {reached['retained_worst']:.2f} |"
    yield f"| above the best merge, {reached['best_merge']} (0.05) | {reached['above_best_merge']:+.3f} |"
    yield f"| domains above joint SFT (2 of 4) | {reached['domains_above_joint']} |"
    changes = {f"student less {name}": change for name, change in result["against"].items()}
    for policy, found in noise.items():
        changes |= {f"damaged, {policy}: hardened less {name}": c for name, c in found["against"].items()}
    yield from ["", "| F1, the same rows | change | 95 % |", "|---|---:|---|"]
    for name, change in changes.items():
        low, high = change["interval"]
        yield f"| {name} | {change['delta']:+.3f} | {low:+.3f} to {high:+.3f} |"


if __name__ == "__main__":
    main()
