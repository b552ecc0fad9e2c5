"""Which edits a labelled span allows.

protect  The label stays. Inside a span, only edits that the scorer's normalisation undoes.
follow   The label becomes what the noisy text says. Inside a span, every edit.
clean    The label stays, so that a model learns to repair the text. Inside a span, every edit.

What normalisation undoes depends on the span's kind: case and separators for "id"; white space for "exact"; white
space, quotes, entities and ligatures for other kinds. Under each policy an edit lies wholly inside or wholly outside a
span and leaves no blank or gap at the span's edge. A span of kind "fixed" is never edited.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from adapters.data_aug.noise.edits import Edit, Span

POLICIES = ("protect", "follow", "clean")

_LIGATURES = {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\ufb06": "st"}
_ALIKE = str.maketrans(
    _LIGATURES
    | {chr(0xFEE0 + code): chr(code) for code in range(0x21, 0x7F)}
    | dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
    | dict.fromkeys("*\u2022\u22c6\ufeff", "")
)
_ENTITY = re.compile(r"&#?\w{1,24};")
_SPACES = re.compile(r"\s+")
_UNSEEN_IN_IDS = re.compile(r"[\s/-]+")
# A text cleaner reads these as broken encoding or markup and then treats the rest of the string differently.
_FRAGILE = re.compile("[<\\\\\x80-\x9f\u00c2\u00c3\ufffd]|\u00e2[\u20ac\u201a\u201e]")
_QUOTES = frozenset("'`\u2018\u2019")


@lru_cache(maxsize=4096)
def _text_form(piece: str) -> str:
    """A piece of running text after the scorer's normalisation."""
    if "&" in piece:
        piece = _ENTITY.sub(lambda entity: html.unescape(entity[0]), piece)
    piece = piece.translate(_ALIKE).replace("``", '"').replace("''", '"')
    return unicodedata.normalize("NFC", _SPACES.sub(" ", piece))


@lru_cache(maxsize=4096)
def _id_form(piece: str) -> str:
    """A piece of an id after normalisation: no case, blanks, hyphens or slashes."""
    return _UNSEEN_IN_IDS.sub("", piece.upper())


def _same_text(text: str, edit: Edit, span: Span) -> bool:
    """Whether the edit disappears when the label around it is normalised."""
    start, end, after, _, before = edit
    if _text_form(before) != _text_form(after) or _FRAGILE.search(text, span.start, span.end):
        return False
    label = text[span.start : span.end]
    if not (label.isascii() or after.isascii() or _text_form(after) == before):
        return False  # beside accented letters, stray non-ASCII marks can pass for broken encoding
    following = text[end] if end < span.end else ""
    if following and unicodedata.combining(following):
        return False
    if "*" in after or "''" in after or "``" in after:
        return not (_QUOTES & {text[start - 1] if start > span.start else "", following})
    return True


def harmless(text: str, edit: Edit, span: Span) -> bool:
    """Whether a label stays equal for the scorer after an edit inside its span."""
    if span.kind == "id":
        return _id_form(edit.before) == _id_form(edit.after)
    if span.kind == "exact":
        return _SPACES.sub(" ", edit.before) == _SPACES.sub(" ", edit.after)
    return _same_text(text, edit, span)


def admit(text: str, proposed: list[Edit], spans: Sequence[Span], policy: str) -> list[Edit]:
    """The proposed edits that may be made, sorted and without overlaps.

    Fills in `before`. Raises ValueError for an edit that lies outside the text.
    """
    proposed.sort()
    admitted: list[Edit] = []
    last, last_insertion = 0, -1
    for start, end, after, family, _ in proposed:
        if not 0 <= start <= end <= len(text):
            raise ValueError(f"noise family {family!r} proposed [{start}, {end}) in a text of {len(text)} characters")
        before = text[start:end]
        if start < last or before == after or (start == end == last_insertion):
            continue
        edit = Edit(start, end, after, family, before)
        if all(_allowed(text, edit, span, policy) for span in spans if span.start < end and start < span.end):
            admitted.append(edit)
            last = end
            if start == end:
                last_insertion = end
    return admitted


def _allowed(text: str, edit: Edit, span: Span, policy: str) -> bool:
    if edit.start < span.start or edit.end > span.end:
        return False
    if edit.start == span.start and (not edit.after or edit.after[0].isspace()):
        return False
    if edit.end == span.end and (not edit.after or edit.after[-1].isspace()):
        return False
    return span.kind != "fixed" and (policy != "protect" or harmless(text, edit, span))
