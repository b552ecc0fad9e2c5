"""The same SFT, or GRPO, by this toolkit, a bare TRL script, LLaMA-Factory, ms-swift and axolotl.

    python scripts/bench/peers.py sft --out FOLDER recipes/funding_smollm2.yaml data_root=FOLDER
    python scripts/bench/peers.py grpo --out FOLDER recipes/quickstart.yaml

The rows are the first of the recipe's first stage, each id once: 16 for every step of SFT, each read once; in GRPO two
prompts for every step, and eight answers to each. All train the same model with the same LoRA, learning rate, rows a
step and arithmetic (the recipe's precision), on all cores, and no contender saves before the end, evaluates or packs.
The peers' templates are those of SmolLM2, so the recipe's base must be one. A peer is installed into an environment of
its own under --out, with this version of torch, or the one that it wants; one that cannot be is named with the last
line of its error. Each is run with 2, 4 and 8 rows a pass, and the fastest counts; the commands and settings of these
runs are printed. A first run of each fills the caches of files and is thrown away. A run is ended after --limit
seconds.

s/step is the mean over all steps but the first; the first step's end is timed from the command's start. Tokens are the
rows', prompts too, counted by the model's own template. In GRPO an answer has at most 64 tokens, which the untrained
model nearly always uses up, and the reward is the share of letters.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import benchmarks

BATCH, GROUP = 16, 8
PASSES = (2, 4, 8)
ANSWER = 64
"""Tokens of an answer in GRPO, at most."""
LETTERS = "sum(c.isalpha() for c in text) / max(1, len(text))"


@dataclass(frozen=True)
class Shape:
    """What all contenders train."""

    kind: str
    model: str
    rows: int
    steps: int
    rank: int
    alpha: int
    rate: float
    length: int
    precision: str
    tokens: float
    """Of a step, on average."""

    def settings(self, rows_a_pass: int) -> dict[str, Any]:
        """Arguments of transformers' trainer, which all peers take by these names."""
        return {
            "per_device_train_batch_size": rows_a_pass,
            "gradient_accumulation_steps": BATCH // rows_a_pass,
            "max_steps": self.steps,
            "learning_rate": self.rate,
            "lr_scheduler_type": "constant",
            "bf16": self.precision == "bf16",
            "use_cpu": True,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "seed": 42,
        }


class Ours:
    """This toolkit, from this checkout, in this environment."""

    name, kinds = "ours", ("sft", "grpo")
    packages: Sequence[str] = ()

    def prepare(self, shape: Shape, rows: Path, folder: Path, rows_a_pass: int) -> list[str]:
        """Write what the command needs into `folder`; the command."""
        stage = {
            "kind": shape.kind,
            "data": [{"path": str(rows)}],
            "max_steps": shape.steps,
            "batch_size": BATCH if shape.kind == "sft" else BATCH // GROUP,
            "micro_batch_size": rows_a_pass,
            "learning_rate": shape.rate,
            "schedule": "constant",
            "save_every": shape.steps,
        }
        if shape.kind == "sft":
            stage |= {"max_length": shape.length, "validation": 0}
        else:
            (folder / "letters.py").write_text(
                "class Letters:\n    def __call__(self, text, example):\n        return " + LETTERS + "\n"
            )
            stage |= {"group_size": GROUP, "max_completion_length": ANSWER, "temperature": 1.0, "beta": 0}
            stage |= {"rewards": [{"use": "./letters.py:Letters"}]}
        recipe = {
            "name": "peer",
            "task": "chat",
            "model": {"base": shape.model, "precision": shape.precision},
            "lora": {"rank": shape.rank, "alpha": shape.alpha},
            "stages": [stage],
        }
        (folder / "recipe.yaml").write_text(json.dumps(recipe))
        return ["-m", "adapters", "run", "recipe.yaml"]

    log = "runs/peer/1-*/log.jsonl"


TRL = """
import json, sys
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
o = json.load(open("options.json"))
rows = [json.loads(line)["messages"] for line in open(o["rows"])]
lora = LoraConfig(task_type="CAUSAL_LM", r=o["rank"], lora_alpha=o["alpha"], target_modules="all-linear")
model = AutoModelForCausalLM.from_pretrained(o["model"], dtype=torch.float32)
shared = dict(output_dir="out", gradient_checkpointing=False, disable_tqdm=True, **o["settings"])
if o["kind"] == "sft":
    data = Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in rows])
    args = SFTConfig(**shared, max_length=o["length"])
    trainer = SFTTrainer(model=model, args=args, train_dataset=data, peft_config=lora)
else:
    data = Dataset.from_list([{"prompt": row[:-1]} for row in rows])
    def letters(completions, **_):
        return [LETTERS for text in (c[-1]["content"] for c in completions)]
    args = GRPOConfig(**shared, num_generations=o["group"], max_completion_length=o["answer"], beta=0.0)
    trainer = GRPOTrainer(model=model, args=args, reward_funcs=letters, train_dataset=data, peft_config=lora)
trainer.train()
""".replace("LETTERS", LETTERS)


