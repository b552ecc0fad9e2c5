"""GRPO with vLLM's samples on a CPU: do its weights follow the training, and is the process left as it was?

    python scripts/vllm_grpo_check.py [--only llama,qwen3_5,resume,stale] [--out FOLDER]

Needs this project and vLLM's CPU build in one environment (docs/scaling.md), no GPU and no network. Tiny random models
are trained through the product, with vLLM in the trainer's process. Two things differ from a GPU: the check of the
device is told that a CPU will do, and vLLM keeps its weights as they are instead of packing them for the processor, as
packed ones cannot be replaced. Prints a line for each check and ends with 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]
SECONDS = 600
"""Time-out of a run: most of it is vLLM's start."""
STALE = "VLLM_CHECK_STALE"
"""Environment variable under which vLLM is sent the base without the adapter."""
GAP = "sampling/sampling_logp_difference/mean"
LIMIT = 0.02
"""Largest mean gap of a run that is in order. Measured: 0.002 with the tiny Llama, 0.004 with the tiny Qwen3.5."""


def adapters() -> None:
    """The command `adapters`, with vLLM's CPU build."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    import torch
    from vllm.model_executor.layers import utils

    def keep(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = keep

    from adapters.backends.local import vllm_sampling, vllm_weights
    from adapters.cli.main import app

    vllm_sampling.DEVICES = ("cuda", "cpu")
    if os.environ.get(STALE):
        vllm_weights._merged = lambda weight, layer: weight.detach()
    app()


class VllmCheck:
    """The checks, in a folder of their own."""

    def __init__(self, out: Path) -> None:
        from tiny import save_tiny_model

        self.out = out
        self.tokenizer = save_tiny_model(out / "tiny")

    def model(self, kind: str) -> Path:
        """A random model whose heads are wide enough for vLLM's attention, and whose answers an adapter can move."""
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen3_5ForCausalLM, Qwen3_5TextConfig

        tokenizer = AutoTokenizer.from_pretrained(self.tokenizer)
        shape: dict[str, Any] = {
            "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 1024,
            "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
        }  # fmt: skip
        linear: dict[str, Any] = {
            "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
            "linear_num_value_heads": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
        }  # fmt: skip
        torch.manual_seed(0)
        made: Any = (
            LlamaForCausalLM(LlamaConfig(**shape))
            if kind == "llama"
            else Qwen3_5ForCausalLM(Qwen3_5TextConfig(**shape, **linear))
        )
        made.get_input_embeddings().weight.data *= 5
        made.save_pretrained(self.out / kind)
        tokenizer.save_pretrained(self.out / kind)
        return self.out / kind

    def recipe(self, name: str, kind: str) -> Path:
        """The tests' recipe SFT -> GRPO -> evaluation, for vLLM."""
        from tiny import chain_recipe

        folder = self.out / name
        folder.mkdir()
        text = chain_recipe(folder, self.model(kind))
        text = text.replace(
            "    trl: {generation_kwargs: {max_new_tokens: 8}}\n", "    vllm: colocate\n    save_every: 1\n"
        )
        text = text.replace("max_completion_length: 160", "max_completion_length: 128\n    max_prompt_length: 256")
        (folder / "recipe.yaml").write_text(text.replace("max_steps: 2", "max_steps: 4"))
        return folder

    def start(self, folder: Path, *overrides: str, **env: str) -> subprocess.Popen[str]:
        """Start the command; its output goes to FOLDER/output.log."""
        path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200", "PYTHONPATH": path, **env}
        command = [sys.executable, __file__, "--adapters", "run", "recipe.yaml", *overrides]
        log = (folder / "output.log").open("a")
        return subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def finish(self, process: subprocess.Popen[str], folder: Path, code: int = 0) -> str:
        """What a run printed. Raises RuntimeError when it ends otherwise than with `code`."""
        try:
            process.wait(SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        text = (folder / "output.log").read_text(errors="replace")
        expect(process.returncode == code, f"exit code {process.returncode}, not {code}: {folder / 'output.log'}")
        return text

    def done(self, folder: Path) -> str:
        """The gap of a finished run. Raises RuntimeError for one that was not sampled by vLLM."""
        stage = folder / "runs" / "chain" / "2-grpo"
        figures = json.loads((stage / "manifest.json").read_text())["figures"]
        expect(figures["sampling"]["mode"] == "colocate", f"sampled otherwise: {figures['sampling']}")
        steps = [json.loads(line) for line in (stage / "log.jsonl").read_text().splitlines()]
        gaps = {step["step"]: step[GAP] for step in steps if GAP in step}
        expect(sorted(gaps) == [1, 2, 3, 4], f"steps {sorted(gaps)}")
        expect(max(gaps.values()) < LIMIT, f"gaps {gaps}")
        expect((folder / "runs" / "chain" / "report.json").is_file(), "not evaluated")
        return f"mean gap {max(gaps.values()):.4f} at most, in 4 steps"

    def llama(self) -> str:
        """SFT, GRPO with the weights sent at each step, evaluation in the same process."""
        folder = self.recipe("run-llama", "llama")
        self.finish(self.start(folder), folder)
        return self.done(folder)

    def qwen3_5(self) -> str:
        """The same with linear attention."""
        folder = self.recipe("run-qwen3_5", "qwen3_5")
        self.finish(self.start(folder), folder)
        return self.done(folder)

    def resume(self) -> str:
        """A killed stage goes on with vLLM, and with nothing else."""
        folder = self.recipe("run-resume", "llama")
        process, seal = self.start(folder), folder / "runs/chain/2-grpo.partial/trainer/checkpoint-2/seal.json"
        ends = time.monotonic() + SECONDS
        while not seal.is_file() and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        expect(seal.is_file(), "no checkpoint was written before the run ended")
        text = self.finish(self.start(folder, "stages.1.vllm=off"), folder, code=2)
        expect("2-grpo began with vllm: colocate" in text, "vllm: off was not refused")
        self.finish(self.start(folder), folder)
        return self.done(folder)

    def stale(self) -> str:
        """When vLLM gets the base alone, the stage stops."""
        folder = self.recipe("run-stale", "llama")
        # Only an adapter that has learnt something makes a difference.
        text = self.finish(self.start(folder, "stages.0.max_steps=40", **{STALE: "1"}), folder, code=1)
        said = "vLLM does not sample from the trained weights"
        expect(said in text, f"not stopped: {folder / 'output.log'}")
        return text[text.index(said) :].partition(". Try")[0]


def expect(fact: bool, otherwise: str) -> None:
    """Raise RuntimeError unless it is so."""
    if not fact:
        raise RuntimeError(otherwise)


def main() -> int:
    """Run the checks; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="llama,qwen3_5,resume,stale")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="vllm-check-"))
    out.mkdir(parents=True, exist_ok=True)
    checks, failed = VllmCheck(out), 0
    for name in arguments.only.split(","):
        began = time.monotonic()
        try:
            result = f"ok      {getattr(checks, name)()}"
        except (RuntimeError, OSError, KeyError, subprocess.TimeoutExpired) as error:
            result, failed = f"FAILED  {error}", 1
        print(f"{name:8} {result} ({time.monotonic() - began:.0f} s)", flush=True)
    return failed


if __name__ == "__main__":
    if sys.argv[1:2] == ["--adapters"]:
        del sys.argv[1]
        adapters()
    else:
        sys.exit(main())
