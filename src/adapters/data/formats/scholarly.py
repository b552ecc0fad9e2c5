"""Funding in scholarly files: JATS, TEI (GROBID's output and training data), Crossref."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from adapters.data.formats.base import Format, LeftOut
from adapters.data.formats.source import Source
from adapters.data.formats.xml_files import Marked, children, marked, parse, root_name, text_of
from adapters.data_aug.funding_links import mend
from adapters.data_aug.ie import row_id
from adapters.data_aug.ie.sentences import Entity, Options, Sentence
from adapters.types import Row

NOT_IN_TEXT = "names and ids that the statement does not hold"
"""Counted, not left out: the row keeps them."""


class Funders:
    """Funders of one statement in the order of their mention, with their awards. A name stands once."""

    def __init__(self) -> None:
        self._awards: dict[str | None, list[dict[str, list[str]]]] = {}

    def add(
        self, name: str | None, ids: Iterable[str] = (), schemes: Iterable[str] = (), titles: Iterable[str] = ()
    ) -> None:
        """Add a funder, and an award if there is one. Ids without scheme and title are one award."""
        awards = self._awards.setdefault(name, [])
        award = {"award_ids": list(ids), "funding_scheme": list(schemes), "award_title": list(titles)}
        plain = next((a for a in awards if not a["funding_scheme"] and not a["award_title"]), None)
        if award["funding_scheme"] or award["award_title"] or (award["award_ids"] and plain is None):
            awards.append(award)
        elif plain is not None:
            plain["award_ids"] += [i for i in award["award_ids"] if i not in plain["award_ids"]]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._awards)

    def rows(self) -> list[dict[str, Any]]:
        """As the column `funders` has them."""
        return [{"funder_name": name, "awards": awards} for name, awards in self._awards.items()]

    def values(self) -> Iterator[str]:
        """Names and ids."""
        for name, awards in self._awards.items():
            yield from (name,) if name else ()
            yield from (i for award in awards for i in award["award_ids"])


def _row(identity: str, statement: str, funders: Funders, options: Options, left_out: LeftOut) -> Row:
    even = re.sub(r"[\s\-\u2010-\u2015]+", "", statement).casefold()
    absent = [v for v in funders.values() if re.sub(r"[\s\-\u2010-\u2015]+", "", v).casefold() not in even]
    left_out[NOT_IN_TEXT] += len(absent)
    row = {"id": identity or row_id(statement), "funding_statement": statement, "funders": funders.rows()}
    return {**row, "source": options.source}


def _articles(source: Source, *names: str, whole: bool = False) -> Iterator[Element]:
    """The elements with these names; with `whole`, the root of a file that has none."""
    for path in source.files(".xml", ".nxml", ".tei"):
        root = source.read(path, parse)
        found = [root] if root.tag in names else list(children(root, *names)) or ([root] if whole else [])
        source.count += len(found)
        yield from found


def _holds(source: Source, roots: Iterable[str], names: Iterable[str]) -> bool:
    """Whether a file, or the first of a folder, has one of these roots, or an element of these names at its start."""
    if source.kind not in ("xml", "folder") or not (files := source.files(".xml", ".nxml", ".tei")):
        return False
    head, root = Source(files[0]).head, source.read(files[0], root_name)
    return root in roots or any(re.search(rf"<(?:[\w.-]+:)?{name}[\s>]", head) for name in names)


# --------------------------------------------------------------------------------------------------------------- JATS


def _jats(source: Source, options: Options, left_out: LeftOut) -> Iterator[Row]:
    for article in _articles(source, "article"):
        funders = Funders()
        statement = _jats_statement(article)
        for group in children(article, "award-group"):
            _award_group(group, statement, funders)
        for meta in children(article, "article-meta"):  # before JATS 0.4
            names: list[str | None] = [text_of(e) for e in meta if e.tag in ("contract-sponsor", "grant-sponsor")]
            ids = [text_of(e) for e in meta if e.tag in ("contract-num", "grant-num")]
            for name in names[:1] or ([None] if ids else []):
                funders.add(name or None, filter(None, ids))
            for name in names[1:]:
                funders.add(name)
        if not statement:
            left_out["articles without a funding statement" if funders else "articles without funding"] += 1
        elif not funders:
            # Publishers that leave the groups out do not say that there is no funder.
            left_out["statements without award groups"] += 1
        else:
            doi = jats_doi(article)
            yield _row(f"doi:{doi}" if doi else "", statement, funders, options, left_out)


def jats_doi(article: Element) -> str:
    """The DOI of an article; empty without one."""
    return next((text_of(e) for e in children(article, "article-id") if e.get("pub-id-type") == "doi"), "")


def _award_group(group: Element, statement: str, funders: Funders) -> None:
    ids = [part for e in children(group, "award-id") for part in _split_ids(text_of(e), statement)]
    titles = [text for e in children(group, "award-name", "award-title") if (text := text_of(e))]
    names: list[str | None] = []
    for wrapped in children(group, "funding-source"):
        institutions = [text for e in children(wrapped, "institution") if (text := text_of(e))]
        names.append(", ".join(institutions) or marked(wrapped, lambda e: e.tag in _IDENTIFIERS).text)
    names = [name for name in names if name] or ([None] if ids or titles else [])
    for n, name in enumerate(names):
        funders.add(name, ids if n == 0 else (), (), titles if n == 0 else ())


_IDENTIFIERS = ("institution-id", "named-content", "ext-link")


def _split_ids(text: str, statement: str) -> list[str]:
    """The ids of one award-id: PLOS writes several into one. They are told apart where the statement holds each."""
    if not text or text in statement:
        return [text] if text else []
    parts = [part for part in re.split(r"\s*(?:[,;]|\band\b|&)\s*", text) if part]
    return parts if len(parts) > 1 and all(part in statement for part in parts) else [text]


def _jats_statement(article: Element) -> str:
    """The funding statement, or the section, footnote or acknowledgement that stands for it."""
    found = next(filter(None, jats_parts(article)), [])
    texts = dict.fromkeys(marked(e, is_heading).text for e in found)
    return " ".join(text for text in texts if text)


def jats_parts(article: Element) -> Iterator[list[Element]]:
    """Funding statements, and the elements that may stand for them, the surest first."""
    names = r"funding|financial-disclosure|supported-by|funding-information"
    yield list(children(article, "funding-statement"))
    for tag, attribute in (("fn", "fn-type"), ("sec", "sec-type"), ("notes", "notes-type")):
        yield [e for e in children(article, tag) if re.fullmatch(names, e.get(attribute, ""))]
    yield list(children(article, "ack"))


def is_heading(element: Element) -> bool:
    """Whether an element of JATS is a heading."""
    return element.tag in ("title", "label")


JATS = Format(
    "JATS articles",
    "articles",
    {"funding": _jats},
    "<article><front><article-meta><funding-group><award-group><funding-source>Sample Trust</funding-source>"
    "<award-id>S-1</award-id></award-group><funding-statement>By Sample Trust (S-1).</funding-statement>"
    "</funding-group></article-meta></front></article>",
    of_file=lambda source: _holds(source, ("article",), ("article-meta", "funding-group")),
)

# ---------------------------------------------------------------------------------------------------------------- TEI

_STATEMENTS = ("funding", "acknowledgement", "acknowledgment", "infrastructure")
_TRAINING = ("fundings", "acknowledgements", "acknowledgments", "infrastructures")
_INLINE = {
    "funder": "funder", "funderName": "funder", "fundingAgency": "funder", "grantNumber": "grantNumber",
    "grantName": "grantName", "programName": "programName", "projectName": "projectName",
}  # fmt: skip


def _statements(source: Source) -> Iterator[tuple[Element, Element, Marked]]:
    """Document, element and text of each statement: of articles, and of GROBID's training files."""
    for document in _articles(source, "TEI", whole=True):
        for part in outermost(tei_parts(document)):
            yield document, part, marked(part, is_aside)


