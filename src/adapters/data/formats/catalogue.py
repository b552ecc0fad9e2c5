"""The known formats by name; which of them a file is in; formats of plug-ins."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adapters.data.formats import chat, label_studio, scholarly, spans, tokens
from adapters.data.formats.base import Format, Item, LeftOut, Reader, Target
from adapters.data.formats.source import Source
from adapters.data_aug.ie.sentences import Options
from adapters.errors import UserError, hint
from adapters.plugins.registry import names, resolve
from adapters.recipe.fields import PluginSpec

FORMATS: dict[str, Format] = {
    "gliner": tokens.GLINER,
    "hf": tokens.HF,
    "conll": tokens.CONLL,
    "spert": tokens.SPERT,
    "brat": tokens.BRAT,
    "iepile": tokens.IEPILE,
    "doccano": spans.DOCCANO,
    "labelstudio": label_studio.LABEL_STUDIO,
    "prodigy": spans.PRODIGY,
    "spans": spans.SPANS,
    "rows": spans.ROWS,
    "jats": scholarly.JATS,
    "tei": scholarly.TEI,
    "crossref": scholarly.CROSSREF,
    "sharegpt": chat.SHAREGPT,
    "alpaca": chat.ALPACA,
    "openai": chat.OPENAI,
    "completion": chat.COMPLETION,
    "pairs": chat.PAIRS,
}
OTHER_NAMES = {"spacy": "prodigy", "huggingface": "hf", "grobid": "tei", "messages": "openai", "bio": "conll"}


def find(name: str) -> Format:
    """The format of a name: a built-in one, an installed one, or `./file.py:function`. Raises UserError."""
    plain = name.lower().replace("-", "").replace("_", "")
    if known := FORMATS.get(OTHER_NAMES.get(plain, plain)):
        return known
    if ":" in name or name in names("formats"):
        return _of_plugin(name)
    raise UserError(f"--from: no format is called {name!r}.{hint(plain, [*FORMATS, *names('formats')])}")


def detect(source: Source) -> tuple[str, Format]:
    """The name and format of a file, by its content. Raises UserError for an unknown format, ValueError."""
    known = FORMATS | {name: _of_plugin(name) for name in names("formats")}
    for name, candidate in known.items():
        if candidate.of_file and candidate.of_file(source):
            return name, candidate
    if source.has_records:
        fitting = {name: _fitting(f, source.first) for name, f in known.items() if f.of_record}
        best = max(fitting, key=lambda name: fitting[name])
        if fitting[best]:
            return best, known[best]
    raise UserError(_unknown(source))


def _fitting(candidate: Format, records: list[Any]) -> int:
    return sum(candidate.of_record is not None and candidate.of_record(record) for record in records)


def _unknown(source: Source) -> str:
    """What an unknown file looks like, and what comes near to it."""
    first = source.first[0] if source.has_records and source.first else None
    if isinstance(first, dict) and {"funding_statement", "funders"} <= first.keys():
        return f"{source.path} holds rows for the task funding already; recipes take it as it is."
    near = _near(source)
    examples = "".join(f"\n  {name} ({FORMATS[name].title}): {FORMATS[name].example}" for name in near)
    return (
        f"{source.path}: no known format; {source.look()}.\nNear to it:{examples}\n"
        f"--from names one of {', '.join(FORMATS)}, or ./file.py:read, a reader of your own (docs/formats.md)."
    )


def _near(source: Source) -> list[str]:
    """The two formats whose records have the most similar keys, or those of files without records."""
    first = source.first[0] if source.has_records and source.first else None
    keys = list(first) if isinstance(first, dict) else []
    if not keys:
        xml = ["jats", "tei"]
        return {"xml": xml, "folder": ["brat", *xml], "text": ["conll", "spans"]}.get(source.kind, ["spans", "openai"])

    def similarity(name: str) -> float:
        known = FORMATS[name].keys
        best = [max(difflib.SequenceMatcher(None, key.lower(), other).ratio() for other in known) for key in keys]
        return float(sum(value for value in best if value > 0.75) / len(known) ** 0.5)

    near = sorted((name for name in FORMATS if FORMATS[name].keys), key=similarity, reverse=True)[:2]
    return near if similarity(near[0]) else ["spans", "openai"]


# ------------------------------------------------------------------------------------------------------------ plug-ins


@dataclass(frozen=True)
class _Plugin:
    """Reads a file with a function or object of somebody else: (path) -> rows, or texts that say what is left out."""

    name: str
    call: Any

    def items(self, source: Source, options: Options, left_out: LeftOut) -> Iterator[Item]:
        """Sentences and rows. Raises ValueError and UserError."""
        try:
            for number, row in enumerate(self.call(source.path), 1):
                source.count += 1
                yield from self._item(row, f"row {number}", options, left_out)
        except (ValueError, OSError):
            raise
        except Exception as error:
            raise UserError(f"the format {self.name} failed: {type(error).__name__}: {error}") from error

    def _item(self, row: Any, place: str, options: Options, left_out: LeftOut) -> Iterator[Item]:
        if isinstance(row, str):
            left_out[row] += 1
        elif not isinstance(row, dict):
            raise ValueError(f"{place} of {self.name} is {type(row).__name__}, not an object")
        elif target_of(row) != "ie":
            yield row
        elif "gold" in row:
            yield from spans.row_sentence(row, place, left_out)
        else:
            yield from spans.spans_sentence(row, place, options, left_out)


def target_of(row: dict[str, Any]) -> Target:
    """The task that a plug-in's row is for. Raises ValueError."""
    if "funders" in row:
        return "funding"
    if "messages" in row or ("chosen" in row and "rejected" in row):
        return "chat"
    if "text" in row and ("spans" in row or "gold" in row):
        return "ie"
    wanted = "text and spans, funding_statement and funders, messages, or prompt, chosen and rejected"
    raise ValueError(f"a reader gives rows of {wanted}, not {', '.join(row) or 'nothing'}")


def _of_plugin(name: str) -> Format:
    plugin = resolve("formats", PluginSpec(use=name))

    targets: tuple[Target, ...] = ("ie", "funding", "chat")  # which one, its first row says
    gives: dict[Target, Reader] = dict.fromkeys(targets, _Plugin(name, plugin).items)
    of_record = getattr(plugin, "recognises", None)
    return Format(getattr(plugin, "title", name), "rows", gives, "", of_record=of_record, is_plugin=True)
