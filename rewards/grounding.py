"""Where a value stands in a text: exactly, after normalisation, nearly, or nowhere.

Offsets are code points. No place cuts a character that is written with several, such as a letter with its combining
marks, a flag or a joined emoji (Unicode's extended grapheme clusters, UAX #29).

A value that begins or ends with a letter or digit stands there as a whole token: `NSF` is not in `NSFC`, and `1234` not
in `12345`. An uncased letter (Chinese, Thai, Arabic, Korean …) bounds a token, as these scripts write names and
particles in one. A number or id that hyphens, slashes or dots join to more is a place only where none stands alone, and
a value that is glued to a word (`GrantsGR10131`) only where there is no other place.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Final, Literal, NamedTuple

import regex
from rapidfuzz import fuzz

Match = Literal["exact", "normalised", "fuzzy", "absent"]
Place = tuple[int, int]
"""Start and end in code points, end exclusive."""

LEAST: Final = 0.9
"""Likeness (`rapidfuzz.fuzz.ratio` of the folded texts) from which another spelling is the value."""
MAX_FUZZY: Final = 512
"""Folded characters of a value, at most, that is looked for in other spellings."""
_WINDOW: Final = 1 << 14
"""Folded characters of a text that are searched at once for another spelling."""
_REMEMBERED: Final = 1 << 16
"""Characters of a text, at most, that is remembered."""
_SHORT: Final = 4
"""Letters of a value, at most, for which `US` is not the word `us`."""
_NUMBER: Final = 6
"""Digits from which a number may stand in groups: `20-19` is not 2019."""

_CLUSTER: Final = regex.compile(r"\X")
_JOINED: Final = regex.compile(r"[\p{M}\p{Emoji_Modifier}\p{Regional_Indicator}\u1100-\u11ff\ua960-\ud7ff\u200d\r]")
"""Characters without which every code point is a cluster of its own; `\\X` tells for those that have one."""
_TOKEN: Final = ("Ll", "Lu", "Nd", "Lt", "Mn")
"""Categories of the characters that make one token together."""
_WORD_BEFORE: Final = regex.compile(r"(?<![\p{L}\p{N}])\p{L}{2,}\p{Ll}$")
_WORD_AFTER: Final = regex.compile(r"\p{L}{3,}(?![\p{L}\p{N}])")
_LONGEST_WORD: Final = 40
_LINKS: Final = frozenset("-/._:,\u2010\u2011\u2012\u2013\u2212")
_QUOTES: Final = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u2035`\u00b4\u2039\u203a", "'")
    | dict.fromkeys('"\u201c\u201d\u201e\u201f\u2033\u2036\u00ab\u00bb', "''")
)


class Found(NamedTuple):
    """The best kind of match, its score in [0, 1], and all places of that kind, in order."""

    match: Match
    score: float
    mentions: tuple[Place, ...] = ()


ABSENT: Final = Found("absent", 0.0)


class Text:
    """A text in which values are looked up. What is worked out once serves all values."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._known: dict[str, Found] = {}

    def find(self, value: str) -> Found:
        """Where a value stands. Linear in the text; a blank value stands nowhere. Never raises."""
        found = self._known.get(value)
        if found is None:
            found = self._known[value] = self._find(value) if value and not value.isspace() else ABSENT
        return found

    def has(self, value: str) -> bool:
        """Whether a value stands in the text, if only in another spelling."""
        return self.find(value).match != "absent"

    def _find(self, value: str) -> Found:
        if places := self._standing(self._exact(value)):
            return Found("exact", 1.0, places)
        needle = fold(value)
        if places := self._standing(self._normalised(needle, value)):
            return Found("normalised", 1.0, places)
        return self._fuzzy(needle, value) if _SHORT < len(needle) <= MAX_FUZZY else ABSENT

    def _exact(self, value: str) -> Iterator[Place]:
        starts = self._starts
        for at in _occurrences(self.text, value):
            end = at + len(value)
            if isinstance(starts, range) or (_is_in(starts, at) and _is_in(starts, end)):
                yield at, end

    def _normalised(self, needle: str, value: str = "") -> Iterator[Place]:
        acronym = len(needle) <= _SHORT and value.isupper() and needle.isalpha()
        for at in _occurrences(self._folded[0], needle) if needle else ():
            place = self._place(at, at + len(needle))
            if place is None or (acronym and self.text[slice(*place)].islower()):
                continue
            if len(needle) < _NUMBER and needle.isdigit() and value.isalnum() and _is_grouped(self.text[slice(*place)]):
                continue  # `20-19` is two numbers, not 2019
            yield place

    def _place(self, at: int, end: int) -> Place | None:
        """The place of a slice of the folded text; None where it cuts a cluster."""
        folds, starts = self._folded[1], self._starts
        first, last = bisect_right(folds, at) - 1, bisect_right(folds, end - 1) - 1
        whole = folds[first] == at and folds[last + 1] == end
        return (starts[first], starts[last + 1]) if whole else None

    def _standing(self, places: Iterator[Place]) -> tuple[Place, ...]:
        """The places of the best rank."""
        ranked: tuple[list[Place], ...] = ([], [], [])
        for place in places:
            rank = _rank(self.text, *place)
            if rank is not None:
                ranked[rank].append(place)
        return tuple(next(filter(None, ranked), ()))

    def _fuzzy(self, needle: str, value: str) -> Found:
        """The likest slice of whole tokens. Its words with digits are the value's: another letter is another grant."""
        folded, best = self._folded[0], (0.0, "")
        for start in range(0, max(len(folded) - len(needle), 1), _WINDOW):
            window = folded[start : start + _WINDOW + 2 * len(needle)]
            near = fuzz.partial_ratio_alignment(needle, window, score_cutoff=100 * LEAST - 10)
            if near is not None and near.dest_end > near.dest_start:
                slices = self._slices(start + near.dest_start, start + near.dest_end)
                scored = ((fuzz.ratio(needle, text) / 100, text) for text in slices)
                best = max(best, *scored, key=lambda pair: pair[0])
        score, text = best
        if score < LEAST or _digits(text) != _digits(needle):
            return ABSENT
        ids, standing = _ids(value), self._standing(self._normalised(text, value))
        places = tuple(place for place in standing if _ids(self.text[slice(*place)]) == ids)
        return Found("fuzzy", round(score, 4), places) if places else ABSENT

    def _slices(self, at: int, end: int) -> Iterator[str]:
        """A slice of the folded text with each end moved to the ends of the token that it cuts."""
        folded, folds = self._folded
        first, last = bisect_right(folds, at) - 1, bisect_right(folds, end - 1)
        froms = {self._edge(first, -1), self._edge(first, 1)}
        tos = {self._edge(last, -1), self._edge(last, 1)}
        return (folded[folds[a] : folds[b]] for a in sorted(froms) for b in sorted(tos) if folds[a] < folds[b])

    def _edge(self, cluster: int, step: int) -> int:
        """The nearest token boundary from a cluster's start on, in a direction."""
        starts, text = self._starts, self.text
        while 0 < cluster < len(starts) - 1 and _is_joined(text[starts[cluster] - 1], text[starts[cluster]]):
            cluster += step
        return cluster

    @cached_property
    def _clusters(self) -> Sequence[str]:
        return _CLUSTER.findall(self.text) if _JOINED.search(self.text) else self.text

    @cached_property
    def _starts(self) -> Sequence[int]:
        """Offsets of the clusters, and the text's end."""
        if isinstance(self._clusters, str):
            return range(len(self.text) + 1)
        return [0, *accumulate(map(len, self._clusters))]

    @cached_property
    def _folded(self) -> tuple[str, list[int]]:
        """The folded text, and where each cluster begins in it."""
        pieces = list(map(_fold_cluster, self._clusters))
        return "".join(pieces), [0, *accumulate(map(len, pieces))]


