"""The part of the gate that loads: every way in which an adapter can be dead is made here, and must be found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from peft import LoraConfig, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny import save_tiny_wrapper  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from adapters.backends.adapter_folder import WEIGHTS  # noqa: E402
from adapters.backends.local.base_model import resolve  # noqa: E402
from adapters.backends.local.text_only import with_served_names, wrapper_of  # noqa: E402
from adapters.backends.local.verify_adapter import verify  # noqa: E402

PROMPTS = [[{"role": "user", "content": f"Supported by grant AB-{n}."}] for n in range(3)]


def adapter_on(model: object, tokenizer: object, folder: Path, **config: object) -> Path:
    """A random adapter with B not zero, saved as PEFT saves it, with the tokenizer beside it."""
    torch.manual_seed(1)
    lora = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    peft = get_peft_model(model, LoraConfig(**lora))
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    peft.save_pretrained(str(folder), save_embedding_layers=False)
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def sound(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    return adapter_on(model, AutoTokenizer.from_pretrained(tiny_model), tmp_path_factory.mktemp("sound") / "bundle")


@pytest.fixture
def bundle(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "bundle"))


def spec(bundle: Path, base: Path, probes: list[dict] = ()) -> dict:
    model = {"base": str(base), "precision": "fp32", "dtype": "float32"}
    return {
        "bundle": str(bundle), "base": str(base), "revision": None, "model": model, "probes": list(probes),
        "example": PROMPTS[0], "max_new_tokens": 12, "elsewhere": False,
    }  # fmt: skip


def answers(bundle: Path, base: Path) -> list[dict]:
    """What the sampler of a training process says with this adapter, merged and in one batch."""
    from adapters.backends.local.base_model import resolve
    from adapters.backends.local.encoder import Encoder
    from adapters.backends.local.generate import LocalSampler
    from adapters.backends.local.model import load_adapter, load_base
    from adapters.backends.local.tokenizer import load_tokenizer
    from adapters.recipe.recipe import Model

    held = resolve(str(base))
    model = load_base(held, Model(base=str(base), precision="fp32"))
    merged = load_adapter(model, bundle, held, trainable=False).merge_and_unload().eval()
    sampler = LocalSampler(merged, Encoder(load_tokenizer(held), thinking=False), 0, 1)
    samples = sampler(PROMPTS, max_new_tokens=12, batch_size=None, progress=lambda *_: None)
    return [
        {"prompt": p, "completion": s.text, "truncated": s.truncated} for p, s in zip(PROMPTS, samples, strict=True)
    ]


def verdict(facts: dict) -> dict[str, tuple[bool, str]]:
    return {name: (passed, detail) for name, passed, detail in facts["checks"]}


def test_a_sound_adapter_passes(bundle: Path, tiny_model: Path) -> None:
    facts = verify(spec(bundle, tiny_model, answers(bundle, tiny_model)))
    found = verdict(facts)
    assert set(found) == {"tensors", "embeddings", "keys", "logits", "answers"}
    assert all(passed for passed, _ in found.values()), found
    assert "3 of 3" in found["answers"][1]
    assert facts["class"] == facts["base_class"] == "LlamaForCausalLM"
    assert facts["tied"] is True
    assert facts["end_token"] is None, "the base stops at the end token by itself"
    assert facts["parameters"] == sum(t.numel() for t in load_file(bundle / "adapter_model.safetensors").values())


def changed(bundle: Path, change: object) -> None:
    path = bundle / "adapter_model.safetensors"
    save_file({k: v for k, v in change(load_file(path)).items() if v is not None}, path)


NO_SUCH_LAYER = "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"
DEAD = {
    "zero": (lambda t: {k: v * 0 if "lora_B" in k else v for k, v in t.items()}, "tensors", "every B matrix is zero"),
    "nan": (lambda t: {k: v * float("nan") for k, v in t.items()}, "tensors", "not finite"),
    "infinite": (lambda t: t | {next(iter(t)): next(iter(t.values())) / 0}, "tensors", "not finite"),
    "empty": (lambda t: {}, "tensors", "no tensor"),
    "sharded": (lambda t: {k: torch.empty(0) for k in t}, "tensors", "empty"),
    "prefix": (lambda t: {k.replace(".layers.", ".text.layers."): v for k, v in t.items()}, "keys", "missing"),
    "half": (lambda t: dict(list(t.items())[: len(t) // 2]), "keys", "missing"),
    "more": (lambda t: t | {NO_SUCH_LAYER: torch.ones(4, 32)}, "keys", "unexpected"),
    "head": (lambda t: t | {"base_model.model.lm_head.weight": torch.ones(4, 32)}, "embeddings", "tied embeddings"),
    "shape": (lambda t: {k: v[:, :-1].contiguous() for k, v in t.items()}, "keys", "cannot load it"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEAD)
def test_a_dead_adapter_is_named(name: str, bundle: Path, tiny_model: Path) -> None:
    change, check, reason = DEAD[name]
    changed(bundle, change)
    found = verdict(verify(spec(bundle, tiny_model)))
    assert found[check][0] is False
    assert reason in found[check][1]


def test_an_adapter_for_modules_that_are_not_there(bundle: Path, tiny_model: Path) -> None:
    config = json.loads((bundle / "adapter_config.json").read_text()) | {"target_modules": ["wq"]}
    (bundle / "adapter_config.json").write_text(json.dumps(config))
    assert not verdict(verify(spec(bundle, tiny_model)))["keys"][0]


def test_another_adapters_answers_do_not_pass(bundle: Path, tiny_model: Path) -> None:
    probes = answers(bundle, tiny_model)
    changed(bundle, lambda t: {k: -2 * v if "lora_B" in k else v for k, v in t.items()})
    passed, detail = verdict(verify(spec(bundle, tiny_model, probes)))["answers"]
    assert not passed
    assert "other than the training process" in detail


def test_a_wrong_scale_does_not_pass(bundle: Path, tiny_model: Path) -> None:
    """The weights are right, alpha is not: everything loads and differs from the base, but answers otherwise."""
    probes = answers(bundle, tiny_model)
    config = json.loads((bundle / "adapter_config.json").read_text()) | {"lora_alpha": 0.5}
    (bundle / "adapter_config.json").write_text(json.dumps(config))
    found = verdict(verify(spec(bundle, tiny_model, probes)))
    assert found["keys"][0]
    assert found["logits"][0]
    assert not found["answers"][0]


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_services_answers_may_part_at_the_ties_of_its_arithmetic(
    elsewhere: bool, bundle: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters.backends.local import verify_adapter

    monkeypatch.setattr(
        verify_adapter, "_first_difference", lambda *_: (2, 0.02, 1.0)
    )  # beyond float32, within bfloat16
    probes = answers(bundle, tiny_model)
    probes[-1]["completion"] = "something else"
    found = verdict(verify({**spec(bundle, tiny_model, probes), "elsewhere": elsewhere}))
    assert found["answers"][0] is elsewhere


@pytest.fixture(scope="module")
def wrapped_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision-language model whose text part is what adapters are trained on, as Qwen3.5 is stored."""
    return save_tiny_wrapper(tiny_model, tmp_path_factory.mktemp("wrapped") / "tiny-vlm")


