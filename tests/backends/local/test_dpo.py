"""The DPO stage: pairs, plans and options at once; the chain through real TRL on a tiny model when asked for."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import pytest
from tiny import VOWELS, funding_rows, write_jsonl

from adapters.backends import adapter_folder
from adapters.backends.echo import EchoBackend
from adapters.errors import UserError
from adapters.pipeline.plan import Plan, make_plan
from adapters.pipeline.run import run_plan
from adapters.recipe.load import load_recipe

ADAPTERS = (sys.executable, "-m", "adapters")
ASK = [{"role": "system", "content": "Extract."}]
RECIPE = """name: pref
task: {use: funding, target: compact, system: Extract., user: "{statement}"}
model: {base: BASE}
trainer: echo
run_dir: RUNS
stages:
  - kind: sft
    data: [{path: train.jsonl}]
    batch_size: 8
    max_steps: 4
    learning_rate: 1e-2
    validation: 0.1
  - kind: dpo
    data: [{path: pairs.jsonl}]
    batch_size: 4
    max_steps: 8
    learning_rate: 5e-3
    validation: 0.2
"""


def pair_rows(n: int) -> list[dict]:
    out = []
    for row in funding_rows(n):
        answer = json.dumps([f["funder_name"] for f in row["funders"]])
        prompt = [*ASK, {"role": "user", "content": row["funding_statement"]}]
        chatty = f"Certainly! Here is what I found for you: {answer}"
        rejected = chatty if len(out) % 2 else [{"role": "assistant", "content": chatty}]
        out.append({"id": row["id"], "prompt": prompt, "chosen": answer, "rejected": rejected, "gold": row["funders"]})
    return out


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", funding_rows(26))
    write_jsonl(tmp_path / "pairs.jsonl", pair_rows(20))
    path = tmp_path / "pref.yaml"
    path.write_text(RECIPE.replace("RUNS", str(tmp_path / "runs")).replace("BASE", "tiny"))
    return path


def make(path: Path, *overrides: str) -> Plan:
    file = load_recipe(path, overrides)
    return make_plan(file, EchoBackend(file.recipe))


def test_a_pair_row_becomes_both_sides_of_an_example(mine: Path) -> None:
    job = make(mine).jobs[1]
    assert job.name == "2-dpo"
    assert (len(job.examples), len(job.validation)) == (16, 4)
    example = next(e for e in (*job.examples, *job.validation) if e.id == "r0")
    assert example.completion == '["National Science Foundation"]'
    assert example.rejected == 'Certainly! Here is what I found for you: ["National Science Foundation"]'
    assert [m["role"] for m in example.prompt] == ["system", "user"]
    assert example.gold[0]["funder_name"] == "National Science Foundation"


def test_rows_of_the_task_may_carry_a_rejected_side(mine: Path) -> None:
    write_jsonl(mine.parent / "pairs.jsonl", [{**row, "rejected": "Sure!"} for row in funding_rows(20)])
    example = make(mine).jobs[1].examples[0]
    assert example.completion.startswith("[")
    assert example.rejected == "Sure!"


def test_both_sides_are_audited_and_none_is_cut(mine: Path) -> None:
    whole = make(mine).jobs[1]
    assert whole.tokens["rejected_max"] > whole.tokens["completion_max"]
    limit = int(max(len(e.rejected.split()) + sum(len(m["content"].split()) for m in e.prompt) for e in whole.examples))
    some = make(mine, f"stages.1.max_length={limit}").jobs[1]
    assert 0 < some.too_long < 20, "the longer, rejected side decides"
    assert some.too_long + len(some.examples) + len(some.validation) == 20
    assert {e.rejected for e in some.examples} <= {e.rejected for e in (*whole.examples, *whole.validation)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rejected": None}, "DPO learns from pairs, and row 'r0' has no rejected side"),
        ({"chosen": "x", "rejected": "x"}, "the same text"),
        ({"chosen": ""}, "chosen must be a text"),
        ({"prompt": []}, "prompt must be a text"),
        ({"prompt": [*ASK, {"role": "assistant", "content": "a"}]}, "ends with the assistant's own turn"),
        ({"chosen": [*ASK, {"role": "assistant", "content": "a"}]}, "without the prompt's messages"),
        ({"rejected": [{"role": "user", "content": "a"}]}, "message of the assistant"),
    ],
)
def test_rows_that_are_no_pairs_are_named(mine: Path, change: dict, text: str) -> None:
    # The task's own columns are there too: a row without `rejected` is an ordinary row of the task.
    rows = [{**b, **a} for a, b in zip(pair_rows(20), funding_rows(20), strict=True)]
    write_jsonl(mine.parent / "pairs.jsonl", [{**rows[0], **change}, *rows[1:]])
    with pytest.raises(UserError, match=text) as raised:
        make(mine)
    assert raised.value.at[:3] == ("stages", 1, "data")


def test_following_noise_is_refused(mine: Path) -> None:
    with pytest.raises(UserError, match=r"stages.1.*rewrites the chosen side only"):
        make(mine, "stages.1.noise={use: ocr, policy: follow}")


def test_a_missing_reference_is_named(mine: Path) -> None:
    with pytest.raises(UserError, match="a reference is start, base or an adapter's folder") as raised:
        make(mine, "stages.1.reference=nowhere")
    assert raised.value.at == ("stages", 1, "reference")


def test_the_echo_backend_runs_the_chain(mine: Path) -> None:
    file = load_recipe(mine)
    backend = EchoBackend(file.recipe)
    made = make_plan(file, backend)
    run_plan(made, backend)
    held = adapter_folder.manifest(made.folder / "2-dpo")
    assert held["reference"] == "start"
    assert held["stage"]["beta"] == 0.1
    assert all(job.is_complete(start) for job, start in zip(made.jobs, [None, made.jobs[0].folder], strict=True))
    # Another rejected side is another stage, although prompts and targets are the same.
    write_jsonl(mine.parent / "pairs.jsonl", [{**row, "rejected": "Sure!"} for row in pair_rows(20)])
    assert make(mine).jobs[1].fingerprint != made.jobs[1].fingerprint


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"beta": 0.2}, "set stages.0.beta instead"),
        ({"max_length": 5}, "set stages.0.max_length instead"),
        ({"precompute_ref_log_probs": False}, "decided by the run itself"),
        ({"sync_ref_model": True}, "decided by reference"),
        ({"num_generations": 4}, "DPOConfig has no such option"),
        ({"loss_typ": "ipo"}, "Did you mean loss_type"),
        ({"loss_type": "sigmod"}, "Did you mean sigmoid"),
        ({"loss_type": ["sigmoid", "stf"]}, "Did you mean sft"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, "same length"),
        ({"loss_type": "exo_pair"}, "label_smoothing"),
        ({"f_divergence_type": "kl"}, "no such divergence"),
        ({"loss_type": "aot", "f_divergence_type": "forward_kl"}, "aot has no form with forward_kl"),
        ({"loss_type": "aot", "use_weighting": True}, "does not go with"),
    ],
)
def test_trl_options_are_checked_against_dpo(option: dict, text: str) -> None:
    pytest.importorskip("torch")
    from adapters.backends.local import trainer_args
    from adapters.recipe.stages import Dpo

    stage = Dpo(kind="dpo", data=[{"path": "x"}], learning_rate=1e-4, batch_size=2, trl=option)
    with pytest.raises(UserError, match=text):
        trainer_args.check_options(stage, ("stages", 0))


def test_good_dpo_options_pass() -> None:
    pytest.importorskip("torch")
    from adapters.backends.local import trainer_args
    from adapters.recipe.stages import Dpo

    for option in ({"loss_type": "ipo"}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}):
        stage = Dpo(kind="dpo", data=[{"path": "x"}], learning_rate=1e-4, batch_size=8, trl=option)
        trainer_args.check_options(stage, ("stages", 0))
    assert trainer_args.micro_batch(stage) == (4, 2), "a pair is two sequences"


def test_the_losses_are_those_of_trl(tiny_model: Path) -> None:
    """TRL names its losses only in the code that computes them."""
    import inspect

    from trl import DPOTrainer

    from adapters.backends.local import trainer_args

    source = inspect.getsource(DPOTrainer._compute_loss)
    assert all(f'loss_type == "{loss}"' in source for loss in trainer_args.LOSSES["dpo"])
    assert source.count("loss_type == ") == len(trainer_args.LOSSES["dpo"])


def test_context_and_end_of_both_sides_are_inference_s(tiny_model: Path) -> None:
    from adapters.backends.local import base_model
    from adapters.backends.local.dpo import _pairs
    from adapters.backends.local.encoder import Encoder
    from adapters.backends.local.tokenizer import load_tokenizer
    from adapters.data.preference import example
    from adapters.tasks.funding import FundingTask

    encoder = Encoder(load_tokenizer(base_model.resolve(str(tiny_model))), thinking=False)
    pairs = [example(FundingTask(), row, source="", id="x") for row in pair_rows(6)]
    for pair, row in zip(pairs, _pairs(encoder, pairs), strict=True):
        shown = encoder.tokenizer.apply_chat_template(
            list(pair.prompt), add_generation_prompt=True, tokenize=True, return_dict=False, enable_thinking=False
        )
        assert row["prompt_ids"] == shown
        for name, text in (("chosen_ids", pair.completion), ("rejected_ids", pair.rejected)):
            assert encoder.tokenizer.decode(row[name][:-1]) == text
            assert row[name][-1] == encoder.tokenizer.eos_token_id
        [lengths] = encoder.lengths([pair])
        assert lengths == tuple(len(row[k]) for k in ("prompt_ids", "chosen_ids", "rejected_ids"))


def chain(mine: Path, tiny_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "chain.yaml"
    text = RECIPE.replace("RUNS", str(tmp_path / "runs")).replace("BASE", str(tiny_model))
    path.write_text(text.replace("trainer: echo", "lora: {rank: 4, alpha: 8}"))
    return path


def log_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry for entry in lines if "rewards/margins" in entry]


@pytest.mark.slow
def test_sft_then_dpo_in_one_and_two_processes(mine: Path, tiny_model: Path, tmp_path: Path) -> None:
    from test_chain import launch, weights

    path = chain(mine, tiny_model, tmp_path)
    same = ["model.precision=fp32", "stages.0.trl.optim=sgd", "stages.0.learning_rate=0.5"]
    one = launch([*ADAPTERS, str(path), *same, "name=one"], tmp_path)
    assert one.returncode == 0, one.stderr[-3000:]
    folder = tmp_path / "runs" / "one" / "2-dpo"
    log = log_of(folder)
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert log[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert log[0]["rewards/chosen"] == pytest.approx(0, abs=1e-4)
    assert len(log) == 8
    assert log[-1]["rewards/margins"] > 0.05
    assert log[-1]["loss"] < log[0]["loss"]
    held = json.loads((folder / "manifest.json").read_text())
    assert held["figures"]["margin_first"] == pytest.approx(0, abs=1e-4)
    assert held["figures"]["margin_held_out"] > 0
    assert {f"{a}_{b}" for a in ("loss", "chosen", "rejected", "accuracy") for b in ("first", "last", "held_out")} <= {
        *held["figures"]
    }
    sft, dpo = weights(tmp_path / "runs/one/1-sft"), weights(folder)
    assert sft.keys() == dpo.keys()
    assert any(not sft[k].equal(dpo[k]) for k in sft), "DPO trained the adapter on"
    assert not {p.name for p in folder.iterdir()} & {"trainer", "ref", "training_args.bin", "README.md"}
    config = Path(__file__).parents[3] / "recipes" / "accelerate" / "ddp.yaml"
    command = [*ADAPTERS, "run", str(path), "--launch", str(config), *same, "name=two"]
    two = launch(command, tmp_path)
    assert two.returncode == 0, two.stderr[-3000:]
    both = log_of(tmp_path / "runs" / "two" / "2-dpo")
    assert [e["rewards/margins"] for e in both[:3]] == pytest.approx([e["rewards/margins"] for e in log[:3]], abs=2e-2)
    assert both[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert both[-1]["rewards/margins"] > 0.05


@pytest.mark.slow
def test_the_base_as_reference_and_a_wrong_start(mine: Path, tiny_model: Path, tmp_path: Path) -> None:
    from test_chain import launch

    path = chain(mine, tiny_model, tmp_path)
    done = launch([*ADAPTERS, str(path), "stages.1.reference=base", "stages.0.max_steps=30"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    first = log_of(tmp_path / "runs" / "pref" / "2-dpo")[0]
    assert abs(first["rewards/chosen"]) > 0.1, "the SFT model is measured against the base"
    # The assertion in the trainer's loop notices a reference that is not the start.
    (tmp_path / "wrong.py").write_text(
        "from adapters.backends.local import dpo, training\n"
        "dpo.set_reference = lambda model, _: training.set_reference(model, 'base')\n"
        "from adapters import main\n"
        f"main({str(path)!r})\n"
    )
    wrong = launch([sys.executable, "wrong.py", "name=wrong", "stages.0.max_steps=30"], tmp_path)
    assert wrong.returncode == 1
    assert "the reference is not the starting adapter" in wrong.stderr


@pytest.mark.slow
def test_grpo_then_dpo_killed_and_resumed(mine: Path, tiny_model: Path, tmp_path: Path) -> None:
    from test_chain import launch, weights

    path = chain(mine, tiny_model, tmp_path)
    text = path.read_text()
    grpo = """  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 2
    group_size: 2
    max_steps: 1
    learning_rate: 1e-3
    rewards: [./vowels.py:Vowels]
    max_completion_length: 160
    trl: {generation_kwargs: {max_new_tokens: 8}}
