"""Encoder adapters in use: the answers do not depend on batches, and long, empty and odd texts have some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import save_tiny_encoder

from adapters.backends.local.base_model import Base
from adapters.backends.local.model import load_base
from adapters.backends.local.tagger import Tagger, TaggerSampler, word_encoder
from adapters.data_aug.mine.words import LABELS, Question, Span, prompt_of
from adapters.errors import UserError
from adapters.recipe.recipe import Model
from adapters.recipe.stages import TokenClassification

TEXTS = [
    "Ada r1 came to Town 1 .",
    "",
    " \n",
    "Nobody came.",
    "Ada r2 came to Town 2 . " * 40,
    "…—",
    "北京2024年\x07 \u200d e\u0301",
]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    folder = save_tiny_encoder(tmp_path_factory.mktemp("tagger") / "bert")
    base, model = Base(str(folder), "me/base"), Model(base=str(folder))
    stage = TokenClassification.model_construct(kind="token_classification", max_length=96, stride=16)
    torch.manual_seed(0)
    loaded = load_base(base, model, labels=LABELS).eval()
    loaded.classifier.weight.data *= 40  # so that the tags of a random model differ
    return Tagger(loaded, word_encoder(base, model, [stage]))


def test_spans_are_stretches_of_their_text(tagger: Tagger) -> None:
    found = tagger.get_span(TEXTS, "person")
    assert found[1] == found[2] == []
    assert any(found)
    for text, spans in zip(TEXTS, found, strict=True):
        assert all(isinstance(span, Span) and text[span.start : span.end] == span.text for span in spans)
        assert [span.start for span in spans] == sorted(span.start for span in spans)


def test_labels_are_scores_above_the_threshold_and_empty_texts_have_none(tagger: Tagger) -> None:
    scores = tagger.label_scores(TEXTS, "This text mentions a person")
    assert scores[1] == scores[2] == 0
    assert all(0 < score < 1 for score in (scores[0], scores[3], scores[4]))
    assert tagger.get_label(TEXTS, "This text mentions a person") == [score > 0.5 for score in scores]


def test_half_a_character_is_read(tagger: Tagger) -> None:
    text = "Ada \ud83d came to Bern."
    assert all(text[s.start : s.end] == s.text for s in tagger.get_span([text], "person")[0])
    assert 0 < tagger.label_scores([text], "travel")[0] < 1


def test_answers_do_not_depend_on_what_is_asked_at_once(tagger: Tagger) -> None:
    together = tagger.label_scores(TEXTS, "health")
    alone = [tagger.label_scores([text], "health")[0] for text in reversed(TEXTS)][::-1]
    assert together == pytest.approx(alone, abs=1e-5)
    assert tagger.get_span(TEXTS, "person") == [tagger.get_span([text], "person")[0] for text in TEXTS]
    one = tagger.spans([Question("span", "person", text) for text in TEXTS], batch_size=1)
    assert one == tagger.get_span(TEXTS, "person")


def test_margins_say_how_sure_an_answer_is(tagger: Tagger) -> None:
    scores = tagger.label_scores(TEXTS, "health")
    margins = tagger.margins(TEXTS, "label", "health")
    assert margins[0] == pytest.approx(abs(2 * scores[0] - 1))
    for kind in ("label", "span"):
        margins = tagger.margins(TEXTS, kind, "person")  # type: ignore[arg-type]
        assert margins[1] == margins[2] == 1
        assert all(0 <= margin <= 1 for margin in margins)


def test_an_evaluation_gets_its_answers_as_completions(tagger: Tagger) -> None:
    questions = [Question("span", "person", TEXTS[0]), Question("label", "health", TEXTS[0])]
    samples = TaggerSampler(tagger)(
        [prompt_of(question) for question in questions], max_new_tokens=1, batch_size=None, progress=lambda *_: None
    )
    assert json.loads(samples[0].text)["spans"] == [s._asdict() for s in tagger.get_span([TEXTS[0]], "person")[0]]
    answer = json.loads(samples[1].text)
    assert answer["score"] == pytest.approx(tagger.label_scores([TEXTS[0]], "health")[0], abs=1e-6)
    assert answer["label"] is (answer["score"] > 0.5)


def test_an_instruction_without_room_for_text_is_refused(tagger: Tagger) -> None:
    with pytest.raises(UserError, match="of 96 sub-words; raise max_length or shorten it"):
        tagger.get_span(["x"], "a place " * 90)


def test_what_holds_no_proxy_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor the Hub id"):
        Tagger.load(tmp_path / "none")
    with pytest.raises(UserError, match="holds no adapter and no finished stage"):
        Tagger.load(tmp_path)
