"""Funding statements and acknowledgements in whole documents: JATS, TEI, plain text and PDF, each with its place.

Every section is a row of its own, in the order of the document; a text that stands there twice is one row.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import accumulate, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, get_args
from xml.etree.ElementTree import Element

from adapters.data.data_file import FAULTS, examine, is_data_file, is_saved_dataset, read_text, suffix_of
from adapters.data.formats.scholarly import is_aside, is_heading, jats_doi, jats_parts, outermost, tei_id, tei_parts
from adapters.data.formats.source import Source
from adapters.data.formats.xml_files import children, marked, parse, root_name
from adapters.data.rows import BAD_ROW
from adapters.errors import UserError
from adapters.types import Row

Kind = Literal["jats", "tei", "pdf", "text"]
SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"jats": (".xml", ".nxml"), "tei": (".xml", ".tei"), "pdf": (".pdf",), "text": (".txt",)}
)
_ROOTS: Final = {"article": "jats", "TEI": "tei", "teiCorpus": "tei"}
COLUMNS: Final = ("doi", "document", "section", "xpath", "page", "offset")
"""Columns of a row beside `id` and the text."""
LARGEST: Final = 64 << 20
"""Bytes of an XML or text file, unpacked; a tree takes about ten times as many."""
LARGEST_PDF: Final = 1 << 30
MOST_PAGES: Final = 5000
LONGEST: Final = 6000
"""Characters of a section of plain text whose end no heading marks."""
_NO_PASSWORD: Final = 4  # FPDF_ERR_PASSWORD

_NAMES = (
    r"acknowledge?ments?(?: (?:and|&) (?:funding|disclosures?))?|financial (?:support|disclosures?|assistance)|"
    r"funding(?: (?:and|&) acknowledge?ments?|[ /](?:information|statements?|sources?|support|details))?|"
    r"sources? of (?:funding|support)|grant (?:support|sponsors?|information)|research funding"
)
_NUMBER = r"[ \t]*(?:(?:\d+(?:\.\d+)*|[IVX]+)[.)]?[ \t]+)?"
_HEADING = re.compile(
    rf"^{_NUMBER}(?P<name>{_NAMES})[ \t]*"
    r"(?:$|[:—–][ \t]*|\.(?![ .]*\.)[ \t]*|[ \t](?=(?:We|I|This|The|Th[ei]se|Part|Supported|Research|Work)\b))",
    re.IGNORECASE | re.MULTILINE,
)
_NEXT = re.compile(
    rf"^{_NUMBER}(?:references|bibliography|literature cited|works cited|appendi(?:x|ces)|(?:authors?['’]?s? |credit )"
    r"?(?:contributions?|details|statement)|author information|conflicts? of interests?|(?:declaration of )?competing "
    r"interests?|declarations?|disclosures?|(?:data|code) (?:and code )?availability|availability of data|supplement"
    r"(?:ary|al)\b.{0,30}|supporting information|ethic(?:s|al)\b.{0,30}|consent\b.{0,30}|abbreviations|footnotes?|"
    r"endnotes|notes|nomenclature|orcid|introduction|publisher['’]s note|open access|received|correspondence)"
    r"[ \t]*(?:$|[:.—–(])|^\[1\][ \t]|^1\.[ \t]+[A-Z][\w-]+,",
    re.IGNORECASE | re.MULTILINE,
)
_PAID = r"(?:support|fund|financ|sponsor)(?:ed|ing)?"
_PHRASE = re.compile(
    r"\b(?:work|stud(?:y|ies)|research|project|paper|article|publication|investigations?|authors?|experiments?|"
    rf"[A-Z]\.\s?[A-Z]\.)[^.;]{{0,90}}\b{_PAID}\b[^.;]{{0,30}}\b(?:by|from|through|under)\b|"
    r"\b(?:funding|financial (?:support|assistance))\b[^.;]{0,60}\b(?:from|by)\b|"
    r"\b(?:acknowledg\w+|thanks?|grateful\w*)\b[^.;]{0,90}\b(?:financial|funding|grants?|fellowships?)\b|"
    r"\b(?:grant|award|contract|agreement)s?\s*(?:nos?\b|numbers?\b|#)|"
    r"\bsupported (?:in part )?by (?:the |an? )?(?:[A-Z]\S+ ){0,6}(?:grants?|awards?|contracts?|fellowships?)\b",
    re.IGNORECASE,
)
_BLANK = re.compile(r"\s*")
ABBREVIATIONS = "".join(rf"(?<!\b{word}\.)" for word in ("No", "no", "Nos", "nos", "Dr", "Prof", "Inc", "Ref", "St"))
_SENTENCE_END = re.compile(rf"(?<=[.!?]){ABBREVIATIONS}(?<!\b[A-Z]\.)\s+(?=[A-Z(])|\n[ \t]*\n")


@dataclass(frozen=True, slots=True)
class Section:
    """A text of a document and where it stands: an XPath of local names, or a character's place in page or file.

    Pages count from 1, characters (code points) from 0.
    """

    text: str
    section: Literal["funding", "acknowledgement", "phrase"]
    doi: str | None = None
    xpath: str | None = None
    page: int | None = None
    offset: int | None = None


def is_documents(path: Path) -> bool:
    """Whether a path is that of documents, not of a data file."""
    if path.is_dir():
        return not is_saved_dataset(path)
    return not is_data_file(path) and suffix_of(path) in {end for ends in SUFFIXES.values() for end in ends}


def find(path: Path, kind: Kind | None) -> tuple[Kind, list[Path]]:
    """The kind of the documents, guessed where it is certain, and their files. Raises UserError."""
    if not path.exists():
        raise UserError(f"there is no file or folder {path}.")
    source = Source(path)
    if kind is None:
        kind = _guess(path, source.files(*{end for ends in SUFFIXES.values() for end in ends}))
    files = source.files(*SUFFIXES[kind])
    if not files:
        raise UserError(f"{path} holds no file that ends in {' or '.join(SUFFIXES[kind])}.")
    if kind == "pdf" and find_spec("pypdfium2") is None:
        raise UserError("PDF is read by pypdfium2: pip install pypdfium2.")
    return kind, files


def _guess(path: Path, files: Sequence[Path]) -> Kind:
    ends = Counter(suffix_of(file) for file in files)
    if ends and not ends.keys() - {".pdf"}:
        return "pdf"
    if ends and not ends.keys() - {".txt"}:
        return "text"
    roots = {_root(file) for file in files[:20]} if not ends.keys() & {".pdf", ".txt"} else set()
    known = {_ROOTS[root] for root in roots if root in _ROOTS}
    if len(known) == 1:
        return next(kind for kind in get_args(Kind) if kind in known)
    if not ends:
        raise UserError(f"{path} holds no documents (.xml, .nxml, .tei, .pdf or .txt), and is no data file.")
    held = ", ".join(f"{n:,} {end}" for end, n in ends.most_common())
    raise UserError(f"{path} holds {held}; say what to read: --from {', '.join(get_args(Kind))}.")


def _root(file: Path) -> str:
    try:
        return root_name(file)
    except FAULTS:
        return ""


def rows(path: Path, kind: Kind, files: Iterable[Path], text_field: str) -> Iterator[Row]:
    """A row for each section; for a document that cannot be read, one with the reason, and one without text for one
    that has no section.
    """
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        empty = {"id": name, text_field: None, **dict.fromkeys(COLUMNS), "document": name}
        try:
            found = dict[str, Section]()
            for section in _sections(file, kind):
                found.setdefault(section.text, section)
        except (*FAULTS, RuntimeError) as error:  # pypdfium2's errors are RuntimeErrors
            yield {**empty, BAD_ROW: f"{name}: {_reason(error)}"}
            continue
        for number, section in enumerate(found.values(), 1):
            values = asdict(section)
            yield {**empty, "id": f"{name}#{number}", text_field: values.pop("text"), **values}
        if not found:
            named = 0 if kind != "jats" else _named_funders(file)
            why = f"{name}: it has no funding statement; its metadata name {named} funders, which `data convert` reads"
            yield {**empty, BAD_ROW: why} if named else empty


def _reason(error: Exception) -> str:
    if getattr(error, "err_code", None) == _NO_PASSWORD:
        return "it is encrypted; save it without a password"
    return getattr(error, "strerror", None) or str(error).strip(" .") or type(error).__name__


def _sections(file: Path, kind: Kind) -> Iterator[Section]:
    size = file.stat().st_size
    if not size:
        raise ValueError("it is empty")
    if kind == "pdf":
        _check_size(size, LARGEST_PDF)
        return _of_pages(_pdf_pages(file), paged=True)
    with examine(file, by_content=True).binary() as data:
        _check_size(len(data.read(LARGEST + 1)), LARGEST)
    if kind == "text":
        # As many characters as in the file, so that an offset is the file's own.
        text = read_text(file).removeprefix("\ufeff").replace("\r\n", " \n").replace("\r", "\n")
        return _of_pages([text], paged=False)
    return _of_xml(parse(file), kind)


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise ValueError(f"it is larger than {most >> 20:,} MiB")


# ---------------------------------------------------------------------------------------------------------------- XML


def _of_xml(root: Element, kind: Kind) -> Iterator[Section]:
    tag = "article" if kind == "jats" else "TEI"
    articles = [root] if root.tag == tag else list(children(root, tag))
    if not articles:
        other = _ROOTS.get(root.tag)
        raise ValueError(f"its root is {root.tag}, not {tag}" + (f"; read it by --from {other}" if other else ""))
    parents = {child: parent for parent in root.iter() for child in parent}
    for article in articles:
        doi = (jats_doi(article) if kind == "jats" else tei_id(article).removeprefix("doi:")) or None
        for part, section in _parts(article, kind):
            if text := marked(part, is_heading if kind == "jats" else is_aside).text:
                yield Section(text, section, doi, _xpath(part, parents))


def _named_funders(file: Path) -> int:
    return sum(1 for group in children(parse(file), "funding-group") for _ in children(group, "funding-source"))


def _parts(article: Element, kind: Kind) -> list[tuple[Element, Literal["funding", "acknowledgement", "phrase"]]]:
    """Funding statements, acknowledgements and sections with such a heading; without any, paragraphs by a phrase."""
    typed = [e for group in jats_parts(article) for e in group] if kind == "jats" else tei_parts(article)
    titled = [e for e in children(article, "sec", "notes", "fn", "div") if _is_titled(e)]
    chosen = set(outermost([*typed, *titled]))
    if not chosen:
        paragraphs = outermost(e for e in children(article, "p") if _PHRASE.search(marked(e).text))
        return [(e, "phrase") for e in paragraphs]
    return [(e, "acknowledgement" if _is_thanks(e) else "funding") for e in article.iter() if e in chosen]


def _is_titled(element: Element) -> bool:
    titles = (marked(child).text for child in element if child.tag in ("title", "label", "head"))
    return any(_HEADING.fullmatch(title) for title in titles)


def _is_thanks(element: Element) -> bool:
    title = next((marked(child).text for child in element if child.tag in ("title", "head")), "")
    kind = element.get("type") or element.get("sec-type") or (title if element.tag in ("sec", "div") else element.tag)
    return kind.lower().startswith("ack")


def _xpath(element: Element, parents: Mapping[Element, Element]) -> str:
    steps = []
    while (parent := parents.get(element)) is not None:
        same = [child for child in parent if child.tag == element.tag]
        steps.append(f"{element.tag}[{same.index(element) + 1}]" if len(same) > 1 else element.tag)
        element = parent
    return "/" + "/".join([element.tag, *reversed(steps)])


# ------------------------------------------------------------------------------------------------- plain text and PDF


def _pdf_pages(file: Path) -> list[str]:
    import pypdfium2

    with pypdfium2.PdfDocument(file) as document:
        if len(document) > MOST_PAGES:
            raise ValueError(f"it has more than {MOST_PAGES:,} pages")
        pages = []
        for page in document:
            pages.append(page.get_textpage().get_text_bounded().replace("\r\n", "\n"))
            page.close()
    if not any(map(str.strip, pages)):
        raise ValueError("it holds no text; if it is a scan, recognise its text first")
    return pages


def _of_pages(pages: Sequence[str], *, paged: bool) -> Iterator[Section]:
    whole = "\n".join(pages)
    starts = [0, *accumulate(len(page) + 1 for page in pages)][:-1]
    spans = list(_headed(whole))
    if not any(_PHRASE.search(_even(whole[start:end])) for start, end, _ in spans):
        spans += [span for span in _phrases(whole) if all(span[1] <= s or span[0] >= e for s, e, _ in spans)]
    for start, end, section in sorted(spans):
        page = bisect_right(starts, start) - 1
        number = page + 1 if paged else None
        yield Section(_even(whole[start:end]), section, page=number, offset=start - starts[page])


def _headed(text: str) -> Iterator[tuple[int, int, Any]]:
    """Sections under a heading: up to the next one that is known, or LONGEST characters and the end of a sentence."""
    for found in _HEADING.finditer(text):
        start = _BLANK.match(text, found.end()).end()  # type: ignore[union-attr]
        most = min(start + LONGEST, len(text))
        end = most
        for pattern in (_HEADING, _NEXT):
            end = next_one.start() if (next_one := pattern.search(text, start, end)) else end
        if end == most < len(text):
            end = next((m.start() for m in reversed(list(_SENTENCE_END.finditer(text, start, most)))), most)
        if len(re.findall(r"\w{2,}", text[start:end])) > 2:
            name = found["name"].lower()
            yield start, end, "acknowledgement" if name.startswith("ack") else "funding"


def _phrases(text: str) -> Iterator[tuple[int, int, Any]]:
    """Runs of sentences that speak of money."""
    sentences = (m.end() for m in _SENTENCE_END.finditer(text))
    headings = (m.start() for pattern in (_HEADING, _NEXT) for m in pattern.finditer(text))
    bounds = sorted({0, *sentences, *headings, len(text)})
    run: tuple[int, int] | None = None
    for start, end in pairwise(bounds):
        if end - start <= LONGEST and _PHRASE.search(_even(text[start:end])):
            run = (run[0] if run else start, end)
        elif run:
            yield *run, "phrase"
            run = None
    if run:
        yield *run, "phrase"


def _even(text: str) -> str:
    """Text with single blanks. A hyphen at the end of a PDF's line, which PDFium marks, stays but within a word."""
    text = re.sub("(?<=[^\\W\\d_])[\x02\ufffe](?=[a-z])", "", text)
    return " ".join(re.sub("[\x02\ufffe]", "-", text).split())