"""
    path.write_text(text.replace("  - kind: dpo\n", grpo + "  - kind: dpo\n    save_every: 1\n"))
    (tmp_path / "vowels.py").write_text(VOWELS)
    (tmp_path / "dying.py").write_text(
        "import os\n"
        "from adapters.backends.local import training\n"
        "real = training.Watch.on_step_end\n"
        "def dying(self, args, state, control, **kwargs):\n"
        "    if self.job.stage.kind == 'dpo' and state.global_step == 5:\n"
        "        os._exit(9)\n"
        "    return real(self, args, state, control, **kwargs)\n"
        "training.Watch.on_step_end = dying\n"
        "from adapters import main\n"
        f"main({str(path)!r})\n"
    )
    first = launch([sys.executable, "dying.py"], tmp_path)
    assert first.returncode == 9, first.stderr[-3000:]
    left = tmp_path / "runs/pref/3-dpo.partial/trainer"
    assert {p.name for p in left.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    assert not list(left.rglob("ref")), "a checkpoint holds one adapter"
    second = launch([*ADAPTERS, str(path)], tmp_path)
    assert second.returncode == 0, second.stderr[-3000:]
    assert second.stdout.count("done, skipped") == 2
    log = log_of(tmp_path / "runs/pref/3-dpo")
    assert [entry["step"] for entry in log] == [*range(1, 5), *range(5, 9)], "it did not start over"
    whole = launch([*ADAPTERS, str(path), "name=whole"], tmp_path)
    assert whole.returncode == 0, whole.stderr[-3000:]
    a, b = (weights(tmp_path / "runs" / name / "3-dpo") for name in ("pref", "whole"))
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-2, "as if it had not died"
    figures = json.loads((tmp_path / "runs/pref/3-dpo/manifest.json").read_text())["figures"]
    assert figures["loss_first"] == pytest.approx(math.log(2), abs=2e-2), "of the very first step, across the restart"
    assert os.path.exists(tmp_path / "runs/pref/2-grpo/adapter_model.safetensors")


@pytest.mark.slow
def test_the_shipped_agent_recipe_in_short(tiny_model: Path, tmp_path: Path) -> None:
    """Own trajectories and pairs through both stages and the evaluation, on the tiny model."""
    from test_chain import launch

    recipe = Path(__file__).parents[3] / "recipes" / "agent_smollm2.yaml"
    short = ["stages.0.data.0.n=24", "stages.0.max_steps=2", "stages.0.batch_size=4", "stages.0.max_length=4096"]
    short += ["stages.1.data.0.n=16", "stages.1.data.1.n=4", "stages.1.max_steps=2", "stages.1.max_length=4096"]
    short += ["stages.1.batch_size=4", "evaluate.0.data.0.n=4", "evaluate.0.max_new_tokens=8", "model.precision=fp32"]
    done = launch([*ADAPTERS, str(recipe), f"model.base={tiny_model}", f"run_dir={tmp_path}", *short], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    run_folder = tmp_path / "agent_smollm2"
    figures = json.loads((run_folder / "2-dpo" / "manifest.json").read_text())["figures"]
    assert figures["margin_first"] == pytest.approx(0, abs=1e-3)
    assert figures["loss_first"] == pytest.approx(math.log(2), abs=1e-3)
    report = json.loads((run_folder / "report.json").read_text())
    assert set(report["sets"]["unseen"]) == {"base", "1-sft", "2-dpo"}
    turn = report["sets"]["unseen"]["2-dpo"]["metrics"]["turn"]
    assert turn["parse_ok"]["gold"] == 4
    assert {"discipline", "same_action", "no_filler"} <= turn.keys()
    assert report["sets"]["unseen"]["2-dpo"]["length"]["p50"] > 0
