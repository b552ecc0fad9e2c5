"""Bases that are stored inside a vision-language model: the text model alone, and adapters that both classes load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny import save_tiny_wrapper  # noqa: E402
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText  # noqa: E402

from adapters.backends.adapter_folder import WEIGHTS, own_names  # noqa: E402
from adapters.backends.local import text_only  # noqa: E402
from adapters.backends.local.base_model import Base, resolve  # noqa: E402
from adapters.errors import UserError  # noqa: E402

IDS = torch.arange(3, 40)[None]
KINDS = {
    "Qwen3_5": "Qwen3_5ForCausalLM", "Qwen3VL": "Qwen3ForCausalLM", "Qwen2_5_VL": "Qwen2ForCausalLM",
    "Gemma3": "Gemma3ForCausalLM", "Mistral3": "MistralForCausalLM",
}  # fmt: skip


@pytest.fixture(scope="module")
def wrapped(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_wrapper(tiny_model, tmp_path_factory.mktemp("wrapped") / "base")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "text_class"), KINDS.items())
def test_the_text_model_of_a_wrapper_computes_the_same(
    kind: str, text_class: str, tiny_model: Path, tmp_path: Path
) -> None:
    base = Base(str(save_tiny_wrapper(tiny_model, tmp_path / "base", kind)), "someone/wrapped", "v1")
    facts = text_only.make(base, tmp_path / "text")
    assert facts["class"] == text_class
    names = load_file(tmp_path / "text" / "model.safetensors")
    assert {name.partition(".")[0] for name in names} == {"model", "lm_head"}
    assert not [name for name in names if "language_model" in name or "visi" in name]
    outer = AutoModelForImageTextToText.from_pretrained(tmp_path / "base").eval()
    text = AutoModelForCausalLM.from_pretrained(tmp_path / "text").eval()
    with torch.no_grad():
        torch.testing.assert_close(text(IDS).logits, outer(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)
    made = resolve(str(tmp_path / "text"))
    assert made.hub_id == "someone/wrapped"
    assert text_only.wrapper_of(made) is None
    wrapper = text_only.checkpoint_wrapper(made)
    assert wrapper is not None
    assert wrapper.architecture == f"{kind}ForConditionalGeneration"
    assert wrapper.path == "model.language_model"


def test_bases_that_are_no_wrapper(tiny_model: Path, tmp_path: Path) -> None:
    assert text_only.wrapper_of(resolve(str(tiny_model))) is None
    with pytest.raises(UserError, match="is a text model already"):
        text_only.make(resolve(str(tiny_model)), tmp_path / "text")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        text_only.make(resolve(str(tiny_model)), tmp_path / "there")
    assert not (tmp_path / "text").exists()


def test_gemma_is_trained_in_the_class_that_is_served(tiny_model: Path, tmp_path: Path) -> None:
    assert text_only.wrapper_of(resolve(str(save_tiny_wrapper(tiny_model, tmp_path / "base", "Gemma3")))) is None


def test_a_text_model_that_computes_something_else_is_refused(
    wrapped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_only, "_difference", lambda *_: 0.5)
    with pytest.raises(UserError, match="does not compute what Qwen3_5ForConditionalGeneration computes"):
        text_only.make(resolve(str(wrapped)), tmp_path / "text")
    assert not list(tmp_path.iterdir())


def test_both_classes_load_an_adapter_under_both_names(wrapped: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(wrapped, dtype=torch.float32).eval()
    with torch.no_grad():
        plain = model(IDS).logits
    peft = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    peft.eval().save_pretrained(str(tmp_path))
    stored = load_file(tmp_path / WEIGHTS)
    both = text_only.with_served_names(stored, text_only.wrapper_of(resolve(str(wrapped))))
    assert len(both) == 2 * len(stored)
    assert own_names(both).keys() == stored.keys()
    assert own_names(stored).keys() == stored.keys()
    save_file(both, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with torch.no_grad():
        wanted = peft(IDS).logits
        assert (wanted - plain).abs().max() > 1
        for kind in (AutoModelForCausalLM, AutoModelForImageTextToText):
            loaded = PeftModel.from_pretrained(kind.from_pretrained(wrapped, dtype=torch.float32), tmp_path).eval()
            assert torch.equal(loaded(input_ids=IDS).logits, wanted), kind


def test_the_marker_of_a_text_only_folder_names_its_source(wrapped: Path, tmp_path: Path) -> None:
    text_only.make(Base(str(wrapped), "someone/wrapped", "v1"), tmp_path / "text")
    marker = json.loads((tmp_path / "text" / text_only.MARKER).read_text())
    assert (marker["hub_id"], marker["revision"]) == ("someone/wrapped", "v1")
