"""What samples for GRPO: the recipe's choice, what stands in its way, and that a stage keeps to it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_vllm_server import replies, server
from transformers import AutoTokenizer
from trl.generation.vllm_generation import VLLMGeneration

from adapters.backends import adapter_folder
from adapters.backends.jobs import Job
from adapters.backends.local import (
    LocalBackend,
    trainer_args,
    vllm_sampling,
)
from adapters.backends.local.base_model import resolve
from adapters.backends.local.vllm_sampling import Sampling, choose
from adapters.errors import UserError
from adapters.files import write_json
from adapters.pipeline.fingerprint import fingerprinted_settings
from adapters.recipe.load import load_recipe
from adapters.recipe.recipe import Recipe

VERSION = "0.30.0"


@pytest.fixture
def recipe(tmp_path: Path, recipe_text: str) -> Recipe:
    (tmp_path / "r.yaml").write_text(recipe_text)
    return load_recipe(tmp_path / "r.yaml", ["stages.1.max_prompt_length=256"]).recipe


def job(recipe: Recipe, folder: Path, **settings: Any) -> Job:
    stage = recipe.stages[1].model_copy(update=settings)
    return Job(1, stage, folder / "2-grpo", (), (), (), "f", 2, [], [], set())


@pytest.fixture
def a_gpu_with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trainer on a GPU would find; `scripts/vllm_grpo_check.py` has the real one."""
    monkeypatch.setattr(vllm_sampling, "not_installed", lambda: None)
    monkeypatch.setattr(vllm_sampling, "_version", lambda: VERSION)
    monkeypatch.setattr(vllm_sampling, "_refused_by_vllm", lambda *_: None)
    monkeypatch.setattr(vllm_sampling, "vllm_share", lambda *_: 0.3)


def pick(job: Job, recipe: Recipe, device: str = "cuda") -> Sampling:
    return choose(job, recipe, resolve(recipe.model.base), device)


def test_auto_takes_vllm_where_it_can_work(recipe: Recipe, tmp_path: Path, a_gpu_with_vllm: None) -> None:
    assert pick(job(recipe, tmp_path), recipe) == Sampling("colocate", VERSION)
    assert pick(job(recipe, tmp_path, vllm="off"), recipe) == Sampling("off")
    assert pick(job(recipe, tmp_path), recipe, "cpu") == Sampling("off")


def test_auto_says_what_is_in_its_way(recipe: Recipe, tmp_path: Path) -> None:
    chosen = pick(job(recipe, tmp_path), recipe)
    assert (chosen.mode, chosen.record) == ("off", {"mode": "off"})
    assert (
        chosen.note
        == "sampled without vLLM: vLLM is not installed: pip install -c constraints.txt -e '.[vllm]' in the repository."
    )


def test_vllm_that_is_not_installed_is_noticed_by_the_plan(recipe: Recipe) -> None:
    stage = recipe.stages[1].model_copy(update={"vllm": "colocate"})
    with pytest.raises(UserError, match="vLLM is not installed") as raised:
        LocalBackend(recipe).check([recipe.stages[0], stage])
    assert raised.value.at == ("stages", 1, "vllm")


@pytest.mark.parametrize(
    ("settings", "model", "said"),
    [
        ({"max_prompt_length": 900}, {}, "1,060 tokens together, and .* reads 1,024; lower them"),
        ({}, {"quantize": "nf4"}, r"in 4 bits \(model.quantize: nf4\)"),
    ],
)
def test_what_vllm_cannot_do(
    recipe: Recipe, tmp_path: Path, a_gpu_with_vllm: None, settings: dict, model: dict, said: str
) -> None:
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=model)})
    auto = pick(job(recipe, tmp_path, **settings), recipe)
    assert auto.mode == "off"
    for mode in ("colocate", "server"):
        with pytest.raises(UserError, match=said) as raised:
            pick(job(recipe, tmp_path, vllm=mode, **settings), recipe)
        assert raised.value.at == ("stages", 1, "vllm")
        assert auto.reason == str(raised.value)


def test_another_device_and_another_version(
    recipe: Recipe, tmp_path: Path, a_gpu_with_vllm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="on a CUDA GPU only, not on cpu"):
        pick(job(recipe, tmp_path, vllm="colocate"), recipe, "cpu")
    monkeypatch.setattr(vllm_sampling, "_version", lambda: "0.33.1")
    with pytest.raises(UserError, match=r"vLLM 0.33.1 is none that TRL works with \(0.22 to 0.31\)"):
        pick(job(recipe, tmp_path, vllm="colocate"), recipe)