class BareTrl:
    """A script as TRL's documentation has it, in this environment."""

    name, log, kinds = "bare TRL", "log.txt", ("sft", "grpo")
    packages: Sequence[str] = ()

    def prepare(self, shape: Shape, rows: Path, folder: Path, rows_a_pass: int) -> list[str]:
        """See `Ours`."""
        options = {
            **vars(shape),
            "rows": str(rows),
            "settings": shape.settings(rows_a_pass),
            "group": GROUP,
            "answer": ANSWER,
        }
        (folder / "options.json").write_text(json.dumps(options))
        (folder / "script.py").write_text(TRL)
        return ["script.py"]


class LlamaFactory:
    """LLaMA-Factory. It has no GRPO."""

    name, log, kinds = "LLaMA-Factory", "log.txt", ("sft",)
    packages = ("llamafactory",)
    emptied = ("torchaudio",)
    """Imported whatever the rows are; an empty module takes its place."""

    def prepare(self, shape: Shape, rows: Path, folder: Path, rows_a_pass: int) -> list[str]:
        """See `Ours`."""
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        known = {"file_name": str(rows), "formatting": "sharegpt", "columns": {"messages": "messages"}}
        (folder / "dataset_info.json").write_text(
            json.dumps({"rows": {**known, "tags": {**tags, "system_tag": "system"}}})
        )
        recipe = {
            **{"stage": "sft", "do_train": True, "model_name_or_path": shape.model, "finetuning_type": "lora"},
            **{"lora_rank": shape.rank, "lora_alpha": shape.alpha, "lora_target": "all", "lora_dropout": 0},
            **{"dataset": "rows", "dataset_dir": ".", "template": "smollm2", "cutoff_len": shape.length},
            **{"output_dir": "out", "overwrite_output_dir": True, "disable_gradient_checkpointing": True},
            **shape.settings(rows_a_pass),
        }
        (folder / "recipe.yaml").write_text(json.dumps(recipe))
        return ["-m", "llamafactory.cli", "train", "recipe.yaml"]


class Swift:
    """ms-swift."""

    name, log, kinds = "ms-swift", "log.txt", ("sft", "grpo")
    packages = ("ms-swift", "msgspec")

    def prepare(self, shape: Shape, rows: Path, folder: Path, rows_a_pass: int) -> list[str]:
        """See `Ours`."""
        known: dict[str, Any] = {
            **{"model": shape.model, "model_type": "llama", "template": "chatml", "dataset": str(rows)},
            **{"tuner_type": "lora", "lora_rank": shape.rank, "lora_alpha": shape.alpha, "lora_dropout": 0},
            **{"target_modules": "all-linear", "torch_dtype": "float32", "output_dir": "out", "save_steps": 10**6},
            **{"fp16": False, "gradient_checkpointing": False, "split_dataset_ratio": 0, "max_length": shape.length},
            **shape.settings(rows_a_pass),
        }
        if shape.kind == "sft":
            return ["-m", "swift.cli.sft", *_options(known)]
        (folder / "letters.py").write_text(
            "from swift.rewards import ORM, orms\n\nclass Letters(ORM):\n    def __call__(self, completions, **_):\n"
            f"        return [{LETTERS} for text in completions]\n\norms['letters'] = Letters\n"
        )
        known |= {"rlhf_type": "grpo", "external_plugins": "letters.py", "reward_funcs": "letters", "beta": 0}
        known |= {"num_generations": GROUP, "max_completion_length": ANSWER, "temperature": 1.0}
        return ["-m", "swift.cli.rlhf", *_options(known)]


