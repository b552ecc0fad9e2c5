"""Extracted funders as deposits: funding data for Crossref, funding references for DataCite.

Both are of works that have a DOI already. Crossref's is a resource deposit (doi_resources 4.4.2), which changes the
funding of a record and nothing else; the content of `fr:program` is that of fundref.xsd. DataCite's is JSON lines, each
the body of a PUT to /dois/DOI, whose `fundingReferences` replace those of the record.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal
from xml.etree.ElementTree import Element, SubElement, tostring

from adapters.data.rows import column_names, read_records
from adapters.errors import UserError, hint
from adapters.extraction.files import blocks
from adapters.extraction.merge_shards import complete
from adapters.files import replacing, sha256, write_jsonl
from adapters.tasks.funding_registry import FundingNormaliser

Form = Literal["crossref", "datacite"]
SUFFIXES = {"crossref": ".xml", "datacite": ".jsonl"}
_RESOURCES = "http://www.crossref.org/doi_resources_schema/4.4.2"
FUNDREF = "http://www.crossref.org/fundref.xsd"
_DOI = re.compile(r"(?:doi:\s*|https?://(?:dx\.)?doi\.org/)?(10\.\d{4,9}/\S+)", re.IGNORECASE)
_FUNDER_DOI = re.compile(r"10\.13039/\d+")
_ROR = re.compile(r"https://ror\.org/0[a-z0-9]{8}")
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BLOCK = 2048


def write(
    source: Path, out: Path, form: Form, *, doi: str, registry: Path | None, depositor: str | None, email: str | None
) -> Counter[str]:
    """Write the deposit of a finished extraction of funders. Returns counts: rows, works, funders, left out.

    `doi` is the column with the works' DOIs. Rows of one work are joined. Raises UserError.
    """
    _check(source, out, form, doi, depositor, email)
    counts: Counter[str] = Counter()
    works = _works(source, doi, FundingNormaliser(registry) if registry else None, counts)
    if not works:
        remedy = f"Carry the column over when extracting (--keep {doi}), or name it with --doi."
        raise UserError(f"{source}: no row with a funder has a DOI in the column {doi!r}. {remedy}")
    if form == "datacite":
        write_jsonl(out, (_datacite(name, funders) for name, funders in works.items()))
    else:
        with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as file:
            _crossref(file, f"{out.stem}-{sha256(source)[:12]}"[-100:], depositor or "", email or "", works)
    return counts


def _check(source: Path, out: Path, form: Form, doi: str, depositor: str | None, email: str | None) -> None:
    if out.suffix.lower() != SUFFIXES[form]:
        raise UserError(f"-o {out}: a deposit for {form} ends in {SUFFIXES[form]}.")
    if out.resolve() == source.resolve():
        raise UserError("the deposit would overwrite the records.")
    if not out.parent.is_dir():
        raise UserError(f"-o {out}: there is no folder {out.parent}.")
    if form == "crossref" and not (depositor and email and "@" in email):
        raise UserError("--as crossref needs --depositor NAME and --email ADDRESS, where Crossref sends its report.")
    if form == "crossref" and not (len(depositor or "") <= 130 and 6 <= len(email or "") <= 200):
        raise UserError("Crossref takes a depositor's name of at most 130 characters, and an address of 6 to 200.")
    task = complete(source)["settings"].get("task", {}).get("use")
    if task != "funding":
        raise UserError(f"{source} holds records of the task {task!r}; a deposit is made of those of funding.")
    if doi not in (known := column_names(source)):
        remedy = f"Carry it over when extracting (--keep {doi}), or name another with --doi."
        raise UserError(f"{source} has no column {doi!r}.{hint(doi, known)} {remedy}")


def _works(
    source: Path, column: str, normalise: FundingNormaliser | None, counts: Counter[str]
) -> dict[str, list[dict[str, Any]]]:
    """Funders of each DOI, in the order of the rows; the rows of one work are joined."""
    works: dict[str, dict[str, dict[str, Any]]] = {}
    plain = normalise or FundingNormaliser(None)
    for block in blocks((row for _, row in read_records(source)), _BLOCK):
        counts["rows"] += len(block)
        usable = []
        for row in block:
            found = _DOI.fullmatch(str(row.get(column) or "").strip())
            counts["rows without a record"] += row["record"] is None
            counts["texts in part without a record"] += row["record"] is not None and row.get("error") is not None
            counts["rows without a valid DOI"] += row["record"] is not None and found is None
            if found and row["record"] is not None:
                usable.append((found[1].lower(), row))
        again = [row["record"] for _, row in usable if normalise is not None or row.get("normalized") is None]
        made = iter(plain(again))
        for name, row in usable:
            ready = row.get("normalized") if normalise is None else None
            _join(works.setdefault(name, {}), next(made) if ready is None else ready, counts)
    # An empty list would remove the funding that a record has.
    made_works = {name: list(funders.values()) for name, funders in works.items() if funders}
    counts["works without a funder"] = len(works) - len(made_works)
    counts["works"], counts["funders"] = len(made_works), sum(map(len, made_works.values()))
    return made_works


def _join(funders: dict[str, dict[str, Any]], record: Iterable[Mapping[str, Any]], counts: Counter[str]) -> None:
    """Add the funders of a record. One with the same id or name as another is the same."""
    for funder in record:
        name = funder["funder_name"] or funder["registry_name"]
        if not name:
            counts["funders without a name"] += 1
            continue
        same = funders.setdefault(funder["funder_id"] or name.casefold(), {**funder, "awards": []})
        same["awards"] += [award for award in funder["awards"] if award not in same["awards"]]


def _numbers(funder: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(number for award in funder["awards"] for number in award["award_ids"]))


def _name(funder: Mapping[str, Any]) -> str:
    """The registry's name, if the funder was found in one; that of the text otherwise."""
    return str(funder["registry_name"] or funder["funder_name"])