@pytest.mark.slow
def test_a_text_adapter_of_a_wrapped_base_has_the_names_of_both_classes(wrapped_model: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(wrapped_model, dtype=torch.float32)
    bundle = adapter_on(model, AutoTokenizer.from_pretrained(wrapped_model), tmp_path / "bundle")
    probes = answers(bundle, wrapped_model)
    found = verdict(verify(spec(bundle, wrapped_model, probes)))
    assert [name for name, (passed, _) in found.items() if not passed] == ["served names"]
    assert "Qwen3_5ForConditionalGeneration" in found["served names"][1]
    wrapper = wrapper_of(resolve(str(wrapped_model)))
    save_file(with_served_names(load_file(bundle / WEIGHTS), wrapper), bundle / WEIGHTS, metadata={"format": "pt"})
    facts = verify(spec(bundle, wrapped_model, probes))
    assert all(passed for passed, _ in verdict(facts).values()), facts
    assert (facts["class"], facts["base_class"]) == ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration")


def test_an_adapter_of_the_wrapping_class_is_refused(wrapped_model: Path, tmp_path: Path) -> None:
    """It loads into the class that AutoModelForCausalLM gives with a warning, and does nothing there."""
    from transformers import Qwen3_5ForConditionalGeneration

    model = Qwen3_5ForConditionalGeneration.from_pretrained(wrapped_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(wrapped_model)
    bundle = adapter_on(model, tokenizer, tmp_path / "bundle", target_modules=["up_proj", "down_proj"])
    found = verdict(verify(spec(bundle, wrapped_model)))
    assert not found["keys"][0]
    assert "Qwen3_5ForCausalLM" in found["keys"][1]
