"""Distillation of a tiny model: what is refused before it trains, and whole stages when asked for."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.trainer.distillation_trainer as trl_distillation
from launching import accelerate, difference, lines, run, two_processes, weights
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import ie_rows, save_lively_model, write_jsonl
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaModel

from adapters.backends.adapter_folder import WEIGHTS
from adapters.backends.base_files import WHEELS, Wheel
from adapters.backends.local import base_model, distill, sharding
from adapters.backends.local.distill import REPLACED, RoutedLoss
from adapters.backends.local.routed_teacher import routes, teachers_beside
from adapters.errors import UserError
from adapters.files import sha256

ADAPTERS = (sys.executable, "-m", "adapters")

RECIPE = """name: student
task: {use: ie, target: compact, missing_answer: whole, system: Extract., ner_user: "{labels} {text}"}
model: {base: BASE}
lora: {rank: 4, alpha: 8}
run_dir: RUNS
stages:
  - kind: distill
    data:
      - {path: bio.jsonl, domain: bio}
      - {path: news.jsonl, domain: news}
    teachers: {bio: teachers/bio, news: teachers/news}
    batch_size: 4
    micro_batch_size: 2
    max_steps: 6
    save_every: 2
    learning_rate: 2e-2
    schedule: constant
    top_k: 32
    max_completion_length: 12
