"""FSDP2 on two processes: the same losses, completions and adapters as whole copies, also after a kill.

accelerate shards on accelerators only; tests/fsdp_on_cpu.py makes it shard here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from launching import FSDP_ON_CPU, accelerate, difference, figures, lines, run, two_processes, weights
from test_dpo import pair_rows
from tiny import chain_recipe, save_tiny_model, write_jsonl

from adapters.backends import backend
from adapters.pipeline.plan import make_plan
from adapters.recipe.load import load_recipe

# Adam turns rounding near zero into steps of full size; and each of these tokens ends an answer, so that the two
# processes have answers of different lengths.
SAME = ["model.precision=fp32", "model.speedups=false", "evaluate=[]"]
ENDS = f"{{max_new_tokens: 12, eos_token_id: {list(range(120))}}}"
DPO = """  - kind: dpo
    data: [{path: pairs.jsonl}]
    batch_size: 4
    max_steps: 2
    learning_rate: 5e-3
    validation: 0.2
    trl: {optim: sgd}
"""
DYING = """
import glob, os
class Dying:
    def __call__(self, completion, example):
        saved = glob.glob("RUNS/fsdp/3-grpo.partial/trainer/checkpoint-2/seal.json")
        if saved and os.environ.get("RANK") == "1" and not os.path.exists("DIED"):
            open("DIED", "w").close()
            raise ValueError("the second process has had enough")
        return 1.0 if completion == example.completion else (len(completion) % 7) / 8
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe SFT -> DPO -> GRPO."""
    folder = tmp_path_factory.mktemp("fsdp")
    text = chain_recipe(folder, save_tiny_model(folder / "tiny-llama"))
    text = text.replace("learning_rate: 1e-2\n", "learning_rate: 0.5\n    trl: {optim: sgd}\n")
    text = text.replace("  - kind: grpo\n", f"{DPO}  - kind: grpo\n").replace("{max_new_tokens: 8}", ENDS)
    text = text.replace("[funding, {use: ./vowels.py:Vowels, weight: 0.5}]", "[./dying.py:Dying]")
    text = text.replace("    max_steps: 2\n    learning_rate: 1e-3", "    max_steps: 4\n    learning_rate: 1e-3")
    text = text.replace("    beta: 0.05\n", "    beta: 0.05\n    save_every: 1\n")
    (folder / "chain.yaml").write_text(text)
    write_jsonl(folder / "pairs.jsonl", pair_rows(10))
    (folder / "dying.py").write_text(DYING.replace("RUNS", str(folder / "runs")).replace("DIED", str(folder / "died")))
    return folder


def fsdp(place: Path, *overrides: str) -> list[str]:
    return accelerate(two_processes(place, "fsdp2"), str(FSDP_ON_CPU), "chain.yaml", *overrides)


def assert_sharded(place: Path, stages: int) -> None:
    """Both processes trained their halves of every tensor, in each stage."""
    for rank in (0, 1):
        records = lines(place / f"shards-{rank}.jsonl")
        assert len(records) == stages
        assert all(r["sharded"] == r["trained"] == 28 and r["frozen"] >= 20 and r["share"] == 0.5 for r in records)


def losses(stage: Path) -> list[float]:
    return [record["loss"] for record in lines(stage / "log.jsonl") if "loss" in record]


def train_alone(place: Path, number: int, start: Path | None) -> Path:
    """Train one stage in this process."""
    file = load_recipe(place / "chain.yaml", [*SAME, f"name=alone{number}"])
    made = backend(file.recipe)
    folder = place / f"alone{number}"
    folder.mkdir()
    made.train(make_plan(file, made).jobs[number], start, folder, lambda *_: None)
    return folder


@pytest.mark.slow
def test_sharded_weights_train_what_whole_copies_train(place: Path) -> None:
    ddp, sharded = (place / "runs" / name for name in ("ddp", "fsdp"))
    first = run(fsdp(place, *SAME, "name=fsdp"), place, SHARDS=str(place))
    assert "the second process has had enough" in first.stderr, first.stderr[-3000:]
    assert first.returncode != 0
    assert_sharded(place, 3)
    assert "2 processes on cpu, fp32, fsdp2" in first.stdout
    assert (sharded / "3-grpo.partial" / "trainer" / "checkpoint-2" / "seal.json").is_file()
    second = run(fsdp(place, *SAME, "name=fsdp"), place, SHARDS=str(place))
    assert second.returncode == 0, second.stderr[-3000:]
    assert_sharded(place, 4)
    launched = ["-m", "adapters", "chain.yaml", *SAME, "name=ddp"]
    whole = run(accelerate(two_processes(place, "cpu"), *launched), place)
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert "2 processes on cpu:0" in whole.stdout
    for stage in ("1-sft", "2-dpo", "3-grpo"):
        assert difference(ddp / stage, sharded / stage) < 1e-5
        assert losses(sharded / stage) == pytest.approx(losses(ddp / stage), abs=1e-5)
        assert {p.name for p in (sharded / stage).iterdir()} == {p.name for p in (ddp / stage).iterdir()}
    start = None
    for n, stage in enumerate(("1-sft", "2-dpo")):
        start = train_alone(place, n, start)
        assert difference(start, sharded / stage) < 1e-5
        assert losses(start) == pytest.approx(losses(sharded / stage), abs=1e-5)
    rollouts = [[lines(folder / "3-grpo" / f"rollouts-{rank}.jsonl") for rank in (0, 1)] for folder in (sharded, ddp)]
    texts = [[r["completion"] for rank in ranks for r in rank] for ranks in rollouts]
    assert texts[0] == texts[1], "completions come from the trained adapter"
    lengths = [[len(r["completion"]) for r in rank] for rank in rollouts[0]]
    assert lengths[0] != lengths[1]
    assert any(not weights(sharded / "3-grpo")[k].equal(v) for k, v in weights(sharded / "2-dpo").items())
    assert figures(sharded, "3-grpo")["first_kl"] == pytest.approx(0, abs=1e-6)
