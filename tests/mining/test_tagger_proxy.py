"""A program with a real encoder: the tagger's own answers, each item of an `each` in one batch with all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import ie_rows, save_tiny_encoder

from adapters.backends.local.tagger import CPU_BUDGET
from adapters.data_aug.mine.words import Span
from adapters.mining.engine import ProgramEngine, Proxy, labels
from adapters.mining.program import read

PROGRAM = """version: 1
steps:
  - {label: person, instruction: This text mentions a person}
  - {span: name, instruction: person}
  - each: name
    steps:
      - {span: town, instruction: "Where is {name}?"}
"""


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    from adapters.backends.local.tagger import Tagger
    from adapters.backends.local.word_encoder import WordEncoder

    folder = save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "bert")
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=3).eval()
    return Tagger(model, WordEncoder(AutoTokenizer.from_pretrained(folder), 96, 16))


def test_a_program_gives_the_answers_of_the_tagger(tagger: Any) -> None:
    texts = [row["text"] for row in ie_rows(12)]
    program = read(Path("p.yaml"), PROGRAM)
    proxy = Proxy(tagger)
    done = ProgramEngine(program, proxy, tagger.threshold, uncertain=True).read(texts)
    positive = tagger.get_label(texts, "This text mentions a person")
    names = tagger.get_span(texts, "person")
    assert any(names)
    for outcome, text, label, spans in zip(done, texts, positive, names, strict=True):
        assert outcome.record["person"] == label
        assert [(s["text"], s["start"], s["end"]) for s in outcome.record["name"]] == list(map(tuple, spans))
        for span, margin in zip(outcome.record["name"], outcome.margins[2:], strict=True):
            [wanted] = tagger.get_span([text], f"Where is {span['text']}?")
            assert [margin] == pytest.approx(tagger.margins([text], "span", f"Where is {span['text']}?"), abs=1e-5)
            assert [(s["text"], s["start"], s["end"]) for s in span["town"]] == list(map(tuple, wanted))
        assert len(outcome.margins) == sum(outcome.asked)
        assert all(0 <= margin <= 1 for margin in outcome.margins)
        assert outcome.tokens > 20
    one = ProgramEngine(program, Proxy(tagger, 1), tagger.threshold).read(texts)
    assert [outcome.record for outcome in one] == [outcome.record for outcome in done]
    assert labels(proxy, texts, "This text mentions a person", tagger.threshold) == positive


def test_questions_of_many_texts_and_spans_share_batches(tagger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []
    forward = tagger.model.forward

    def counted(input_ids: Any, **more: Any) -> Any:
        shapes.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **more)

    monkeypatch.setattr(tagger.model, "forward", counted)
    texts = [row["text"] for row in ie_rows(12)]
    done = ProgramEngine(read(Path("p.yaml"), PROGRAM), Proxy(tagger), uncertain=True).read(texts)
    windows, asked = sum(rows for rows, _ in shapes), sum(sum(outcome.asked) for outcome in done)
    assert windows >= asked > 2 * len(texts)
    assert windows > 4 * len(shapes)
    assert all(rows * width <= CPU_BUDGET for rows, width in shapes)


def test_a_span_too_long_for_an_instruction_has_no_answers(tagger: Any) -> None:
    class Long(Proxy):
        def spans(self, questions: Any) -> Any:
            return [([Span(question.text, 0, len(question.text))], 1.0) for question in questions]

    text = " ".join(row["text"] for row in ie_rows(12))
    [done] = ProgramEngine(read(Path("p.yaml"), PROGRAM), Long(tagger), 0.5).read([text])
    assert done.record["name"][0]["town"] == []
    assert done.clipped == 1