def tei_parts(document: Element) -> list[Element]:
    """The elements that hold a funding statement or an acknowledgement."""
    return [e for e in children(document, "div", *_STATEMENTS) if e.tag != "div" or e.get("type") in _STATEMENTS]


def outermost(elements: Iterable[Element]) -> list[Element]:
    """The elements that stand in none of the others, each once."""
    found = list(dict.fromkeys(elements))
    inner = {node for part in found for node in part.iter() if node is not part}
    return [part for part in found if part not in inner]


def is_aside(element: Element) -> bool:
    """Whether an element of TEI is a heading, a note or a figure, not the text."""
    return element.tag in ("head", "note", "figure")


def _tei(source: Source, options: Options, left_out: LeftOut) -> Iterator[Row]:
    groups: dict[int, list[tuple[Element, Element, Marked]]] = {}
    documents: dict[int, Element] = {}  # keeps them alive, so that their ids stay theirs
    for number, (document, part, text) in enumerate(_statements(source)):
        key = id(document) if document.tag == "TEI" else -number - 1
        documents[key] = document
        groups.setdefault(key, []).append((document, part, text))
    left_out["articles without a statement"] += source.count - len({id(d) for d in documents.values()})
    for parts in groups.values():
        document = parts[0][0]
        funders = _header_funders(document) if document.tag == "TEI" else Funders()
        # Where there is a funding section, the acknowledgement thanks people, unless it names a funder.
        chosen = [text for _, part, text in parts if part.get("type") == "funding"]
        if not chosen or any(value not in _joined(chosen) for value in funders.values()):
            chosen = [text for _, _, text in parts]
        statement = _joined(chosen)
        silver = not funders
        if silver:
            for text in chosen:
                _inline_funders(text, funders)
        if not statement:
            left_out["texts without words"] += 1
        elif not funders and document.tag == "TEI":
            left_out["statements without funders"] += 1
        else:
            row = _row(tei_id(document), statement, funders, options, left_out)
            yield mend(row) if silver else row