def searched(text: str) -> Text:
    """A text to look values up in; the latest short ones are remembered, as each has many answers."""
    return _remembered(text) if len(text) <= _REMEMBERED else Text(text)


_remembered = lru_cache(maxsize=64)(Text)


def needed(text: object) -> Text:
    """The text that `grounded: true` looks values up in. Raises ValueError where a row has none."""
    if not isinstance(text, str):
        raise ValueError("grounded: true looks values up in the text of the row, and this row has none (meta: text)")
    return searched(text)


def pieces(text: str) -> list[str]:
    """The text cut wherever a value may begin or end, by the rules above: whole tokens, and single other characters."""
    out: list[str] = []
    at = 0
    for cluster in _CLUSTER.findall(text) if _JOINED.search(text) else text:
        joined = bool(out) and _is_joined(out[-1][-1], cluster[0])
        if joined and not (_is_seam_before(text, at) or _is_seam_after(text, at)):
            out[-1] += cluster
        else:
            out.append(cluster)
        at += len(cluster)
    return out


def fold(value: str) -> str:
    """What normalisation leaves: no case, white space, dashes or invisible characters; NFKC; plain quotes."""
    return "".join(map(_fold_cluster, _CLUSTER.findall(value) if _JOINED.search(value) else value))


@lru_cache(maxsize=1 << 16)
def _fold_cluster(cluster: str) -> str:
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", cluster).casefold())
    return "".join(c for c in plain.translate(_QUOTES) if not _is_dropped(c))


