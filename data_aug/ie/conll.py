"""The reader of CoNLL columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.data_aug.ie.sentences import Entity, Options, Sentence, text_lines


def conll_sentences(path: Path, options: Options, left_out: Counter[str]) -> Iterator[Sentence]:
    """Read CoNLL columns: one token a line, blank lines between sentences.

    Columns are split at tabs if the file has them, else at spaces, so that a token may hold a blank. Tags are in any
    BIO dialect, or bare types in a file without prefixes: neighbours of one type are one mention. As conlleval reads
    them, an I- tag after another type starts a mention; E-, L-, S- and U- are known too. Where the first column
    numbers the tokens of each sentence (GermEval, CoNLL-U), the second has the tokens; of GermEval's two columns of
    tags the first is read, and the nested mentions of the other are counted. Lines between sentences that begin with a
    sign of comments and are no token are comments, and counted. Raises ValueError for a line with another number of
    columns than the first and for a tag that is none.
    """
    lines = text_lines(options.read_text(path))
    columns = _Columns.of(lines, options)
    tokens: list[tuple[str, str]] = []
    for number, line in enumerate([*lines, ""], 1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if tokens:
                yield tagged(tokens)
            tokens = []
        elif not tokens and columns.is_comment(line):
            left_out["comment lines"] += 1
        else:
            tokens.append(columns.token(line, number))
            left_out[NESTED] += columns.is_nested(line)


NESTED = "tags of nested mentions; --tag-column 3 reads these instead"


def looks_like_conll(text: str, options: Options) -> bool:
    """Whether the beginning of a file is columns of tokens and tags: of most lines, so that others are named."""
    columns = _Columns.of(lines := text_lines(text), options)
    narrow = columns.at_tabs or columns.count == 2
    if "O" not in columns.tags and (not narrow or text.lstrip().startswith("<")):
        return False  # prose and XML may end in B-1
    written = [line for line in lines if line.strip() and not _NO_TOKEN.match(line)]
    return 0 < len(written) <= 2 * sum(map(columns.is_token, written))


_TAG = re.compile("O|[BIESLU]-.+")
_DIALECTS = (re.compile(r"(?P<part>[BIESLU])[_:](?P<label>.+)"), re.compile(r"(?P<label>.+)[-_](?P<part>[BIESLU])"))
"""Ways to write B-person that are turned into it where all tags of a file are of one: B_person, person-B."""
_COMMENT = re.compile(r"(?:#+|%+|;+|//+)[ \t]|#(?:\w+ ?[=:]|(?:begin|end) document\b)")
_NO_TOKEN = re.compile(f"{_COMMENT.pattern}|-DOCSTART-")


@dataclass(frozen=True)
class _Columns:
    """How the lines of a CoNLL file are split, and which tags it has."""

    options: Options
    at_tabs: bool
    count: int = 0
    tags: frozenset[str] = frozenset()
    bare: bool = False
    """Whether tags are types without a prefix."""
    dialect: re.Pattern[str] | None = None
    is_germeval: bool = False

    @classmethod
    def of(cls, lines: Sequence[str], options: Options) -> _Columns:
        """Look at the lines that cannot be comments."""
        written = [line for line in lines if line.strip()]
        certain = [line for line in written if not _NO_TOKEN.match(line)] or written
        at_tabs = any("\t" in line for line in certain)
        split = cls(options, at_tabs).split
        rows = [split(line) for line in certain]
        count = len(rows[0]) if rows else 2
        nested = False
        if options.token_column == 0 and _are_numbered(lines, split):
            options = replace(options, token_column=1)
        if options.tag_column == -1 and options.token_column == 1 and count == 4:
            nested = all(is_tag(tag) for row in rows for tag in row[2:])
            options = replace(options, tag_column=2) if nested else options
        tags = frozenset(tag for row in rows for tag in row[options.tag_column :][:1])
        dialect = next((d for d in _DIALECTS if _is_of(d, tags - {"O"})), None)
        return cls(options, at_tabs, count, tags, not dialect and are_bare_types(tags), dialect, nested)

    def split(self, line: str) -> list[str]:
        """The columns of a line."""
        if self.at_tabs:
            return [column.strip(" ") for column in line.rstrip("\t ").split("\t")]
        return [column for column in line.split(" ") if column]

    def is_nested(self, line: str) -> bool:
        """Whether a token has a tag in GermEval's second column of tags too."""
        return self.is_germeval and self.split(line)[-1] != "O"

    def is_comment(self, line: str) -> bool:
        """Whether a line between sentences that begins with a number sign is no token."""
        if not _COMMENT.match(line):
            return False
        columns = self.split(line)
        last = columns[self.options.tag_column :][:1]
        return len(columns) != self.count or not all(tag in self.tags or is_tag(tag) for tag in last)

    def is_token(self, line: str) -> bool:
        """Whether a line ends in a tag, after a token. Bare types are tags where all lines have as many columns."""
        columns = self.split(line)
        tag = "".join(columns[self.options.tag_column :][:1])
        other = self.bare or (self.dialect and self.dialect.fullmatch(tag))
        return len(columns) > 1 and (is_tag(tag) or bool(other and len(columns) == self.count))

    def token(self, line: str, number: int) -> tuple[str, str]:
        """Token and tag of a line. Raises ValueError."""
        columns, start = self.split(line), f"line {number}"
        if len(columns) != self.count:
            known = f"the first line of the file has {self.count}"
            raise ValueError(f"{start} has {len(columns)} columns, {known}: {line.strip()[:60]!r}")
        try:
            token, tag = columns[self.options.token_column], columns[self.options.tag_column]
        except IndexError:
            raise ValueError(f"{start} has {len(columns)} columns: {line.strip()[:60]!r}") from None
        if self.dialect and (parts := self.dialect.fullmatch(tag)):
            tag = f"{parts['part']}-{parts['label']}"
        elif self.bare and tag != "O":
            tag = f"I-{tag}"
        if len(columns) < 2 or not _TAG.fullmatch(tag):
            place = f"column {self.options.tag_column}"
            raise ValueError(f"{start}: {tag!r} is no tag such as B-person, I-person or O ({place})")
        if not token:
            raise ValueError(f"{start}: the token is empty")
        return token, tag