"""


def random_adapter(tiny: Path, seed: int) -> PeftModel:
    """A random LoRA adapter, far enough from the base for its answers to be others."""
    torch.manual_seed(seed)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), lora)


@pytest.fixture
def mine(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lively = save_lively_model(tiny_model, tmp_path / "lively")
    for seed, name in enumerate(("bio", "news")):
        write_jsonl(tmp_path / f"{name}.jsonl", ie_rows(8, name))
        random_adapter(lively, seed).save_pretrained(tmp_path / "teachers" / name)
    path = tmp_path / "student.yaml"
    path.write_text(RECIPE.replace("BASE", str(lively)).replace("RUNS", str(tmp_path / "runs")))
    return path


def planned(path: Path, *overrides: str) -> None:
    """What `check` does with a distilled stage."""
    from adapters.backends import backend as make_backend
    from adapters.pipeline.plan import make_plan
    from adapters.recipe.load import load_recipe

    file = load_recipe(path, overrides)
    backend = make_backend(file.recipe)
    backend.ready(make_plan(file, backend).jobs)


def test_a_teacher_that_cannot_judge_is_refused_before_anything_trains(mine: Path) -> None:
    file, config = (mine.parent / "teachers" / "bio" / name for name in (WEIGHTS, "adapter_config.json"))
    whole, said = load_file(file), json.loads(config.read_text())
    planned(mine)

    def refused(text: str) -> None:
        with pytest.raises(UserError, match=text) as raised:
            planned(mine)
        assert raised.value.at == ("stages", 0, "teachers")
        assert "\n" not in str(raised.value)

    first = next(key for key in whole if "lora_A" in key)
    save_file({**whole, first: torch.cat([whole[first]] * 2, dim=1)}, file)
    refused("'bio' .* does not fit: 1 of its tensors")
    save_file({**whole, first: whole[first] * float("nan")}, file)
    refused("'bio' .* 1 tensors are not finite")
    save_file(whole, file)
    file.write_bytes(file.read_bytes()[:1000])
    refused("'bio' .* is damaged")
    save_file(whole, file)
    config.write_text(json.dumps({**said, "target_modules": [*said["target_modules"], "lm_head"]}))
    refused("'bio' .* changes the embeddings or the head")
    config.write_text(json.dumps({**said, "target_modules": ["nothing"]}))
    refused("'bio' .* does not fit: Target modules")


def test_teachers_of_a_wheel_are_checked_before_anything_trains(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lively, file = mine.parent / "lively", mine.parent / "teachers" / "bio" / WEIGHTS
    monkeypatch.setitem(WHEELS, "lively==1", Wheel("", "", str(lively), "llama"))
    monkeypatch.setattr(base_model, "_from_wheel", lambda *_: lively)
    planned(mine, "model.base=pypi:lively==1")
    whole = load_file(file)
    save_file({name: torch.cat([t] * 2, dim=1) for name, t in whole.items()}, file)
    with pytest.raises(UserError, match=r"'bio' .* does not fit: \d+ of its tensors") as raised:
        planned(mine, "model.base=pypi:lively==1")
    assert raised.value.at == ("stages", 0, "teachers")


def test_another_trl_or_class_is_refused_before_anything_trains(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(trl_distillation, REPLACED, lambda student, teacher: None)
        with pytest.raises(UserError, match="does not compute its distillation loss as") as raised:
            planned(mine)
    assert raised.value.at == ("stages", 0, "kind")
    monkeypatch.setattr(LlamaForCausalLM, "forward", lambda self, input_ids: None)
    with pytest.raises(UserError, match="does not say which logits it keeps") as raised:
        planned(mine)
    assert raised.value.at == ("model", "base")


def test_prompts_of_two_domains_are_refused_by_their_tokens_before_anything_trains(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        distill, "routes", lambda rows: routes([(name, [1], domain, [1]) for name, _, domain, _ in rows])
    )
    with pytest.raises(UserError, match="row 'bio0' of bio and row 'news0' of news have one prompt") as raised:
        planned(mine)
    assert raised.value.at == ("stages", 0, "data")


def test_a_teacher_that_is_changed_by_a_bit_fails_the_stage(mine: Path) -> None:
    model = random_adapter(mine.parent / "lively", 7)
    folders = {domain: mine.parent / "teachers" / domain for domain in ("bio", "news")}
    student = {name for name, p in model.named_parameters() if p.requires_grad}

    def beside(what: Callable[[torch.Tensor], object]) -> None:
        with teachers_beside(model, folders) as names:
            assert set(model.peft_config) == {"default", *names.values()}
            what(next(p.data for name, p in model.named_parameters() if f".{names['news']}." in name))

    def flip(tensor: torch.Tensor) -> None:
        tensor.view(torch.int32)[-1, -1] ^= 1

    def fail(tensor: torch.Tensor) -> None:
        raise KeyError("training")

    changed = pytest.raises(RuntimeError, match="training changed the teacher 'news': base_model")
    for what, ends in ((flip, changed), (fail, pytest.raises(KeyError)), (lambda tensor: None, nullcontext())):
        with ends:
            beside(what)
        assert (list(model.peft_config), model.active_adapters) == (["default"], ["default"])
        assert {name for name, p in model.named_parameters() if p.requires_grad} == student
        assert "save_pretrained" not in vars(model)


@pytest.mark.parametrize("sharded", ["zero2", "zero3", "fsdp2"])
def test_launches_that_shard_weights_are_refused(mine: Path, sharded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "check_launch", lambda: sharded)
    with pytest.raises(UserError, match=f"this launch asks for {sharded}; use ddp.yaml or one process") as raised:
        planned(mine)
    assert raised.value.at == ("stages", 0)


def trained(path: Path, folder: Path, *overrides: str) -> tuple[dict, list[dict]]:
    """Train the stage in this process: its figures and its log."""
    from adapters.backends import backend as make_backend
    from adapters.pipeline.plan import make_plan
    from adapters.recipe.load import load_recipe

    file = load_recipe(path, overrides)
    backend = make_backend(file.recipe)
    plan = make_plan(file, backend)
    backend.ready(plan.jobs)
    folder.mkdir()
    figures = dict(backend.train(plan.jobs[0], plan.start, folder, lambda *_: None))
    return figures, lines(folder / "log.jsonl")


@pytest.mark.slow
def test_the_student_learns_from_both_and_the_teachers_stay_as_they_are(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: sha256(tmp_path / "teachers" / name / WEIGHTS) for name in ("bio", "news")}
    seen: list[tuple[list[str], set[str]]] = []
    real = RoutedLoss.__call__

    def watched(self: RoutedLoss, *args: torch.Tensor, **kwargs: torch.Tensor) -> tuple:
        model = self.teacher.model
        trainable = {name for name, p in model.named_parameters() if p.requires_grad}
        assert all(".default." in name for name in trainable)
        assert model.training
        seen.append((list(self.teacher.domains), trainable))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(RoutedLoss, "__call__", watched)
    noise = "stages.0.noise={use: ocr, level: heavy, share: 1.0, teacher: clean}"
    figures, log = trained(mine, tmp_path / "out", "stages.0.max_steps=20", "stages.0.min_coverage=0.999", noise)
    assert before == {name: sha256(tmp_path / "teachers" / name / WEIGHTS) for name in before}
    steps = [entry for entry in log if "coverage" in entry]
    assert len(steps) == 20
    assert [Counter(d for domains, _ in seen[n : n + 2] for d in domains) for n in (0, 2)] == [
        Counter(bio=2, news=2)
    ] * 2, "two passes make a step of equally many rows"
    for entry in steps:
        assert entry["loss"] == pytest.approx((entry["loss/bio"] + entry["loss/news"]) / 2, rel=1e-3)
        assert entry["coverage"] == pytest.approx((entry["coverage/bio"] + entry["coverage/news"]) / 2, rel=1e-3)
        assert 0 < entry["coverage"] <= 1
        assert {"teacher_coverage", "entropy", "completions/mean_length", "completions/clipped_ratio"} <= entry.keys()
    assert figures["loss_last"] < 0.7 * figures["loss_first"]
    assert all(0 < figures[f"coverage/{domain}_last"] < 0.999 for domain in ("bio", "news"))
    assert capsys.readouterr().err.count("below min_coverage") == 2, "once for each domain"
    for checkpoint in (tmp_path / "out" / "trainer").glob("checkpoint-*"):
        assert not list(checkpoint.rglob("teacher*")), "a checkpoint holds the student alone"
    assert all(".lora_" in name for name in weights(tmp_path / "out"))


@pytest.mark.slow
def test_a_student_that_is_its_teacher_has_nothing_to_learn(mine: Path, tmp_path: Path) -> None:
    one = ["stages.0.data=[{path: bio.jsonl, domain: bio}]", "stages.0.teachers={bio: teachers/bio}"]
    same = [*one, "start=teachers/bio", "stages.0.max_steps=1", "stages.0.learning_rate=1e-6"]
    for name, speedups in (("fast", "true"), ("plain", "false")):
        figures, _ = trained(mine, tmp_path / name, *same, f"model.speedups={speedups}", "model.precision=fp32")
        assert abs(figures["loss_first"]) < 1e-6
    with pytest.raises(UserError, match="vocabulary has 400 tokens"):
        trained(mine, tmp_path / "wide", *same, "stages.0.top_k=5000")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_student_and_teacher_are_computed_in_the_precision_of_the_training(
    precision: str, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    plain = LlamaModel.forward

    def watched(self: LlamaModel, *args: Any, **kwargs: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", watched)
    overrides = ["stages.0.max_steps=1", "model.speedups=false", f"model.precision={precision}"]
    trained(mine, tmp_path / "out", *overrides)
    assert seen[-4:] == [precision == "bf16"] * 4, "two micro-batches"


@pytest.mark.slow
def test_a_killed_student_goes_on_as_if_it_had_not_been(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(
        "import os\n"
        "from adapters.backends.local import training\n"
        "real = training.Watch.on_step_end\n"
        "def dying(self, args, state, control, **kwargs):\n"
        "    if state.global_step == 5:\n"
        "        os._exit(9)\n"
        "    return real(self, args, state, control, **kwargs)\n"
        "training.Watch.on_step_end = dying\n"
        "from adapters import main\n"
        f"main({str(mine)!r})\n"
    )
    first = run([sys.executable, "dying.py", "model.precision=fp32"], tmp_path)
    assert first.returncode == 9, first.stderr[-3000:]
    second = run([*ADAPTERS, "run", str(mine), "model.precision=fp32"], tmp_path)
    assert second.returncode == 0, second.stderr[-3000:]
    whole = run([*ADAPTERS, "run", str(mine), "model.precision=fp32", "name=whole"], tmp_path)
    assert whole.returncode == 0, whole.stderr[-3000:]
    runs = tmp_path / "runs"
    assert difference(runs / "student" / "1-distill", runs / "whole" / "1-distill") < 1e-6
    steps = [e["step"] for e in lines(runs / "student" / "1-distill" / "log.jsonl") if "coverage" in e]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_two_processes_share_a_step(mine: Path, tmp_path: Path) -> None:
    before = sha256(tmp_path / "teachers" / "bio" / WEIGHTS)
    (tmp_path / "each.py").write_text(
        "import os\n"
        "from peft import get_peft_model_state_dict\n"
        "from safetensors.torch import save_file\n"
        "from adapters.backends.local import LocalBackend\n"
        "real = LocalBackend._save\n"
        "def saved(self, run, start, folder):\n"
        "    place = folder / f'rank{os.environ.get(\"RANK\", 0)}'\n"
        "    place.mkdir()\n"
        f"    save_file(get_peft_model_state_dict(run.model), place / '{WEIGHTS}')\n"
        "    return real(self, run, start, folder)\n"
        "LocalBackend._save = saved\n"
        "from adapters import main\n"
        f"main({str(mine)!r})\n"
    )
    # SGD without clipping shows the size of gradients; greedy answers are the same in any process.
    plain = "stages.0.trl={optim: sgd, max_grad_norm: 0.0, generation_kwargs: {do_sample: false}}"
    settings = [plain, "model.precision=fp32", "stages.0.max_steps=2", "stages.0.learning_rate=1.0"]
    for name, launch in (("one", [sys.executable]), ("two", accelerate(two_processes(tmp_path, "ddp")))):
        done = run([*launch, "each.py", f"name={name}", *settings], tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (tmp_path / "runs" / name / "1-distill" for name in ("one", "two"))
    assert difference(two / "rank0", two / "rank1") == 0
    assert difference(two / "rank0", two) == 0
    assert difference(one, two) < 1e-6
    assert max(float(t.abs().max()) for name, t in weights(two).items() if "lora_B" in name) > 0.01, "from zero"
    logs = [[e for e in lines(folder / "log.jsonl") if "coverage" in e] for folder in (one, two)]
    for entry, other in zip(*logs, strict=True):
        assert entry["loss"] == pytest.approx((entry["loss/bio"] + entry["loss/news"]) / 2, rel=1e-3)
        for name in ("loss", "loss/bio", "loss/news", "coverage/bio", "coverage/news", "entropy"):
            assert entry[name] == pytest.approx(other[name], rel=1e-4)
    manifest = json.loads((two / "manifest.json").read_text())
    assert manifest["teachers"]["bio"]["weights"] == before == sha256(tmp_path / "teachers" / "bio" / WEIGHTS)