# ----------------------------------------------------------------------------------------------------------- Crossref


def _crossref(
    file: IO[str], batch: str, depositor: str, email: str, works: Mapping[str, Iterable[Mapping[str, Any]]]
) -> None:
    head = Element("head")
    _add(head, "doi_batch_id", batch)
    sender = _add(head, "depositor")
    _add(sender, "depositor_name", depositor)
    _add(sender, "email_address", email)
    file.write('<?xml version="1.0" encoding="UTF-8"?>\n')
    file.write(f'<doi_batch version="4.4.2" xmlns="{_RESOURCES}" xmlns:fr="{FUNDREF}">\n')
    file.write(f"{tostring(head, 'unicode')}\n<body>\n")
    for doi, funders in works.items():
        file.write(f"{tostring(_fundref_data(doi, funders), 'unicode')}\n")
    file.write("</body>\n</doi_batch>\n")


def _fundref_data(doi: str, funders: Iterable[Mapping[str, Any]]) -> Element:
    data = Element("fundref_data")
    _add(data, "doi", doi)
    program = _add(data, "fr:program", attribute="fundref")
    for funder in funders:
        group = _add(program, "fr:assertion", attribute="fundgroup")
        identity = str(funder["funder_id"] or "")
        if _ROR.fullmatch(identity):
            _add(group, "fr:assertion", identity, "ror")
        else:
            name = _add(group, "fr:assertion", _name(funder), "funder_name")
            if _FUNDER_DOI.fullmatch(identity):
                _add(name, "fr:assertion", f"https://doi.org/{identity}", "funder_identifier")
        for number in _numbers(funder):
            _add(group, "fr:assertion", number, "award_number")
    return data


def _add(parent: Element, tag: str, text: str = "", attribute: str = "") -> Element:
    element = SubElement(parent, tag, {"name": attribute} if attribute else {})
    element.text = _NO_XML.sub("", text)
    return element


# ----------------------------------------------------------------------------------------------------------- DataCite


def _datacite(doi: str, funders: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    references = [reference for funder in funders for reference in _references(funder)]
    attributes = {"doi": doi, "fundingReferences": references}
    return {"data": {"id": doi, "type": "dois", "attributes": attributes}}


def _references(funder: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """One for each award number; one alone for a funder, or an award with a title, that has none."""
    identity = str(funder["funder_id"] or "")
    start = {"funderName": _name(funder)}
    if _ROR.fullmatch(identity):
        start |= {"funderIdentifier": identity, "funderIdentifierType": "ROR"}
    elif _FUNDER_DOI.fullmatch(identity):
        start |= {"funderIdentifier": f"https://doi.org/{identity}", "funderIdentifierType": "Crossref Funder ID"}
    elif identity:
        start |= {"funderIdentifier": identity, "funderIdentifierType": "Other"}
    found = []
    for award in funder["awards"]:
        title = {"awardTitle": "; ".join(award["award_title"])} if award["award_title"] else {}
        found += [{**start, "awardNumber": number, **title} for number in award["award_ids"]]
        found += [{**start, **title}] if title and not award["award_ids"] else []
    for n, reference in enumerate(found or [start]):
        if reference not in found[:n]:
            yield reference