def _is_of(dialect: re.Pattern[str], tags: Collection[str]) -> bool:
    """Whether all tags are of a dialect, some label with its beginning and its inside."""
    if all(map(is_tag, tags)):
        return False
    found = [dialect.fullmatch(tag) for tag in tags]
    parts = {(match["label"], match["part"]) for match in found if match}
    return None not in found and any(part == "B" and (label, "I") in parts for label, part in parts)


def _are_numbered(lines: Sequence[str], split: Callable[[str], list[str]]) -> bool:
    """Whether the first of several columns counts the tokens of each sentence, from 1."""
    expected, seen = 1, False
    for line in lines:
        columns = split(line)
        if not any(columns) or line.startswith("-DOCSTART-") or (_COMMENT.match(line) and expected == 1):
            expected = 1
        elif len(columns) < 3 or columns[0] != str(expected):
            return False
        else:
            expected, seen = expected + 1, True
    return seen


def are_bare_types(tags: Collection[str]) -> bool:
    """Whether the tags of a file are types without B- and I-."""
    # Without an O, they are no tags of mentions: parts of speech, say.
    return "O" in tags and len(tags) > 1 and not any(is_tag(tag) for tag in tags if tag != "O")


def is_tag(tag: str) -> bool:
    """Whether a text is a tag of a BIO dialect."""
    return _TAG.fullmatch(tag) is not None


def tagged(tokens: Sequence[tuple[str, str]]) -> Sentence:
    """The sentence of tokens with tags of a BIO dialect; single spaces stand between the tokens."""
    entities: list[Entity] = []
    at, open_label, start, end = 0, "", 0, 0
    for token, tag in tokens:
        prefix, _, label = tag.partition("-")
        if open_label and (prefix in "OBSU" or label != open_label):
            entities.append(Entity(open_label, ((start, end),)))
            open_label = ""
        if label and not open_label:
            open_label, start = label, at
        end = at + len(token)
        if open_label and prefix in "ELSU":
            entities.append(Entity(open_label, ((start, end),)))
            open_label = ""
        at = end + 1
    if open_label:
        entities.append(Entity(open_label, ((start, end),)))
    return Sentence(" ".join(token for token, _ in tokens), entities)