def _is_dropped(c: str) -> bool:
    return c.isspace() or c == "\u2212" or unicodedata.category(c) in ("Pd", "Cf", "Cc")


def _occurrences(text: str, needle: str) -> Iterator[int]:
    at = text.find(needle)
    while at >= 0:
        yield at
        at = text.find(needle, at + 1)


def _is_in(offsets: Sequence[int], offset: int) -> bool:
    return offsets[bisect_right(offsets, offset) - 1] == offset


def stands_free(text: str, start: int, end: int) -> bool:
    """Whether a stretch of a text cuts no token at its ends; see this module's description."""
    return not (_is_joined(text[start - 1 : start], text[start]) or _is_joined(text[end - 1], text[end : end + 1]))


def free_places(text: str, words: Sequence[str]) -> list[Place]:
    """Where words stand free in a text to the letter, white space between them, left to right without overlap."""
    places: list[Place] = []
    at = text.find(words[0]) if words and words[0].strip() else -1
    while at >= 0:
        end = _end(text, at + len(words[0]), words[1:])
        if end is not None and stands_free(text, at, end):
            places.append((at, end))
            at = text.find(words[0], end)
        else:
            at = text.find(words[0], at + 1)
    return places


def _end(text: str, at: int, words: Sequence[str]) -> int | None:
    """The end of words that follow a place, each after white space; None where they do not."""
    for word in words:
        start = at
        while at < len(text) and text[at].isspace():
            at += 1
        if at == start or not text.startswith(word, at):
            return None
        at += len(word)
    return at


def _is_joined(a: str, b: str) -> bool:
    """Whether two characters side by side belong to one token; an end of the text belongs to none."""
    return bool(a and b) and unicodedata.category(a) in _TOKEN and unicodedata.category(b) in _TOKEN


def _rank(text: str, start: int, end: int) -> int | None:
    """0: a whole token. 1: a part of an id that hyphens and the like join. 2: glued to a word. None: inside a token."""
    before, after = text[max(start - 2, 0) : start], text[end : end + 2]
    joined_before = bool(before) and _is_joined(before[-1], text[start])
    joined_after = bool(after) and _is_joined(text[end - 1], after[0])
    if joined_before or joined_after:
        seams = (not joined_before or _is_seam_before(text, start)) and (not joined_after or _is_seam_after(text, end))
        return 2 if seams else None
    linked = len(before) == 2 and before[1] in _LINKS and before[0].isalnum()
    linked = linked or (len(after) == 2 and after[0] in _LINKS and after[1].isalnum())
    return int(linked and _digits(text[start:end]) != "")


def _is_seam_before(text: str, start: int) -> bool:
    return not text[start].islower() and bool(_WORD_BEFORE.search(text[max(start - _LONGEST_WORD, 0) : start]))


def _is_seam_after(text: str, end: int) -> bool:
    last, first = text[end - 1], text[end]
    changes = first.islower() if last.isdigit() else last.islower() and first.isupper()
    return changes and bool(_WORD_AFTER.match(text[end : end + _LONGEST_WORD]))


def _is_grouped(text: str) -> bool:
    """Whether something that is seen stands between letters or digits."""
    return not all(c.isalnum() or unicodedata.category(c) == "Cf" for c in text)


def _ids(text: str) -> str:
    """The letters and digits of the words that have a digit, folded."""
    return "".join(c for word in text.split() if _digits(word) for c in fold(word) if c.isalnum())


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))