class Axolotl:
    """axolotl. Its GRPO samples with vLLM."""

    name, log, kinds = "axolotl", "log.txt", ("sft",)
    packages = ("axolotl",)

    def prepare(self, shape: Shape, rows: Path, folder: Path, rows_a_pass: int) -> list[str]:
        """See `Ours`."""
        settings = shape.settings(rows_a_pass)
        recipe = {
            **{"base_model": shape.model, "adapter": "lora", "lora_r": shape.rank, "lora_alpha": shape.alpha},
            **{"lora_target_linear": True, "sequence_len": shape.length, "output_dir": "out", "train_on_inputs": False},
            "datasets": [{"path": str(rows), "ds_type": "json", "type": "chat_template"}],
            **{"micro_batch_size": rows_a_pass, "gradient_accumulation_steps": BATCH // rows_a_pass},
            **{"max_steps": shape.steps, "learning_rate": shape.rate, "lr_scheduler": "constant"},
            **{"logging_steps": 1, "save_strategy": "no", "seed": settings["seed"], "optimizer": "adamw_torch"},
            **{"bf16": settings["bf16"], "fp16": False, "tf32": False, "gradient_checkpointing": False},
            # Triton's, which want a GPU.
            **dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"), False),
        }
        (folder / "recipe.yaml").write_text(json.dumps(recipe))
        return ["-m", "axolotl.cli.train", "recipe.yaml"]


def _options(known: Mapping[str, Any]) -> list[str]:
    return [
        word
        for name, value in known.items()
        for word in (f"--{name}", str(value).lower() if value in (True, False) else str(value))
    ]


CONTENDERS = (Ours(), BareTrl(), LlamaFactory(), Swift(), Axolotl())
LOSS = re.compile(r"""['"]loss['"]: *['"]?(-?[\d.]+(?:e[+-]?\d+)?|nan|inf)""", re.IGNORECASE)


def main() -> None:
    """Install, run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("kind", choices=("sft", "grpo"))
    arguments.add_argument("recipe", type=Path)
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments.add_argument("--out", type=lambda text: Path(text).resolve(), required=True)
    arguments.add_argument("--steps", type=int, default=8)
    arguments.add_argument("--only", nargs="+", choices=[c.name for c in CONTENDERS])
    arguments.add_argument("--passes", nargs="+", type=int, default=PASSES, help="rows a pass")
    arguments.add_argument("--limit", type=int, default=1200, help="seconds of a run, at most")
    options = arguments.parse_intermixed_args()
    if options.steps > 199:
        arguments.error("--steps: at most 199; of more, ours logs not every one")
    options.out.mkdir(parents=True, exist_ok=True)
    rows = options.out / "rows.jsonl"
    shape = write_rows(options.kind, options.recipe, options.overrides, options.steps, rows)
    table, missing, said = [], [], list[str]()
    for contender in CONTENDERS:
        if options.kind not in contender.kinds or (options.only and contender.name not in options.only):
            continue
        tried, failed = {}, dict[int, str]()
        try:
            python = installed(contender, options.out)
            short = Shape(**{**vars(shape), "steps": 2})
            run(contender, python, short, rows, options.out, options.passes[-1], options.limit)
        except RuntimeError as error:
            failed[0] = str(error)
        for n in options.passes if not failed else ():
            try:
                tried[n] = run(contender, python, shape, rows, options.out, n, options.limit)
            except RuntimeError as error:
                failed[n] = str(error)
        for n, error in failed.items():
            missing.append(f"{contender.name}{f', {n} rows a pass' if n else ''}: {error}")
            print(missing[-1], file=sys.stderr, flush=True)
        if not tried:
            continue
        best = min(tried, key=lambda n: tried[n]["step"])
        table.append((contender.name, version_of(contender, python), best, tried[best]))
        print(contender.name, tried, file=sys.stderr, flush=True)
        said.append(as_run(contender, shape, rows, options.out, best))
    show(shape, table)
    print("\n".join(["", *said]))
    print("\n".join(["", *missing, "", benchmarks.machine()]))


def as_run(contender: Any, shape: Shape, rows: Path, out: Path, rows_a_pass: int) -> str:
    """The command of a contender's counted run, and the settings that it reads."""
    folder = out / "work" / contender.name.replace(" ", "-")
    command = contender.prepare(shape, rows, folder, rows_a_pass)
    files = [folder / name for name in ("recipe.yaml", "options.json")]
    settings = [file.read_text() for file in files if file.is_file()]
    return f"{contender.name}: `python {' '.join(command)}` {' '.join(settings)}".replace(str(out), "OUT")


def show(shape: Shape, table: Sequence[tuple[str, str, int, Mapping[str, float]]]) -> None:
    """The table, in ratios of ours where it ran."""
    ours = next((found["step"] for name, _, _, found in table if name == Ours.name), None)
    lines = [
        (
            *(f"{name} {version}", rows, f"{found['step']:.2f}"),
            *([f"{shape.tokens / found['step']:,.0f}"] if shape.kind == "sft" else []),
            f"{found['step'] / ours:.2f}x" if ours else "",
            *(f"{found['peak_gb']:.1f}", f"{found['first']:.0f}", f"{found['loss']:.3f}"),
        )
        for name, version, rows, found in table
    ]
    speed = ("s/step", *(["tokens/s"] if shape.kind == "sft" else []), "times ours")
    columns = ("contender", "rows a pass", *speed, "peak GB", "s to the first step", "last loss")
    benchmarks.markdown(f"{shape.kind.upper()}, {shape.steps} steps of {BATCH}", columns, lines)


def write_rows(kind: str, recipe: Path, overrides: Sequence[str], steps: int, out: Path) -> Shape:
    """Write the first rows of the recipe's first stage as messages; what is trained on them."""
    from adapters.backends import backend as make_backend
    from adapters.backends.local.encoder import Encoder
    from adapters.backends.local.model import precision
    from adapters.pipeline.plan import make_plan
    from adapters.recipe.load import load_recipe

    file = load_recipe(recipe, overrides)
    backend = make_backend(file.recipe)
    job = make_plan(file, backend).jobs[0]
    # `repeat` has copies side by side, which a pass of ours would compute once; nor would ours train GRPO on rows whose
    # gold answer is longer than a completion may be.
    encoder: Encoder = backend.encoder
    once = {e.id: e for e in job.examples}.values()
    fitting = (e for e in once if kind == "sft" or encoder.lengths([e])[0].completion <= ANSWER)
    picked = list(islice(fitting, steps * BATCH))
    messages = [[*e.prompt, {"role": "assistant", "content": e.completion}] for e in picked]
    out.write_text("".join(json.dumps({"messages": row}) + "\n" for row in messages))
    tokens = sum(len(p) + len(c) for p, c, *_ in encoder.tokens(picked))
    lora = file.recipe.lora
    known = (kind, str(backend.base.load), len(picked), steps, lora.rank, lora.alpha, job.stage.learning_rate)
    return Shape(*known, job.stage.max_length, precision(file.recipe.model), tokens / steps)


def installed(contender: Any, out: Path) -> Path:
    """The Python that has a contender. Raises RuntimeError with the last line of what pip says."""
    if not contender.packages:
        return Path(sys.executable)
    from importlib.metadata import version

    place = out / "environments" / contender.packages[0]
    python = place / "bin" / "python"
    if (place / "installed").is_file():
        return python
    shutil.rmtree(place, ignore_errors=True)
    torch = f"torch=={version('torch').partition('+')[0]}"
    pip = [str(python), "-m", "pip", "install", "-q"]
    _install(sys.executable, "-m", "venv", str(place))
    _install(*pip, torch)
    try:
        _install(*pip, torch, *contender.packages)
    except RuntimeError:
        _install(*pip, *contender.packages)
    # The index has both for torch with CUDA only; where they do not load, transformers does not either. Rows are text.
    _install(str(python), "-m", "pip", "uninstall", "-q", "-y", "torchvision", "torchaudio")
    for name in getattr(contender, "emptied", ()):
        (next(place.glob("lib/python*/site-packages")) / f"{name}.py").touch()
    (place / "installed").touch()
    return python


def _install(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"not installed: {(done.stderr.strip().splitlines() or ['nothing was said'])[-1]}")


def version_of(contender: Any, python: Path) -> str:
    """The installed versions of a peer and of its torch."""
    name = contender.packages[0] if contender.packages else {"ours": "extraction-adapters"}.get(contender.name, "trl")
    code = f"from importlib.metadata import version as v; print(v({name!r}) + ', torch ' + v('torch'))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True).stdout.strip()


def run(
    contender: Any, python: Path, shape: Shape, rows: Path, out: Path, rows_a_pass: int, limit: int
) -> dict[str, float]:
    """One training: seconds a step and to the first one, last loss, peak memory. Raises RuntimeError when it fails."""
    folder = out / "work" / contender.name.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [str(python), *contender.prepare(shape, rows, folder, rows_a_pass)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(os.cpu_count()), "PYTHONUNBUFFERED": "1"}
    env |= {"AXOLOTL_DO_NOT_TRACK": "1"}  # it waits for a server that is not there
    ends, losses, start = [], list[float](), time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                losses = losses_of(folder, contender.log)
                ends += [time.perf_counter() - start] * (len(losses) - len(ends))
                if pid:
                    break
                if time.perf_counter() - start > limit:
                    raise RuntimeError(f"not done after {limit} s, {len(losses)} of {shape.steps} steps")
                time.sleep(0.1)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if os.waitstatus_to_exitcode(status) or len(losses) < shape.steps:
        said = (folder / "log.txt").read_text(errors="replace").strip().splitlines() or ["nothing was said"]
        errors = [line for line in said if re.match(r"[\w.]*(Error|Exception)\b", line)]
        raise RuntimeError(f"it fails: {(errors or said)[-1]}")
    last = losses[-max(1, shape.steps // 4) :]
    return {
        "step": (ends[-1] - ends[0]) / max(1, shape.steps - 1),
        "first": ends[0],
        "loss": sum(last) / len(last),
        "peak_gb": usage.ru_maxrss / 1e6,
    }


def losses_of(folder: Path, log: str) -> list[float]:
    """The losses that a log has so far, one for each step."""
    found = sorted(folder.glob(log))
    return [float(text) for text in LOSS.findall(found[0].read_text(errors="replace"))] if found else []


if __name__ == "__main__":
    main()
