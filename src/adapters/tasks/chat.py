"""The `chat` task: conversations in OpenAI's form, with tools."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal

from adapters.data import preference
from adapters.data_aug.noise import Label
from adapters.rewards import chat_answers
from adapters.rewards.chat import parts
from adapters.types import Aligned, Counts, Example, Message, Row

ROWS: Final[tuple[Row, ...]] = (
    {
        "id": "made-1",
        "messages": [
            {"role": "user", "content": "Which river runs through Sampleton?"},
            {"role": "assistant", "content": "The Placeholder runs through Sampleton."},
            {"role": "user", "content": "And how long is it?"},
            {"role": "assistant", "content": "It is 77 km long."},
        ],
    },
    {
        "id": "made-2",
        "messages": [
            {"role": "user", "content": "Name a bridge of Sampleton as JSON."},
            {"role": "assistant", "content": '{"bridge": "Old Example Bridge"}'},
        ],
    },
)


_OTHER_FORMS: Final = ("conversations", "conversation", "instruction", "tokens", "text")


@dataclass(frozen=True)
class ChatTask:
    """Rows hold `messages` in OpenAI's form, the last of them the assistant's, or `prompt` and `completion`.

    `tools`, a column, are the functions that the assistant may call. `prompt` is a text or messages, `completion` a
    text or a message. Messages that end with another role are a prompt without an answer. Pairs for DPO have `prompt`
    (or `messages`), `chosen` and `rejected`. ShareGPT, Alpaca and other forms become such rows by `adapters data
    convert --to chat`.

    `loss` says what SFT learns: `all` turns of the assistant, or the `last`. A turn with `"weight": 0` is not learned.
    Evaluation, GRPO and DPO answer the last turn.

    `system` is put in front of conversations without a system message.
    """

    loss: Literal["all", "last"] = "all"
    system: str = ""
    text_field: str = "messages"
    reads_prompt: ClassVar[bool] = True
    structures: ClassVar[tuple[str, ...]] = ("tools",)
    request_fields: ClassVar[tuple[str, ...]] = ("tools", "system")
    example_rows: ClassVar[tuple[Row, ...]] = ROWS
    example_row: ClassVar[Row] = ROWS[0]
    form_fields: ClassVar[tuple[str, ...]] = ("json",)
    modes: ClassVar[dict[str, str]] = {
        "tokens": "an answer counts by the F1 of the words that it shares with the reference, a call when name and "
        "arguments are the same",
        "exact": "an answer counts when its text and its calls are the reference's",
    }
    field_meanings: ClassVar[dict[str, str]] = {
        "text": "the words of the answer, where the reference says something",
        "call": "the calls of tools",
        "answer": "text and calls together",
        "json": "the answer is JSON, where the reference is",
    }

    def __post_init__(self) -> None:
        """Raises ValueError that names the parameter and what it must be."""
        if self.loss not in ("all", "last"):
            raise ValueError(f"loss must be all or last, got {self.loss!r}")

    def example(self, row: Row, *, source: str = "", id: str = "") -> Example:
        """One conversation. Raises ValueError for a bad row."""
        prompt, learned, answer = self._read(row)
        meta = {**preference.meta(row), "text": "\n".join(t["content"] for t in prompt if t["role"] != "system")}
        asked = Example(id, source, prompt, meta=meta)
        if answer is None:
            return asked
        return replace(preference.answered(asked, answer), learned=learned, gold=_gold(answer))

    def gold(self, row: Row) -> dict[str, Any] | None:
        """Text and calls of the last turn, None where nobody answers. Raises ValueError."""
        answer = self._answer(row, _turns(row))[1]
        return None if answer is None else _gold(answer)

    def labels(self, row: Row) -> Iterator[Label]:
        """None: a conversation has no labelled values."""
        return iter(())

    def adversarial(self, example: Example) -> dict[str, str]:
        """Plausible wrong turns, for testing rewards."""
        words = (example.completion or "").split()
        asked = next((turn["content"] for turn in reversed(example.prompt) if turn["role"] == "user"), "")
        wrong = {"half of the answer": " ".join(words[: len(words) // 2]), "the question itself": asked}
        if calls := (example.gold or {}).get("tool_calls"):
            other = {"function": {**calls[0], "arguments": {**calls[0]["arguments"], "extra": 1}}}
            wrong["another argument"] = chat_answers.write({"tool_calls": [other]})
        return {name: text for name, text in wrong.items() if text != example.completion}

    def align(self, gold: Any, completion: str) -> list[Aligned]:
        """The texts, and every call beside one that is the same."""
        gold = gold if isinstance(gold, Mapping) else {}
        said, answer = gold.get("content") or "", chat_answers.read(completion)
        rows = [Aligned("text", said or None, answer.content or None, chat_answers.same_text(said, answer.content))]
        left = list(answer.calls)
        for call in gold.get("tool_calls") or ():
            same = next((c for c in left if chat_answers.matched_calls([call], [c])), None)
            rows.append(Aligned("call", _shown(call), None if same is None else _shown(same), same is not None))
            left = [c for c in left if c is not same]
        return [row for row in rows if row.gold or row.pred] + [Aligned("call", None, _shown(c)) for c in left]

    def counts(self, gold: Any, completion: str) -> dict[str, Mapping[str, Counts]]:
        """Shared words and calls, and whole answers. Never raises."""
        if not isinstance(gold, Mapping):
            nothing = Counts(0, 0, 0)
            return {"tokens": {"text": nothing, "call": nothing}, "exact": {"answer": nothing, "json": nothing}}
        answer = chat_answers.read(completion)
        found = parts(gold, answer)
        calls, says = gold.get("tool_calls") or [], bool(answer.content)
        called = answer.calls if "calls" in found else ()
        matched = chat_answers.matched_calls(calls, called)
        return {
            "tokens": {
                "text": Counts(1, int(says), found["tokens"]) if "tokens" in found else Counts(0, 0, 0),
                "call": Counts(len(calls), len(called), matched),
            },
            "exact": {
                "answer": Counts(1, int(says or bool(called)), found["exact"]),
                "json": Counts(1, 1, found["json"]) if "json" in found else Counts(0, 0, 0),
            },
        }

    def is_well_formed(self, completion: str) -> bool:
        """Whether the turn says something, and every tool call in it can be read."""
        answer = chat_answers.read(completion)
        return not answer.problem and bool(answer.content or answer.calls)

    def request(self, row: Row) -> tuple[Message, ...]:
        """The prompt of a row; an answer that it holds already is left out. Raises ValueError."""
        return self._read({name: row.get(name) for name in ("messages", "tools", "system")})[0]

    def decode(self, completion: str) -> dict[str, Any]:
        """Text and calls of a completion. Raises ValueError for a call that cannot be read."""
        answer = chat_answers.read(completion)
        if answer.problem:
            raise ValueError(answer.problem)
        return {"content": answer.content, "tool_calls": [dict(call) for call in answer.calls]}

    def record(self, answer: Any) -> dict[str, Any]:
        """A decoded answer, its arguments as JSON text as OpenAI's API gives them. Raises ValueError."""
        if not isinstance(answer, Mapping):
            raise ValueError(f"wrong shape: text and calls are wanted, not {type(answer).__name__}")
        calls = answer.get("tool_calls") or []
        written = [{**c, "arguments": json.dumps(c["arguments"], ensure_ascii=False)} for c in calls]
        return {"content": answer.get("content") or "", "tool_calls": written}

    def answer_schema(self) -> None:
        """None: an answer is text."""

    def record_schema(self) -> dict[str, Any]:
        """The schema of `record`."""
        text = {"type": "string"}
        call = {"type": "object", "properties": {"name": text, "arguments": text}, "required": ["name", "arguments"]}
        properties = {"content": text, "tool_calls": {"type": "array", "items": call}}
        return {"type": "object", "properties": properties, "required": list(properties)}

    def _read(self, row: Row) -> tuple[tuple[Message, ...], tuple[int, ...], Message | None]:
        """The prompt, the indexes of its turns that SFT learns too, and the answer."""
        turns, answer = self._answer(row, _turns(row))
        if not turns:
            raise ValueError("nothing stands before the assistant's answer")
        system = row.get("system")
        if system is None and self.system and not any(_role(turn) in ("system", "developer") for turn in turns):
            system = self.system
        asked = {"prompt": [_unweighted(turn) for turn in turns], "system": system, "tools": row.get("tools")}
        prompt = preference.conversation(asked, "prompt")
        shift = len(prompt) - len(turns)
        learned = [n + shift for n, turn in enumerate(turns) if _role(turn) == "assistant" and _weight(turn)]
        return prompt, tuple(learned) if self.loss == "all" else (), answer

    def _answer(self, row: Row, turns: list[Any]) -> tuple[list[Any], Message | None]:
        """The turns before the answer, and the answer: the assistant's last turn that has a weight."""
        for column in ("completion", "chosen"):
            if row.get(column) is not None:
                return turns, preference.turn(row, column)
        if not turns or _role(turns[-1]) != "assistant":
            return turns, None
        learned = [n for n, turn in enumerate(turns) if _role(turn) == "assistant" and _weight(turn)]
        if not learned:
            raise ValueError("every turn of the assistant has the weight 0")
        last = learned[-1]
        return turns[:last], preference.turn({"the last turn": _unweighted(turns[last])}, "the last turn")


