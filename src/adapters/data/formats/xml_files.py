"""XML without entities of its own and without the network, and its text with the places of elements in it.

The standard library's parser (expat) opens no external entity. It does expand internal ones, which is how a file of a
kilobyte becomes gigabytes: a file that declares entities is refused. defusedxml does the same and lxml can; neither is
a dependency. HTML's named characters, which the DTD of JATS brings, are known without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html.entities import html5
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from adapters.data.data_file import examine

DEEPEST = 200
"""Elements inside each other; deeper ones are no article."""


def parse(path: Path) -> Element:
    """The root of an XML file. Raises ValueError, with the line."""
    builder = TreeBuilder()
    _read(path, builder)
    return builder.close()


def root_name(path: Path) -> str:
    """The name of the root of an XML file. Raises ValueError for what comes before it."""

    class First(TreeBuilder):
        def start(self, tag: Any, attrs: dict[Any, Any]) -> Any:
            raise _FoundError(tag)

    try:
        _read(path, First())
    except _FoundError as found:
        return str(found)
    return ""


class _FoundError(Exception):
    pass


def _read(path: Path, builder: TreeBuilder) -> None:
    parser = expat.ParserCreate()
    parser.buffer_text = True
    depth = 0

    def fault(text: str) -> ValueError:
        return ValueError(f"line {parser.CurrentLineNumber}: {text}")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise fault(f"more than {DEEPEST} elements stand inside each other")
        builder.start(local(tag), {local(name): value for name, value in attributes.items()})

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(local(tag))

    def entity(name: str, *_: object) -> None:
        raise fault(f"declares the entity {name}, and such files are not read")

    def other(text: str) -> None:
        if text.startswith("&"):
            if (known := html5.get(text[1:])) is None:
                raise fault(f"the entity {text} is not known")
            builder.data(known)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler, parser.DefaultHandlerExpand = entity, other
    parser.UseForeignDTD(True)  # else an entity of an unread DTD is an error of syntax
    try:
        file = examine(path, by_content=True)
        if file.encoding != "utf-8-sig":  # of which the parser knows a few only
            with file.text() as text:
                parser.Parse(text.read(), True)
        else:
            with file.binary() as data:
                parser.ParseFile(data)
    except LookupError as error:
        raise ValueError(f"line 1: is not XML: {error}") from None
    except expat.ExpatError as error:
        raise ValueError(f"line {error.lineno}: is not XML: {expat.errors.messages[error.code]}") from None


def local(name: str) -> str:
    """A name without its namespace prefix."""
    return name.rpartition(":")[2]


class Marked(NamedTuple):
    """The text of an element, and the elements in it with their places."""

    text: str
    marks: list[tuple[Element, int, int]]


BLOCKS = frozenset(
    [
        "p",
        "head",
        "title",
        "sec",
        "div",
        "div1",
        "div2",
        "s",
        "lb",
        "label",
        "list",
        "item",
        "list-item",
        "fn",
        "disp-quote",
    ]
)
"""Elements before and after which a blank stands, whatever the file writes."""


def marked(element: Element, skip: Callable[[Element], bool] = lambda _: False) -> Marked:
    """The text of an element with single blanks, without skipped elements, and where the others stand in it."""
    parts: list[str] = []
    length = 0
    marks: list[tuple[Element, int, int]] = []

    def add(text: str | None) -> None:
        nonlocal length
        for n, word in enumerate((text or "").split(" ") if text else ()):
            if n:
                blank()
            if word:
                parts.append(word)
                length += len(word)

    def blank() -> None:
        nonlocal length
        if length and parts[-1] != " ":
            parts.append(" ")
            length += 1

    def walk(node: Element) -> None:
        if node.tag in BLOCKS:
            blank()
        begin = length
        add(_even(node.text))
        for child in node:
            if not skip(child):
                walk(child)
            add(_even(child.tail))
        marks.append((node, begin, length))
        if node.tag in BLOCKS:
            blank()

    walk(element)
    text = "".join(parts)
    return Marked(text.rstrip(" "), [(node, *_trimmed(text, start, end)) for node, start, end in marks])


def _even(text: str | None) -> str:
    """Text whose white space is single blanks; a no-break space stays."""
    if not text:
        return ""
    for c in "\t\r\n":
        text = text.replace(c, " ")
    return text


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    inside = text[start:end]
    stripped = inside.strip(" ")
    start += inside.index(stripped) if stripped else 0
    return start, start + len(stripped)


def children(element: Element, *names: str) -> Iterator[Element]:
    """The elements below with these names, in order."""
    return (node for node in element.iter() if node.tag in names)


def text_of(element: Element | None) -> str:
    """The text of an element with single blanks; empty for none."""
    return marked(element).text if element is not None else ""