def _joined(texts: Iterable[Marked]) -> str:
    return " ".join(text.text for text in texts if text.text)


def _header_funders(document: Element) -> Funders:
    """Funders of the header with the awards that they refer to, as GROBID writes them."""
    awards = {e.get("id", ""): e for e in children(document, "org") if e.get("type") == "funding"}
    funders, used = Funders(), set()
    for funder in children(document, "funder"):
        name = _named(funder, "orgName", "full") or _named(funder, "orgName", "abbreviated")
        name = name or marked(funder, lambda e: e.tag == "idno").text
        known = None if name.casefold() in ("", "unknown") else name
        references = [r for r in funder.get("ref", "").replace("#", " ").split() if r in awards]
        if known or references:
            funders.add(known)
        for reference in references:
            used.add(reference)
            _add_award(funders, known, awards[reference])
    for name in (key for key in awards if key not in used):
        _add_award(funders, text_of(next(_plain_names(awards[name]), None)) or None, awards[name])
    return funders


def _plain_names(award: Element) -> Iterator[Element]:
    return (e for e in children(award, "orgName") if e.get("type") in (None, "full"))


def _add_award(funders: Funders, name: str | None, award: Element) -> None:
    ids = [text for e in children(award, "idno") if e.get("type") == "grant-number" and (text := text_of(e))]
    schemes = [_named(award, "orgName", kind) for kind in ("grant-name", "program")]
    titles = [_named(award, "orgName", "project")]
    funders.add(name, ids, filter(None, schemes), filter(None, titles))


def _named(element: Element, tag: str, kind: str) -> str:
    return next((text for e in children(element, tag) if e.get("type") == kind and (text := text_of(e))), "")


def _kind(element: Element) -> str:
    """What an inline element marks, in GROBID's output (`rs`) and in its training data."""
    kind = element.get("type", "") if element.tag == "rs" else element.tag
    return _INLINE.get(kind, kind)


