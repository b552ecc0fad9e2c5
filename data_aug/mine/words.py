"""Words, spans and tags of a text, and the words around it that ask an encoder a question.

The prompts are those of next-token extraction (Cuckoo, arXiv 2502.11275): the question behind the text, and
classification as natural language inference. All offsets are Unicode code points, ends exclusive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple, cast

from adapters.rewards.grounding import free_places
from adapters.types import Message

LABELS: Final = ("B", "I", "O")
"""Tags of a word, in the order of the classifier's outputs: begins a span, continues it, is outside."""
BEGIN, INSIDE, OUTSIDE = range(3)
WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]")
"""A run of letters and digits, a Chinese or Japanese character, or any other character that is no white space."""
STATEMENT_WORDS: Final = 3
"""White-space words from which on the instruction of a label is a statement; a shorter one is a topic."""
YES, NO = 2, 3
"""Places of the two answers in the words before the text of a label's question."""

Place = tuple[int, int]
Kind = Literal["span", "label", "words"]
KINDS: Final = ("span", "label", "words")


class Span(NamedTuple):
    """A stretch of a text: `text` is the text from `start` to `end`, to the letter."""

    text: str
    start: int
    end: int


class Question(NamedTuple):
    """What an encoder is asked about a text.

    `words`: nothing; the text is words joined by blanks, and all of it is tagged (published rows of words and tags).
    """

    kind: Kind
    instruction: str
    text: str


def prompt_of(question: Question) -> tuple[Message, ...]:
    """A question as messages: `span: INSTRUCTION` or `label: INSTRUCTION` from the system, the text from the user."""
    system = "words" if question.kind == "words" else f"{question.kind}: {question.instruction}"
    return {"role": "system", "content": system}, {"role": "user", "content": question.text}


def question_of(prompt: Sequence[Message]) -> Question:
    """The question of such messages. Raises ValueError for others."""
    contents: list[Any] = [message["content"] for message in prompt]
    if [message["role"] for message in prompt] == ["system", "user"]:
        kind, _, instruction = contents[0].partition(": ")
        if kind in KINDS and (instruction or kind == "words"):
            return Question(cast(Kind, kind), instruction, contents[1])
    raise ValueError("the prompt is none of the task mine: a system message 'span: …' or 'label: …', and the text")


def words(text: str) -> list[Span]:
    """The words of a text, with their places."""
    return [Span(match[0], match.start(), match.end()) for match in WORD.finditer(text)]


def question_words(question: Question) -> list[Span]:
    """The words of a question's text."""
    if question.kind != "words":
        return words(question.text)
    return [Span(match[0], match.start(), match.end()) for match in re.finditer(r"\S+", question.text)]


def around(kind: Kind, instruction: str) -> tuple[list[str], list[str]]:
    """The words before and behind the text of a question."""
    if kind == "words":
        return [], []
    if kind == "label":
        statement = instruction if len(instruction.split()) >= STATEMENT_WORDS else f"This text is about {instruction}"
        asked = "Question: Based on the above sentence, is the following sentence true or not?"
        return _texts("Choice: Yes No"), _texts(f"{asked} {statement}")
    if instruction.rstrip().endswith("?"):
        return _texts("User:"), _texts(f"Question: {instruction} Assistant: Answer:")
    asked = f"Question: What is the {instruction} mentioned? Assistant: Answer: The {instruction} is"
    return _texts("User:"), _texts(asked)


def _texts(text: str) -> list[str]:
    return [word.text for word in words(text)]


def tags_of(places: Iterable[Place], of_words: Sequence[Span]) -> list[int]:
    """A tag for each word: B where a span starts, I where it goes on. A span that starts in a word takes all of it."""
    tags = [OUTSIDE] * len(of_words)
    for start, end in sorted(places):
        inside = [n for n, word in enumerate(of_words) if word.start < end and start < word.end]
        for n in inside:
            if tags[n] == OUTSIDE:
                tags[n] = BEGIN if n == inside[0] else INSIDE
    return tags


def runs(tags: Sequence[int | str]) -> list[Place]:
    """Spans of tags as ranges of words. B starts one, I continues it, and I without an open span starts one."""
    out: list[Place] = []
    open_at: int | None = None
    for n, tag in enumerate([*tags, OUTSIDE]):
        number = LABELS.index(tag) if isinstance(tag, str) else tag
        if open_at is not None and number != INSIDE:
            out.append((open_at, n))
            open_at = None
        if open_at is None and number != OUTSIDE:
            open_at = n
    return out


def spans_of(tags: Sequence[int | str], of_words: Sequence[Span], text: str) -> list[Span]:
    """Spans of tags, from the first word's start to the last word's end, verbatim."""
    places = [(of_words[first].start, of_words[end - 1].end) for first, end in runs(tags)]
    return [Span(text[start:end], start, end) for start, end in places]


def label_score(p_yes: float, p_no: float) -> float:
    """How likely a statement is, of the probabilities of B at Yes and at No; 0.5 where neither is tagged."""
    return p_yes / (p_yes + p_no) if p_yes + p_no > 0 else 0.5


def occurrences(text: str, strings: Iterable[str]) -> tuple[list[Place], list[str]]:
    """Free-standing places of strings in a text, sorted, and the strings that have none.

    Longer strings come first, and a character that one of them holds is not marked again; a string all of whose places
    are taken is found. A place inside a longer word or number is not free-standing.
    """
    taken: list[Place] = []
    missing = []
    for string in sorted(dict.fromkeys(strings), key=lambda s: (-len(s), s)):
        free = free_places(text, [string])
        if not free:
            missing.append(string)
        taken += [(a, b) for a, b in free if not any(a < end and start < b for start, end in taken)]
    return sorted(taken), missing