@pytest.mark.slow
def test_a_base_that_vllm_takes_for_a_vision_model_is_refused(
    recipe: Recipe, tmp_path: Path, a_gpu_with_vllm: None
) -> None:
    folder = tmp_path / "wrapped"
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]})
    (folder / "model.safetensors").write_bytes(b"")
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"base": str(folder)})})
    said = f"`adapters base text-only {folder} -o FOLDER`, and set model.base=FOLDER"
    assert said in str(pick(job(recipe, tmp_path), recipe).reason)
    with pytest.raises(UserError, match="stored as a vision-language model"):
        pick(job(recipe, tmp_path, vllm="colocate"), recipe)
    write_json(folder / "config.json", {"model_type": "qwen3_5_text", "architectures": ["Qwen3_5ForCausalLM"]})
    assert pick(job(recipe, tmp_path), recipe).mode == "colocate", "its text-only folder is served"


def test_a_server_is_asked_before_anything_trains(recipe: Recipe, tmp_path: Path, a_gpu_with_vllm: None) -> None:
    base = Path(recipe.model.base)
    with server(replies(base)) as url:
        chosen = pick(job(recipe, tmp_path, vllm="server", vllm_server=url), recipe)
    assert chosen == Sampling("server", VERSION)
    with server(replies(base, max_model_len=300)) as url, pytest.raises(UserError, match="may have 416"):
        pick(job(recipe, tmp_path, vllm="server", vllm_server=url), recipe)


def begin(folder: Path, mode: str | None) -> None:
    """A stage with one complete checkpoint, begun with `mode`, or before there was a choice."""
    trainer = adapter_folder.work_folder(folder / "2-grpo") / "trainer"
    write_json(trainer / "checkpoint-1" / "seal.json", {"files": {}})
    if mode:
        write_json(trainer / vllm_sampling.STATE, {"mode": mode})


@pytest.mark.parametrize("began", ["colocate", "off", None])
def test_a_stage_keeps_to_what_it_began_with(
    recipe: Recipe, tmp_path: Path, a_gpu_with_vllm: None, began: str | None
) -> None:
    begin(tmp_path, began)
    kept = began or "off"
    assert pick(job(recipe, tmp_path), recipe).mode == kept
    assert pick(job(recipe, tmp_path, vllm=kept), recipe).mode == kept
    other = "off" if kept == "colocate" else "colocate"
    with pytest.raises(UserError, match=f"2-grpo began with vllm: {kept}, and all of a stage is sampled in one way"):
        pick(job(recipe, tmp_path, vllm=other), recipe)


def test_a_stage_that_began_with_vllm_does_not_go_on_without(recipe: Recipe, tmp_path: Path) -> None:
    begin(tmp_path, "colocate")
    with pytest.raises(UserError, match=r"began with vLLM \(colocate\) and cannot continue without it: vLLM is"):
        pick(job(recipe, tmp_path), recipe)
    with pytest.raises(UserError, match="cannot continue without it"):
        pick(job(recipe, tmp_path), recipe, "cpu")


def test_without_a_checkpoint_the_choice_is_free(recipe: Recipe, tmp_path: Path, a_gpu_with_vllm: None) -> None:
    write_json(adapter_folder.work_folder(tmp_path / "2-grpo") / "trainer" / vllm_sampling.STATE, {"mode": "off"})
    assert pick(job(recipe, tmp_path), recipe).mode == "colocate"


def test_what_samples_is_not_in_the_fingerprint(recipe: Recipe) -> None:
    other = recipe.stages[1].model_copy(update={"vllm": "server", "vllm_server": "http://localhost:8000"})
    assert fingerprinted_settings(other) == fingerprinted_settings(recipe.stages[1])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("vllm=server", "vllm: server and vllm_server: http://HOST:PORT go together"),
        ("vllm_server=http://localhost:8000", "go together"),
        ("vllm=on", "auto"),
    ],
)
def test_address_and_mode_go_together(tmp_path: Path, recipe_text: str, override: str, said: str) -> None:
    (tmp_path / "r.yaml").write_text(recipe_text)
    with pytest.raises(UserError, match=said):
        load_recipe(tmp_path / "r.yaml", [f"stages.1.{override}"])


