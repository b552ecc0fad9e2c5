"""Questions to windows of sub-words: the same in training and use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from adapters.backends.jobs import Reading
from adapters.backends.local.base_model import AT
from adapters.data.row_forms import LONE_SURROGATE
from adapters.data_aug.mine.windows import read_in, windows
from adapters.data_aug.mine.words import (
    BEGIN,
    NO,
    OUTSIDE,
    YES,
    Question,
    Span,
    around,
    question_of,
    question_words,
    tags_of,
)
from adapters.errors import UserError
from adapters.types import Example

IGNORED: Final = -100
"""Label of a position that the loss leaves out."""
_KNOWN: Final = 500_000
"""Words whose sub-words are remembered, at most."""


class Piece(NamedTuple):
    """A window: its sub-words, the places in it that are read (of words, or of Yes and No), its words of the text."""

    ids: list[int]
    places: list[int]
    first: int
    end: int


class Read(NamedTuple):
    """A question in windows. `of_words`: which window each word is read in."""

    question: Question
    words: list[Span]
    pieces: list[Piece]
    of_words: list[int]


class WordEncoder:
    """Splits questions into windows of `max_length` sub-words that share `stride` of the text.

    Each word is made sub-words of by itself, with the blank before it that the tokenizer may want. Raises UserError for
    a tokenizer without a padding token.
    """

    def __init__(self, tokenizer: Any, max_length: int, stride: int) -> None:
        if tokenizer.pad_token_id is None:
            raise UserError("the tokenizer has no padding token.", at=AT)
        self.tokenizer, self.max_length, self.stride = tokenizer, max_length, stride
        plain, behind_blank = (self._tokens([text])[0] for text in ("a", " a"))
        self.blank = " " if plain != behind_blank and len(behind_blank) <= len(plain) else ""
        self._start = [i for i in (tokenizer.cls_token_id, tokenizer.bos_token_id) if i is not None][:1]
        self._end = [i for i in (tokenizer.sep_token_id, tokenizer.eos_token_id) if i is not None][:1]
        self._known: dict[str, list[int]] = {}
        self.template: dict[str, Any] = {}

    def reading(self, question: Question) -> Reading:
        """How a question is read."""
        before, after = (self._ids(side) for side in around(question.kind, question.instruction))
        taken = sum(map(len, [*before, *after]))
        found = Reading(taken, self.max_length, 1)
        if not found.fits:
            return found
        sizes = [len(ids) for ids in self._ids(word.text for word in question_words(question))]
        return found._replace(windows=len(windows(sizes, self.max_length - taken - 2, self.stride)))

    def length(self, question: Question) -> int:
        """Sub-words of a question and its text, without special tokens."""
        before, after = around(question.kind, question.instruction)
        return sum(map(len, self._ids([*before, *(w.text for w in question_words(question)), *after])))

    def read(self, question: Question) -> Read:
        """A question in windows. Raises UserError for one that leaves no room for text."""
        before, after = (self._ids(side) for side in around(question.kind, question.instruction))
        taken = sum(map(len, [*before, *after]))
        if not Reading(taken, self.max_length, 1).fits:
            raise UserError(
                f"the instruction takes {taken} of {self.max_length} sub-words; raise max_length or shorten it."
            )
        of_text = question_words(question)
        ids = self._ids(word.text for word in of_text)
        capacity = self.max_length - taken - 2
        spread = windows([len(word) for word in ids], capacity, self.stride)
        pieces = [self._piece(question, before, ids[a:b], after, capacity, a, b) for a, b in spread]
        return Read(question, of_text, pieces, read_in(spread, len(of_text)))

    def rows(self, example: Example) -> list[dict[str, list[int]]]:
        """The windows of an example for the trainer: sub-words, and a label for each; only what is read counts."""
        read = self.read(question_of(example.prompt))
        tags = tags_of(map(tuple, example.gold.get("spans", ())), read.words)
        out = []
        for piece in read.pieces:
            wanted = tags[piece.first : piece.end]
            if read.question.kind == "label":
                wanted = [BEGIN, OUTSIDE] if example.gold["label"] else [OUTSIDE, BEGIN]
            labels = [IGNORED] * len(piece.ids)
            for place, tag in zip(piece.places, wanted, strict=True):
                labels[place] = tag
            out.append({"input_ids": piece.ids, "labels": labels})
        return out

    def _piece(
        self,
        question: Question,
        before: Sequence[list[int]],
        text: Sequence[list[int]],
        after: Sequence[list[int]],
        capacity: int,
        first: int,
        end: int,
    ) -> Piece:
        ids = list(self._start)
        starts = []
        # A word that alone is longer than a window loses its tail: its first sub-word is what is read.
        for sub_words in [*before, *(word[:capacity] for word in text), *after]:
            starts.append(len(ids))
            ids += sub_words
        read = [YES, NO] if question.kind == "label" else range(len(before), len(before) + len(text))
        return Piece(ids + self._end, [starts[n] for n in read], first, end)

    def _ids(self, texts: Iterable[str]) -> list[list[int]]:
        """The sub-words of words, one at least of each."""
        given = list(texts)
        if len(self._known) > _KNOWN:
            self._known.clear()
        if new := list({text for text in given if text not in self._known}):
            nothing = [self.tokenizer.unk_token_id if self.tokenizer.unk_token_id is not None else self._end[0]]
            ids = self._tokens([self.blank + LONE_SURROGATE.sub("\ufffd", text) for text in new])
            self._known.update((text, found or nothing) for text, found in zip(new, ids, strict=True))
        return [self._known[text] for text in given]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids
