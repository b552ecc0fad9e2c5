"""Annotated corpora as sentences and plain rows; the readers of CoNLL, SpERT, brat and IEPile."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from adapters.data_aug.ie.records import Row, from_iepile, row_id

T = TypeVar("T")


class Entity(NamedTuple):
    """A mention: its label and character ranges, several if it is discontinuous."""

    label: str
    ranges: tuple[tuple[int, int], ...]

    def surface(self, text: str) -> str:
        """The text of the mention."""
        return " ".join(text[start:end] for start, end in self.ranges)


class Relation(NamedTuple):
    """A directed relation between two mentions."""

    label: str
    head: Entity
    tail: Entity


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text with its mentions and relations."""

    text: str
    entities: Sequence[Entity] = ()
    relations: Sequence[Relation] = ()


def utf8_text(path: Path) -> str:
    """The text of a file in UTF-8, its line ends and byte-order mark as they are. Raises ValueError."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error}") from None


@dataclass(frozen=True)
class Options:
    """How a corpus becomes rows.

    `source` names it in ledgers. `labels` renames: {"PER": "person"}; a label renamed to "" is dropped. `schema` (after
    renaming) fixes order and membership; without it, it is the union of the labels in their order of appearance.
    `tasks` are the rows to make, of those that the format knows; a schema is one task's.
    `drop_empty` leaves out texts without labels, as IEPile does for relations. Of texts that come twice only the first
    is kept (IEPile's evaluation knows a text by its hash), unless `keep_doubles`. `token_column` and `tag_column` are
    CoNLL's, counted from 0, from the end when negative; the defaults leave out running numbers. `tag_names` names tags
    that are numbers. `offsets` is what offsets count: characters, utf16 (JavaScript's) or utf8 (bytes); empty: found
    where mentions carry their texts. `read_text` gives a file's text with its line ends and byte-order mark.
    """

    source: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    schema: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("NER", "RE")
    drop_empty: bool = False
    keep_doubles: bool = False
    token_column: int = 0
    tag_column: int = -1
    tag_names: tuple[str, ...] = ()
    offsets: str = ""
    read_text: Callable[[Path], str] = utf8_text


@dataclass
class Corpus:
    """Rows of a corpus, and the number left out by reason."""

    rows: list[Row]
    left_out: dict[str, int] = field(default_factory=dict)


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
    lines = _lines(options.read_text(path))
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
    columns = _Columns.of(lines := _lines(text), options)
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


def spert_sentences(path: Path, options: Options, left_out: Counter[str]) -> Iterator[Sentence]:
    """Read SpERT's JSON: a list of sentences with tokens, entities and relations. Raises ValueError for other JSON."""
    try:
        documents = json.loads("\n".join(_lines(options.read_text(path))))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(documents, list):
        raise ValueError("is no list of sentences")
    for number, document in enumerate(documents, 1):
        yield spert_sentence(document, f"sentence {number}", left_out)


def spert_sentence(document: Any, place: str, left_out: Counter[str]) -> Sentence:
    """A sentence of SpERT's JSON.

    It is `{"tokens", "entities": [{"type", "start", "end"}], "relations": [{"type", "head", "tail"}]}`. Entities are
    token ranges, relations indices into them. Raises ValueError for another record.
    """
    try:
        return without_blank_mentions(_spert_sentence(document), left_out)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{place} is not SpERT's: {type(error).__name__} {error}") from None


def _spert_sentence(document: Mapping[str, Any]) -> Sentence:
    tokens, entities = document["tokens"], []
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise TypeError("tokens must be texts")
    starts = token_starts(tokens)
    for entity in document["entities"]:
        start, end, label = entity["start"], entity["end"], entity["type"]
        if not isinstance(label, str) or not 0 <= start < end <= len(tokens):
            raise IndexError(f"the entity {label!r} from {start} to {end} is no range of {len(tokens)} tokens")
        entities.append(Entity(label, ((starts[start], starts[end] - 1),)))
    relations = []
    for relation in document.get("relations") or ():
        head, tail = relation["head"], relation["tail"]
        if not 0 <= min(head, tail) <= max(head, tail) < len(entities):
            raise IndexError(f"the relation from {head} to {tail} is of no entities")
        relations.append(Relation(str(relation["type"]), entities[head], entities[tail]))
    return Sentence(" ".join(tokens), entities, relations)


def without_blank_mentions(sentence: Sentence, left_out: Counter[str]) -> Sentence:
    """A sentence without mentions of white space alone, which tokenizers make tokens of; they are counted."""
    kept = [entity for entity in sentence.entities if entity.surface(sentence.text).strip()]
    left_out["empty mentions"] += len(sentence.entities) - len(kept)
    relations = [relation for relation in sentence.relations if relation.head in kept and relation.tail in kept]
    left_out["relations without their mentions"] += len(sentence.relations) - len(relations)
    return Sentence(sentence.text, kept, relations)


def token_starts(tokens: Iterable[str]) -> list[int]:
    """Where tokens start in their text, and where a further one would; single spaces stand between them."""
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token) + 1)
    return starts


def brat_sentences(path: Path, options: Options, left_out: Counter[str]) -> Iterator[Sentence]:
    """Read brat's standoff files: a folder of NAME.txt and NAME.ann.

    A line of the text is a sentence. Only T and R annotations are read; a relation's first argument is its head.
    Mentions that cross a line, and relations with an end in another line, are counted as left out. Raises ValueError
    for a folder without such pairs and for broken lines.
    """
    texts = sorted(p for p in path.rglob("*.txt") if p.with_suffix(".ann").is_file()) if path.is_dir() else []
    if not texts:
        raise ValueError("is no folder with pairs of .txt and .ann files")
    for text_file in texts:
        text = options.read_text(text_file)
        annotations = text_file.with_suffix(".ann")
        mentions, relations = _standoff(annotations.name, options.read_text(annotations), text, left_out)
        placed: dict[str, tuple[int, Entity]] = {}
        by_line: dict[int, tuple[list[Entity], list[Relation]]] = {}
        lines = [(m.start(), m.end()) for m in re.finditer(r"[^\r\n\ufeff][^\r\n]*", text)]
        for name, entity in mentions.items():
            inside = [n for n, (a, b) in enumerate(lines) if a <= entity.ranges[0][0] and entity.ranges[-1][1] <= b]
            if not inside:
                left_out["mentions across lines"] += 1
                continue
            begin = lines[inside[0]][0]
            moved = Entity(entity.label, tuple((a - begin, b - begin) for a, b in entity.ranges))
            placed[name] = inside[0], moved
            by_line.setdefault(inside[0], ([], []))[0].append(moved)
        for label, head, tail in relations:
            if head in placed and tail in placed and placed[head][0] == placed[tail][0]:
                line, first = placed[head]
                by_line[line][1].append(Relation(label, first, placed[tail][1]))
            else:
                left_out["relations across lines"] += 1
        yield from (Sentence(text[a:b], *by_line.get(n, ((), ()))) for n, (a, b) in enumerate(lines))


_MENTION = re.compile(r"(T\S+)\t(\S+) (\d+ \d+(?:;\d+ \d+)*)(?:\t(.*))?")
_RELATION = re.compile(r"R\S+\t(\S+) \S+?:(T\S+) \S+?:(T\S+)\s*")


def _standoff(
    name: str, annotations: str, text: str, left_out: Counter[str]
) -> tuple[dict[str, Entity], list[tuple[str, str, str]]]:
    """The mentions of a text by name, and its relations. Raises ValueError, also for a mention that stands elsewhere.

    A byte-order mark is a character of the text for some annotators, and none for others.
    """
    mentions: dict[str, Entity] = {}
    relations: list[tuple[str, str, str]] = []
    shift = 0
    for number, line in enumerate(_lines(annotations), 1):
        if line.startswith("T") and (match := _MENTION.fullmatch(line)):
            entity = Entity(match[2], tuple(_bounds(bounds) for bounds in match[3].split(";")))
            if match[4] is not None and not _says(entity, text, match[4]):
                if text[:1] != "\ufeff" or not _says(entity, text[1:], match[4]):
                    raise ValueError(f"{name}, line {number}: {match[4][:60]!r} does not stand at {match[3]}")
                shift = 1
            if match[1] in mentions:
                raise ValueError(f"{name}, line {number}: a second mention is called {match[1]}")
            mentions[match[1]] = entity
        elif line.startswith("R") and (match := _RELATION.fullmatch(line)):
            relations.append((match[1], match[2], match[3]))
        elif line.startswith(("T", "R")):
            raise ValueError(f"{name}, line {number} is not brat's: {line.strip()[:60]!r}")
        elif line.strip():
            left_out["events, attributes, equivalences and notes"] += 1
    if shift:
        mentions = {name: Entity(e.label, tuple((a + 1, b + 1) for a, b in e.ranges)) for name, e in mentions.items()}
    return mentions, relations


def _bounds(text: str) -> tuple[int, int]:
    start, end = map(int, text.split())
    return start, end


def _says(entity: Entity, text: str, surface: str) -> bool:
    """Whether a mention's ranges hold this text, line breaks and other blanks apart."""
    return entity.surface(text).split() == surface.split()