def test_an_address_has_a_scheme_and_off_is_a_word(tmp_path: Path, recipe_text: str) -> None:
    (tmp_path / "r.yaml").write_text(recipe_text)
    with pytest.raises(UserError, match="http://HOST:PORT"):
        load_recipe(tmp_path / "r.yaml", ["stages.1.vllm=server", "stages.1.vllm_server=localhost:8000"])
    stage: Any = load_recipe(tmp_path / "r.yaml", ["stages.1.vllm=off"]).recipe.stages[1]
    assert stage.vllm == "off"


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ({"use_vllm": True}, "stages.1.vllm"),
        ({"vllm_mode": "colocate"}, "stages.1.vllm"),
        ({"vllm_server_base_url": "http://a"}, "stages.1.vllm_server"),
        ({"vllm_server_host": "a"}, "stages.1.vllm_server"),
        ({"vllm_max_model_length": 99}, "max_prompt_length and max_completion_length"),
        ({"trust_remote_code": True}, "model.trust_remote_code"),
    ],
)
def test_trls_names_are_refused_with_the_recipes(recipe: Recipe, option: dict, key: str) -> None:
    with pytest.raises(UserError, match=key):
        trainer_args.check_options(recipe.stages[1].model_copy(update={"trl": option}), ("stages", 1))


def run_of(recipe: Recipe, folder: Path, **settings: Any) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(recipe.model.base)
    inner = SimpleNamespace(name_or_path=recipe.model.base)
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[0, 2]), get_base_model=lambda: inner)
    made, encoder = job(recipe, folder, **settings), SimpleNamespace(tokenizer=tokenizer)
    return SimpleNamespace(job=made, recipe=recipe, folder=folder, model=model, encoder=encoder, sampling={})


def test_trl_gets_lengths_memory_and_end_tokens(
    recipe: Recipe, tmp_path: Path, a_gpu_with_vllm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_sampling, "_forget_groups", lambda *_: None)
    run = run_of(recipe, tmp_path, trl={"generation_kwargs": {"min_tokens": 2}, "vllm_tensor_parallel_size": 2})
    original, environment = VLLMGeneration._iter_named_params, dict(os.environ)
    with vllm_sampling.beside_training(run, resolve(recipe.model.base), "cuda") as manifest:
        assert VLLMGeneration._iter_named_params is not original
        os.environ |= {"WORLD_SIZE": "1", "RANK": "0"}  # as TRL does
    assert VLLMGeneration._iter_named_params is original
    assert dict(os.environ) == environment
    assert manifest == {"sampling": {"mode": "colocate", "version": VERSION}}
    assert run.sampling == {
        "use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 416, "vllm_gpu_memory_utilization": 0.3,
        "trust_remote_code": False, "generation_kwargs": {"stop_token_ids": [2, 0], "min_tokens": 2},
    }  # fmt: skip
    config = trainer_args.trainer_config(
        replace(run.job, rewards=()), recipe, tmp_path, {}, run.sampling | {"use_vllm": False}, packed=False
    )
    assert (config.vllm_max_model_length, config.vllm_tensor_parallel_size) == (416, 2)


def test_without_vllm_nothing_is_replaced(recipe: Recipe, tmp_path: Path) -> None:
    run, original = run_of(recipe, tmp_path), VLLMGeneration._iter_named_params
    with vllm_sampling.beside_training(run, resolve(recipe.model.base), "cpu") as manifest:
        assert VLLMGeneration._iter_named_params is original
    assert (run.sampling, manifest) == ({}, {"sampling": {"mode": "off"}})


def test_the_base_is_small_enough_beside_the_training(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters.backends.local import memory_plan

    base = resolve(recipe.model.base)
    monkeypatch.setattr(memory_plan, "devices", lambda: (80e9, True))
    assert 0 < memory_plan.vllm_share(job(recipe, tmp_path), recipe, base) <= 1
    monkeypatch.setattr(memory_plan, "devices", lambda: (3e9, True))
    with pytest.raises(UserError, match=r"vLLM needs .* GB beside the training, and the GPU has 3.0 GB"):
        memory_plan.vllm_share(job(recipe, tmp_path), recipe, base)


def test_what_vllm_may_take_where_the_launch_shards_the_weights(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters.backends.local import memory_plan

    planned = []
    monkeypatch.setattr(memory_plan, "devices", lambda: (80e9, True))
    monkeypatch.setattr(memory_plan.memory, "vllm_share", lambda shape, use, available: planned.append(use) or 0.5)
    for sharded in (False, True):
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setattr(memory_plan, "shards_weights", lambda sharded=sharded: sharded)
        memory_plan.vllm_share(job(recipe, tmp_path), recipe, resolve(recipe.model.base))
    assert [(use.world, use.zero) for use in planned] == [(4, 0), (4, 3)]
