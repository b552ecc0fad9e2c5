"""Tokenizer and chat template of a base model: prompts and answers to tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Final

from adapters.backends.local.base_model import AT
from adapters.errors import UserError, first_line
from adapters.types import Example, Lengths, Message


def end_tokens(config: Any) -> list[int]:
    """The end tokens of a generation config, which may name none, one or several."""
    eos = config.eos_token_id
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


class Encoder:
    """Turns prompts and targets into token ids, the same in training and use.

    The chat template is mended where that changes no text that it writes: one that reads messages only as lists of
    parts reads texts too, and `opening`, what it writes between its prompt and an answer (a channel, an empty thought),
    becomes part of the prompt where models are not to think. `between` is that text before it is mended. Raises
    UserError for an unusable chat template.
    """

    def __init__(self, tokenizer: Any, thinking: bool) -> None:
        self.tokenizer = tokenizer
        self.template = {"enable_thinking": thinking}
        self._read_texts()
        self.end = self._end_token()
        self.between = self._between()
        self.opening = "" if thinking else self._opening()
        if self.opening:
            # Jinja reads the escapes of a Python text.
            said = f"{{{{ {self.opening!a} }}}}"
            self._mend(end=f"{{% if add_generation_prompt and not enable_thinking %}}{said}{{% endif %}}")

    def stops(self, config: Any) -> list[int]:
        """The tokens that end an answer: the one that is taught, and those of a generation config."""
        return sorted({self.end, *end_tokens(config)})

    def prompts(self, prompts: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Token ids of each prompt, up to the place where the answer starts. Raises UserError."""
        return self._ids([self.text(prompt) for prompt in prompts])

    def reply(self, text: str, *, ended: bool) -> list[int]:
        """Token ids of what the template writes between an answer and the next one, where the user says `text`.

        The answer's end token is left out where it has `ended`. Raises UserError for a template that changes the text.
        """
        turns: list[Message] = [_ASKED, {"role": "assistant", "content": _MARK}, {"role": "user", "content": text}]
        try:
            written = self.rendered(turns).partition(_MARK)[2]
        except Exception as error:  # a template may raise anything
            raise UserError(f"the chat template refuses a reply: {first_line(error)}", at=AT) from error
        if text.strip() not in written:
            raise UserError("the chat template changes what the user replies to an answer", at=AT)
        before, end, after = written.partition(self.tokenizer.convert_ids_to_tokens(self.end))
        return self._ids([after if ended and end and not before.strip() else written])[0]

    def completions(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each answer, closed by the end token."""
        return [[*ids, self.end] for ids in self._ids(texts)]

    def tokens(self, examples: Sequence[Example]) -> list[tuple[list[int], list[int], list[int]]]:
        """Token ids of each example's prompt, target and rejected side (empty if none). Raises UserError."""
        prompts = [self.text(e.prompt, row=e.id) for e in examples]
        asked = list(zip(examples, prompts, strict=True))
        targets = self._targets([(e, prompt, e.completion, e.answer) for e, prompt in asked])
        others = self._targets([(e, prompt, e.rejected, e.rejected_answer) for e, prompt in asked])
        return list(zip(self._ids(prompts), targets, others, strict=True))

    def _targets(self, sides: Sequence[tuple[Example, str, str | None, Message | None]]) -> list[list[int]]:
        """The ids of one side of each example: text and end token, or what the template writes for a message."""
        texts = iter(self.completions([text for _, _, text, answer in sides if text is not None and answer is None]))
        return [
            [] if text is None else next(texts) if answer is None else self._written(example, prompt, answer)
            for example, prompt, text, answer in sides
        ]

    def labelled(self, examples: Sequence[Example]) -> list[tuple[list[int], list[int]]]:
        """Token ids of each example's conversation, and the labels of SFT: the ids that are learned, else -100."""
        out = []
        for example, (prompt, target, _) in zip(examples, self.tokens(examples), strict=True):
            labels = [-100] * len(prompt)
            for n in self.learned_tokens(example):
                labels[n] = prompt[n]
            hidden = self._hidden(example)
            answer = [-100 if n in hidden else token for n, token in enumerate(target)]
            out.append((prompt + target, labels + answer))
        return out

    def _hidden(self, example: Example) -> set[int]:
        """Indexes, among the target's tokens, of those that touch what SFT does not learn."""
        if not example.masked or example.completion is None:
            return set()
        offsets = self._offsets(example.completion)
        return {n for n, (a, b) in enumerate(offsets) if any(a < end and start < b for start, end in example.masked)}

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token stands in a text. Raises UserError for a tokenizer that does not say."""
        if not self.tokenizer.is_fast:
            raise UserError("the tokenizer is a slow one, which does not say where a token stands in its text", at=AT)
        read = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [(start, end) for start, end in read["offset_mapping"]]

    def one_sequence(self, example: Example) -> bool:
        """Whether the turns to be learned stand in the prompt as the model would be asked for them and answer.

        Where a template writes earlier turns in another way, such as without their thoughts, each turn must be learned
        in a sequence of its own.
        """
        try:  # a slow tokenizer does not say where in the text a token stands
            return self.tokenizer.is_fast and None not in [self._span(example.prompt, n) for n in example.learned]
        except UserError:
            return False

    def keeps_turns(self) -> bool:
        """Whether the template writes an earlier turn as the model was asked for it and answered."""
        answer: Message = {"role": "assistant", "content": _MARK}
        return self.one_sequence(Example("", "", (_ASKED, answer, _ASKED), learned=(1,)))

    def learned_tokens(self, example: Example) -> list[int]:
        """Indexes, among the prompt's tokens, of earlier turns that SFT learns, with their end tokens."""
        if not example.learned:
            return []
        spans = [self._span(example.prompt, n) for n in example.learned]
        offsets = self._offsets(self.text(example.prompt))
        return [n for n, (a, b) in enumerate(offsets) if any(s and s[0] <= a < b <= s[1] for s in spans)]

    def _span(self, prompt: Sequence[Message], turn: int) -> tuple[int, int] | None:
        """Where a turn of the assistant stands in the text of the prompt, with its end token.

        None where the model would be asked for it by another text than stands before it, or answer with another.
        """
        whole, asked = self.text(prompt), self.text(prompt[:turn])
        answered = self.rendered(prompt[: turn + 1], generation=False)
        if not answered.startswith(asked):
            return None
        end = self.tokenizer.convert_ids_to_tokens(self.end)
        said, ended, _ = answered[len(asked) :].rpartition(end)
        answer = said + ended or answered[len(asked) :].rstrip()
        if not ended and whole.startswith(asked + answer + end):
            answer += end  # a template that writes it between messages only
        return (len(asked), len(asked + answer)) if answer and whole.startswith(asked + answer) else None

    def _written(self, example: Example, prompt: str, answer: Message) -> list[int]:
        """The ids of what the template writes for an answer behind its prompt. Raises UserError."""
        row = f"the answer of row {example.id!r}"
        try:
            turn = self.rendered([*example.prompt, answer], generation=False)
        except Exception as error:  # a template may raise anything
            raise UserError(f"the chat template refuses {row}: {first_line(error)}", at=AT) from error
        thought = _EMPTY_THOUGHT.search(prompt)  # a prompt may close a thought that whole turns do not show
        befores = (prompt, prompt[: thought.start()] if thought else prompt)
        before = next((text for text in befores if turn.startswith(text)), None)
        said = "" if before is None else turn[len(before) :].rstrip()
        if thought and before != prompt and said.startswith(f"<{thought[1]}>"):
            said = ""  # the prompt closes the thought that the answer has
        parts = [call["function"]["name"] for call in answer.get("tool_calls", ())]
        parts += [str(answer[key]) for key in ("content", "reasoning_content", "thinking") if answer.get(key)]
        if lost := [part for part in parts if part.strip() not in said]:
            what = "behind another text than its prompt" if before is None else f"without {lost[0]!r:.60}"
            advice = "" if self.template["enable_thinking"] else "; perhaps it does with model.thinking: true"
            raise UserError(f"the chat template writes {row} {what}{advice}", at=AT)
        ids = self._ids([said])[0]
        last = self.tokenizer.added_tokens_decoder.get(ids[-1])
        # Some templates end a call with a token of its own, which then is among those that end a generation.
        return ids if ids[-1] == self.end or (last is not None and last.special) else [*ids, self.end]

    def lengths(self, examples: Sequence[Example]) -> list[Lengths]:
        """Tokens of each example's prompt, target and rejected side (0 if none). Raises UserError."""
        return [Lengths(*map(len, row)) for row in self.tokens(examples)]

    def text(self, prompt: Sequence[Message], *, row: str | None = None) -> str:
        """The prompt as the chat template writes it. Raises UserError when it refuses or leaves out a part of it."""
        which = "the prompt" if row is None else f"the prompt of row {row!r}"
        try:
            text = self.rendered(prompt)
        except Exception as error:  # a template may raise anything
            raise UserError(
                f"the chat template refuses {which}: {first_line(error)}{self._advice(prompt)}", at=AT
            ) from error
        if lost := self._lost(prompt, text):
            raise UserError(f"the chat template leaves {lost} out of {which}: the model would never see it", at=AT)
        return text

    def rendered(self, turns: Sequence[Message], *, generation: bool = True) -> str:
        """What the chat template writes for messages; with `generation`, up to the next answer. May raise anything."""
        calls = any("tool_calls" in turn for turn in turns)
        try:
            return self._rendered(turns, generation, arguments=dict)
        except Exception:  # some templates join the arguments of a call to a text
            if not calls:
                raise
            return self._rendered(turns, generation, arguments=json.dumps)

    def _rendered(self, turns: Sequence[Message], generation: bool, arguments: Callable[[Any], Any]) -> str:
        text: str = self.tokenizer.apply_chat_template(
            [self._turn(turn, arguments) for turn in turns],
            tools=(turns[0].get("tools") or None) if turns else None,
            add_generation_prompt=generation,
            tokenize=False,
            **self.template,
        )
        return text

    def _turn(self, turn: Message, arguments: Callable[[Any], Any]) -> dict[str, Any]:
        out: dict[str, Any] = {key: value for key, value in turn.items() if key != "tools"}
        if calls := turn.get("tool_calls"):
            functions = [{**c["function"], "arguments": arguments(c["function"]["arguments"])} for c in calls]
            out["tool_calls"] = [{**c, "function": f} for c, f in zip(calls, functions, strict=True)]
        return out

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return ids

    def _advice(self, prompt: Sequence[Message]) -> str:
        """What to do where the template takes the prompt without its system message."""
        rest = [turn for turn in prompt if turn["role"] != "system"]
        if len(rest) < len(prompt):
            with suppress(Exception):
                self.rendered(rest)
                return '. It takes no system message: set task.system: "", and say in task.user what it said'
        return ""

    def _lost(self, prompt: Sequence[Message], text: str) -> str | None:
        """A part of the prompt without which the template writes the same text."""
        if self._without_system and any(turn["role"] == "system" for turn in prompt):
            return "the system message"
        for key in ("tools", "tool_calls"):
            if any(turn.get(key) for turn in prompt):
                bare: Any = [{k: v for k, v in turn.items() if k != key} for turn in prompt]
                with suppress(Exception):
                    if self.rendered(bare) == text:
                        return key
        for n, turn in enumerate(prompt):
            for what, other in _altered(turn):
                with suppress(Exception):
                    if self.rendered([*prompt[:n], other, *prompt[n + 1 :]]) == text:
                        return what
        return None

    @cached_property
    def _without_system(self) -> bool:
        with suppress(Exception):
            return _MARK not in self.rendered([{"role": "system", "content": _MARK}, _ASKED])
        return False  # refused, which the prompt itself will show

    def _read_texts(self) -> None:
        failure = "it leaves out the text of messages"
        for mended in (False, True):
            if mended:  # the templates of some vision models know lists of parts only
                self._mend(start=_TEXTS_AS_PARTS)
            try:
                if _MARK in self.rendered([{"role": "user", "content": _MARK}]):
                    return
            except Exception as error:  # a template may raise anything
                failure = first_line(error)
        raise UserError(f"the chat template cannot be used: {failure}", at=AT)

    def _end_token(self) -> int:
        # The token that the template writes after an answer, which need not be the tokenizer's own end token.
        tail = self._ids([self._answered().rpartition(_MARK)[2].lstrip()])[0]
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        end = tail[0] if tail and tail[0] in special else self.tokenizer.eos_token_id
        if end is None:
            raise UserError("the chat template writes no end token after an answer, and the tokenizer has none", at=AT)
        return int(end)

    def _answered(self) -> str:
        try:
            return self.rendered([_ASKED, {"role": "assistant", "content": _MARK}], generation=False)
        except Exception as error:  # a template may raise anything
            raise UserError(f"the chat template refuses an answer: {first_line(error)}", at=AT) from error

    def _between(self) -> str:
        prompt, (before, mark, _) = self.rendered([_ASKED]), self._answered().rpartition(_MARK)
        return before[len(prompt) :] if mark and before.startswith(prompt) else ""

    def _opening(self) -> str:
        prompt = self.rendered([_ASKED])
        if self.between.strip():
            # A template that does not say where an answer begins is refused by the audit.
            return self.between if prompt != self.rendered([_ASKED], generation=False) else ""
        # White space that the tokenizer joins to the answer's first word is no part of the prompt.
        whole = prompt + self.between
        seams = [self._ids([whole + start, whole, start]) for start in _STARTS]
        return self.between if all(joined == before + after for joined, before, after in seams) else ""

    def _mend(self, start: str = "", end: str = "") -> None:
        """Add to the chat template itself, so that trainers, servers and users get the same prompt."""
        own = self.tokenizer.chat_template
        named = own if isinstance(own, dict) else {"default": own}
        # Jinja leaves a template's last line break out.
        whole = {name: start + re.sub(r"(\r\n|\r|\n)\Z", "", text) + end for name, text in named.items()}
        self.tokenizer.chat_template = whole if isinstance(own, dict) else whole["default"]


_EMPTY_THOUGHT: Final = re.compile(r"<(\w+)>\s*</\1>\s*\Z")
_MARK: Final = "adapters mark"
_ASKED: Final[Message] = {"role": "user", "content": "a"}
_STARTS: Final = ("[{", "The")
"""Beginnings of answers."""
_TEXTS_AS_PARTS: Final = (
    "{%- set turns = namespace(all=[]) -%}{%- for turn in messages -%}{%- if turn.content is string -%}"
    "{%- set turn = dict(turn, content=[{'type': 'text', 'text': turn.content}]) -%}{%- endif -%}"
    "{%- set turns.all = turns.all + [turn] -%}{%- endfor -%}{%- set messages = turns.all -%}"
)


def _altered(turn: Message) -> Iterator[tuple[str, Message]]:
    """A turn without one of its parts, or with more text, which a template should write in another way."""
    for key, what in (("tools", "tools"), ("tool_calls", "tool_calls of a turn")):
        several: Any = turn.get(key) or ()
        for n in range(len(several) if len(several) > 1 else 0):
            without: Any = {**turn, key: [*several[:n], *several[n + 1 :]]}
            yield f"one of {len(several)} {what}", without
    if (role := turn["role"]) not in ("system", "user", "assistant"):
        what = "the reply of a tool" if role == "tool" else f"the message of the role {role!r}"
        yield what, {**turn, "content": f"{turn['content']}{_MARK}"}