def read_iepile(path: Path, options: Options) -> Corpus:
    """Read a JSONL file of IEPile records, which have their own schemas and labels."""
    rows: list[Row] = []
    for number, line in enumerate(_lines(options.read_text(path)), 1):
        if line.strip():
            try:
                rows.append(from_iepile(json.loads(line)))
            except (ValueError, RecursionError, AttributeError) as error:
                raise ValueError(f"line {number}: {error}") from None
    if options.drop_empty:
        rows = [row for row in rows if any(row["gold"].values())]
    return Corpus([{**row, "source": options.source or row["source"]} for row in rows])


Annotations = Callable[[Path, Options, "Counter[str]"], Iterable[Sentence]]
"""A reader of sentences, which counts what it leaves out."""


def _read(annotations: Annotations, tasks: Sequence[str], path: Path, options: Options) -> Corpus:
    left_out: Counter[str] = Counter()
    return corpus(annotations(path, options, left_out), options, tasks, left_out)


READERS: dict[str, Callable[[Path, Options], Corpus]] = {
    "conll": partial(_read, conll_sentences, ("NER",)),
    "spert": partial(_read, spert_sentences, ("NER", "RE")),
    "brat": partial(_read, brat_sentences, ("NER", "RE")),
    "iepile": read_iepile,
}
"""Readers by format. Each raises ValueError that says what in the file is wrong."""


def corpus(sentences: Iterable[Sentence], options: Options, tasks: Sequence[str], left_out: Counter[str]) -> Corpus:
    """Sentences as rows for the task ie. `left_out` is added to. Raises ValueError for labels that do not fit."""
    kept = [renamed(sentence, options.labels) for sentence in sentences]
    rows: list[Row] = []
    wanted = [task for task in tasks if task in options.tasks]
    labels = {t: dict.fromkeys(label for sentence in kept for label, _ in _labelled(sentence, t)) for t in wanted}
    labels = {task: seen for task, seen in labels.items() if seen or (options.schema and len(wanted) == 1)}
    if not labels:
        raise ValueError(f"has no labels for {' or '.join(options.tasks)}")
    if options.schema and len(labels) > 1:
        raise ValueError("has entities and relations; a schema is one task's, so choose the task too")
    for task, seen_labels in labels.items():
        if unknown := [label for label in seen_labels if options.schema and label not in options.schema]:
            raise ValueError(f"has the label {unknown[0]!r}, which the given schema lacks; rename it, or to nothing")
        schema = options.schema or list(seen_labels)
        by_text = ((sentence.text, _row(sentence, task, schema, options.source)) for sentence in kept)
        rows += _selected(by_text, options, left_out, lambda row: any(row["gold"].values()))
    return Corpus(rows, {reason: n for reason, n in left_out.items() if n})


def selected(sentences: Iterable[Sentence], options: Options, left_out: Counter[str]) -> Iterator[Sentence]:
    """The sentences with their labels renamed, without doubles and, if wanted, without those that have no label."""
    kept = (renamed(sentence, options.labels) for sentence in sentences)
    return _selected(((s.text, s) for s in kept), options, left_out, lambda s: bool(s.entities or s.relations))


def _selected(
    records: Iterable[tuple[str, T]], options: Options, left_out: Counter[str], has_labels: Callable[[T], bool]
) -> Iterator[T]:
    seen: set[str] = set()
    for text, record in records:
        reason = "without labels" if options.drop_empty and not has_labels(record) else ""
        if text in seen and not options.keep_doubles:
            reason = "duplicate texts"
        seen.add(text)
        if reason:
            left_out[reason] += 1
        else:
            yield record


def renamed(sentence: Sentence, labels: Mapping[str, str]) -> Sentence:
    """A sentence with other names of labels; what a label renamed to nothing marks is dropped."""
    if not labels:
        return sentence
    return Sentence(
        sentence.text,
        [e._replace(label=new) for e in sentence.entities if (new := labels.get(e.label, e.label))],
        [r._replace(label=new) for r in sentence.relations if (new := labels.get(r.label, r.label))],
    )


def _labelled(sentence: Sentence, task: str) -> Iterator[tuple[str, str | dict[str, str]]]:
    if task == "NER":
        yield from ((e.label, e.surface(sentence.text)) for e in sentence.entities)
    else:
        for r in sentence.relations:
            yield r.label, {"head": r.head.surface(sentence.text), "tail": r.tail.surface(sentence.text)}


def _row(sentence: Sentence, task: str, schema: Sequence[str], source: str) -> Row:
    gold: dict[str, list[Any]] = {label: [] for label in schema}
    for label, entry in _labelled(sentence, task):
        if entry not in gold[label]:
            gold[label].append(entry)
    row: Row = {"id": row_id(sentence.text), "task": task, "source": source, "schema": list(schema)}
    row |= {"text": sentence.text, "gold": gold}
    if task == "NER":
        row["spans"] = sorted([*e.ranges[0], e.label] for e in sentence.entities if len(e.ranges) == 1)
    return row


def _lines(text: str) -> list[str]:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