def _turns(row: Row) -> list[Any]:
    """The messages of a row, unchecked; a text is one of the user. Raises ValueError where it has none."""
    given, other = row.get("messages"), next((k for k in ("prompt", "completion") if row.get(k) is not None), None)
    if given is not None and other is not None:
        raise ValueError(f"the row has messages and {other}; a row has messages alone, or prompt and completion")
    given = row.get("prompt") if given is None else given
    if given is None:
        form = next((name for name in _OTHER_FORMS if row.get(name) is not None), "")
        hint = f"; it has {form}: `adapters data convert --to chat` makes messages of such rows" if form else ""
        raise ValueError(f"the row has neither messages nor prompt{hint}")
    if isinstance(given, str):
        return _from_text(given)
    return list(given) if isinstance(given, list | tuple) else [given]


def _from_text(text: str) -> list[Any]:
    """A table's cell: messages as JSON, or the user's words."""
    if text.lstrip().startswith("[") and '"role"' in text:
        with suppress(ValueError, RecursionError):
            value = json.loads(text)
            if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
                return value
    return [{"role": "user", "content": text}]


def _role(turn: Any) -> Any:
    return turn.get("role") if isinstance(turn, Mapping) else None


def _unweighted(turn: Any) -> Any:
    return {key: value for key, value in turn.items() if key != "weight"} if isinstance(turn, Mapping) else turn


def _weight(turn: Mapping[str, Any]) -> bool:
    """Whether a turn is learned. Raises ValueError."""
    weight = turn.get("weight")
    if weight not in (None, 0, 1):
        raise ValueError(f"the weight of a message is 0 or 1, not {weight!r:.40}")
    return weight != 0


def _gold(answer: Message) -> dict[str, Any]:
    calls = [chat_answers.called(call["function"]) for call in answer.get("tool_calls", ())]
    return {"content": answer["content"], "tool_calls": calls}


def _shown(call: chat_answers.Call) -> str:
    return f"{call['name']}({json.dumps(call['arguments'], ensure_ascii=False)[1:-1]})"