def _inline_funders(text: Marked, funders: Funders) -> None:
    """Funders of marked text. An award belongs to the nearest funder before it, else to the next one."""
    found = [(start, _kind(e), text.text[start:end]) for e, start, end in text.marks if end > start]
    found = sorted((f for f in found if f[1] in set(_INLINE.values())), key=lambda f: f[0])
    names = [value for _, kind, value in found if kind == "funder"]
    current = names[0] if names else None
    for _, kind, value in found:
        if kind == "funder":
            current = value
            funders.add(current)
        elif kind == "grantNumber":
            funders.add(current, [value])
        elif kind == "projectName":
            funders.add(current, (), (), [value])
        else:
            funders.add(current, (), [value])


def tei_id(document: Element) -> str:
    """The DOI of an article; empty without one, and for training data."""
    header = next(children(document, "teiHeader"), None) if document.tag == "TEI" else None
    numbers = [text_of(e) for e in children(header, "idno") if e.get("type") == "DOI"] if header is not None else []
    return next((f"doi:{doi}" for doi in numbers if doi and not doi.startswith(FUNDER_REGISTRY)), "")


FUNDER_REGISTRY = "10.13039/"
"""The prefix of DOIs of funders."""


def _tei_mentions(source: Source, options: Options, left_out: LeftOut) -> Iterator[Sentence]:
    """The inline elements of statements as mentions."""
    block = {"p", "s", "head", "div", "note", "figure", *_STATEMENTS}
    for _, _, (text, marks) in _statements(source):
        found = [(_kind(e), start, end) for e, start, end in marks if e.tag not in block and end > start]
        if not text:
            left_out["texts without words"] += 1
            continue
        yield Sentence(text, [Entity(kind, ((start, end),)) for kind, start, end in found if kind != "ref"])


TEI = Format(
    "TEI (GROBID)",
    "articles",
    {"funding": _tei, "ie": _tei_mentions},
    "<fundings><funding>By <funder>Sample Trust</funder> (<grantNumber>S-1</grantNumber>).</funding></fundings>",
    of_file=lambda source: _holds(source, ("TEI", "teiCorpus", *_TRAINING), ()),
    tasks=("NER",),
)

# ----------------------------------------------------------------------------------------------------------- Crossref


def _works(record: Any) -> list[Any]:
    """The works of a record: of an answer of the API, of a file of works, or the record itself."""
    value = record.get("message", record) if isinstance(record, dict) else record
    items = value.get("items") if isinstance(value, dict) else None
    return items if isinstance(items, list) else [value]


def _is_work(value: Any) -> bool:
    return (
        isinstance(value, dict) and "DOI" in value and bool({"funder", "publisher", "member", "prefix"} & value.keys())
    )


def _is_crossref(record: Any) -> bool:
    works = _works(record)
    return bool(works) and all(map(_is_work, works[:5]))


def _crossref(source: Source, options: Options, left_out: LeftOut) -> Iterator[Row]:
    number = 0
    for place, record in source.records():
        for work in _works(record):
            number += 1
            if not _is_work(work):
                raise ValueError(f"{place}: work {number} has no DOI")
            if not work.get("funder"):
                left_out["works without funders"] += 1
                continue
            funders = Funders()
            for funder in _funder_list(work["funder"], f"{place}: {work['DOI']}"):
                awards = funder.get("award") or []
                ids = [str(i).strip() for i in (awards if isinstance(awards, list) else [awards]) if str(i).strip()]
                funders.add(str(funder["name"]).strip() if funder.get("name") else None, ids)
            row: dict[str, Any] = {"id": f"doi:{str(work['DOI']).lower()}", "funders": funders.rows()}
            yield {**row, "source": options.source}
    source.count = number


def _funder_list(value: Any, place: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(f, dict) for f in value):
        raise ValueError(f"{place}: funder is no list of objects with name and award")
    return value


CROSSREF = Format(
    "Crossref JSON",
    "works",
    {"funding": _crossref},
    '{"DOI": "10.5555/1", "publisher": "X", "funder": [{"name": "Sample Trust", "award": ["S-1"]}]}',
    ("DOI", "funder", "publisher", "message"),
    _is_crossref,
)
