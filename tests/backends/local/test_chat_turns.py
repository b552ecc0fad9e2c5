"""Which tokens of a conversation are learned: the template's own mask, or what it writes between two renderings."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
from test_chat_templates import TEMPLATES, tokenizer

from adapters.backends.local.encoder import Encoder
from adapters.data.preference import turn_by_turn
from adapters.errors import UserError
from adapters.tasks.chat import ChatTask
from adapters.types import Example

ANSWERS = ("In Peru.", "In Italy.", "In France.")
ASKED = ("Where is Lima?", "And Rome?", "And Paris?")
MESSAGES = [
    {"role": role, "content": text}
    for pair in zip(ASKED, ANSWERS, strict=True)
    for role, text in zip(("user", "assistant"), pair, strict=True)
]
BOOK = {"type": "function", "function": {"name": "book", "description": "Books.", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "book", "arguments": {"n": 2}}}
CALLING = [
    {"role": "user", "content": "A table for two"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "book", "content": "ok"},
    {"role": "assistant", "content": "Booked."},
    {"role": "user", "content": "One more"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
]


def conversation(messages: list[dict[str, Any]] = MESSAGES, **row: Any) -> Example:
    return ChatTask().example({"messages": messages, **row}, id="r1")


def segments(decode: Any, ids: list[int], learned: list[bool]) -> list[tuple[str, str]]:
    """Runs of learned tokens as text, each behind what stands before it."""
    out: list[tuple[str, str]] = []
    start = 0
    for n in range(1, len(ids) + 1):
        if n == len(ids) or learned[n] != learned[n - 1]:
            if learned[n - 1]:
                out.append((decode(ids[:start]), decode(ids[start:n])))
            start = n
    return out


def trained(encoder: Encoder, example: Example) -> list[tuple[str, str]]:
    sequences = [example] if encoder.one_sequence(example) else turn_by_turn(example)
    rows = encoder.labelled(sequences)
    decode = encoder.tokenizer.decode
    return [part for ids, labels in rows for part in segments(decode, ids, [label != -100 for label in labels])]


@pytest.mark.parametrize("file", [f for f in TEMPLATES if f.stem.endswith("_training")], ids=lambda file: file.stem)
def test_the_templates_own_mask_marks_the_same_turns(file: Any) -> None:
    """Its mask may begin before the answer, with what our prompt ends with, and go on behind the end token."""
    encoder = Encoder(tokenizer(file.read_text(encoding="utf-8")), thinking=False)
    marked = encoder.tokenizer.apply_chat_template(
        MESSAGES, return_assistant_tokens_mask=True, return_dict=True, enable_thinking=False
    )
    theirs = segments(encoder.tokenizer.decode, marked["input_ids"], [bool(n) for n in marked["assistant_masks"]])
    ours = trained(encoder, conversation())
    assert len(ours) == len(theirs) == 3
    end = encoder.tokenizer.decode([encoder.end])
    for (before, learned), (_, mark), answer in zip(ours, theirs, ANSWERS, strict=True):
        assert learned in (answer + end, answer)
        opening, found, _ = mark.partition(learned.removesuffix(end))
        assert found
        assert opening.strip() in before[-len(opening) - 20 :]  # DeepSeek's prompt closes a thought behind it


PLAIN = [f for f in TEMPLATES if not f.stem.endswith("_training")]


@pytest.mark.parametrize("file", PLAIN, ids=lambda file: file.stem)
def test_what_is_learned_is_what_rendering_one_more_turn_adds(file: Any) -> None:
    """For a template without marks: behind the prompt that asks for a turn stands the turn, and nothing else."""
    encoder = Encoder(tokenizer(file.read_text(encoding="utf-8")), thinking=False)
    end = encoder.tokenizer.decode([encoder.end])
    example, ours = conversation(), trained(encoder, conversation())
    assert [learned.removesuffix(end) for _, learned in ours] == list(ANSWERS)
    whole = [*example.prompt, {"role": "assistant", "content": ANSWERS[-1]}]
    for turn, (before, learned) in zip((1, 3, 5), ours, strict=True):
        asked = encoder.tokenizer.decode(encoder.prompts([whole[:turn]])[0])
        assert before == asked
        assert turn < 5 or learned.endswith(end)


def test_one_sequence_serves_all_turns_where_the_template_keeps_them() -> None:
    kept = {
        file.stem for file in PLAIN if Encoder(tokenizer(file.read_text()), thinking=False).one_sequence(conversation())
    }
    assert {"qwen2_5", "llama3", "llama3_2", "gemma3", "cohere2", "phi3", "lfm2", "smolvlm"} <= kept
    assert not {"qwen3", "qwen3_5_nothink", "deepseekv3", "gptoss"} & kept  # they close a thought, or leave one out


def test_weights_choose_the_turns() -> None:
    encoder = Encoder(tokenizer(next(f for f in PLAIN if f.stem == "qwen2_5").read_text()), thinking=False)
    weighted = [{**MESSAGES[1], "weight": 0}, MESSAGES[3], {**MESSAGES[5], "weight": 0}]
    messages = [MESSAGES[0], weighted[0], MESSAGES[2], weighted[1], MESSAGES[4], weighted[2]]
    assert [learned for _, learned in trained(encoder, conversation(messages))] == ["In Italy.<|im_end|>"]
    last = ChatTask(loss="last").example({"messages": MESSAGES}, id="r1")
    assert [learned for _, learned in trained(encoder, last)] == ["In France.<|im_end|>"]


@pytest.mark.parametrize(
    ("name", "thinking", "written"),
    [
        ("qwen2_5", False, '<tool_call>\n{"name": "book", "arguments": {"n": 2}}\n</tool_call><|im_end|>'),
        ("qwen3", False, '<tool_call>\n{"name": "book", "arguments": {"n": 2}}\n</tool_call><|im_end|>'),
        (
            "qwen3_5_nothink",
            False,
            "<tool_call>\n<function=book>\n<parameter=n>\n2\n</parameter>\n</function>\n</tool_call><|im_end|>",
        ),
        ("llama3_1", False, '{"name": "book", "parameters": {"n": 2}}<|eot_id|>'),
        ("gptoss", True, 'to=functions.book<|channel|>commentary json<|message|>{"n": 2}<|call|>'),
    ],
)
def test_calls_are_learned_as_the_template_writes_them(name: str, thinking: bool, written: str) -> None:
    text = next(f for f in PLAIN if f.stem == name).read_text()
    encoder = Encoder(tokenizer(text), thinking)
    found = [learned.strip() for _, learned in trained(encoder, conversation(CALLING, tools=[BOOK]))]
    assert len(found) == 3
    for learned in (found[0], found[2]):
        assert learned.endswith(written)
    assert "Booked." in found[1]


def test_calls_that_the_template_leaves_out_are_refused() -> None:
    encoder = Encoder(tokenizer(next(f for f in PLAIN if f.stem == "llama3").read_text()), thinking=False)
    row = {"prompt": "A table", "completion": [{"role": "assistant", "content": "", "tool_calls": [CALL]}]}
    with pytest.raises(UserError, match=r"the answer of row 'r1' without 'book'"):
        encoder.tokens([ChatTask().example(row, id="r1")])


def test_thoughts_are_learned_where_the_model_thinks() -> None:
    answer = {"role": "assistant", "content": "In Peru.", "reasoning_content": "Lima is a capital."}
    example = ChatTask().example({"messages": [MESSAGES[0], answer]}, id="r1")
    text = next(f for f in PLAIN if f.stem == "qwen3").read_text()
    [(_, learned, _)] = Encoder(tokenizer(text), thinking=True).tokens([example])
    thinking = Encoder(tokenizer(text), thinking=True)
    assert thinking.tokenizer.decode(learned).strip() == ("<think>\nLima is a capital.\n</think>\n\nIn Peru.<|im_end|>")
    with pytest.raises(UserError, match=r"model\.thinking: true"):
        Encoder(tokenizer(text), thinking=False).tokens([example])
