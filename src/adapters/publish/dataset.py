"""A dataset repository of rows that this project made: its files, its card, and the push.

A row's source is its column `source`, else the file's name. Each source needs a licence: the row's column `license`,
or one that is given for the source or for the file.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from adapters import secrets
from adapters.backends import adapter_folder
from adapters.data.rows import BAD_ROW, place, read_records
from adapters.environment import versions
from adapters.errors import UserError, first_line, hint, visible
from adapters.files import write_jsonl, write_text
from adapters.publish import hub
from adapters.publish.license_demands import demands, forbids_sharing
from adapters.recipe.publish import license_fault
from adapters.types import Row

OWN: Final = {"synthetic-funding": "apache-2.0"}
"""Source -> licence of rows that this project makes without a language model, and that say so."""
SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""The Hub's size categories below a million rows."""


@dataclass(frozen=True)
class Wanted:
    """What is published, and how it may be used."""

    files: Sequence[Path]
    repo: str
    licenses: Mapping[str, str]
    """Source or file name -> licence, for rows that do not say theirs."""
    without: Sequence[str] = ()
    """Sources whose rows, and columns whose values, are left out."""
    about: str | None = None
    language: Sequence[str] = ("en",)


@dataclass
class Found:
    """What the rows of the files are, by file."""

    rows: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    """File -> (source, licence) -> rows; the licence is "" where none is known."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Source or column -> rows that it was left out of."""

    @property
    def sources(self) -> Counter[tuple[str, str]]:
        """(source, licence) -> rows, over all files."""
        return sum(self.rows.values(), Counter())


def make(wanted: Wanted, folder: Path) -> Found:
    """Write the repository's folder, which must not exist: data/*.jsonl and README.md.

    Raises UserError, and then nothing is written, when a file cannot be read, a source has no licence or one that
    forbids changed copies, a name is unknown, a row holds a secret, or nothing is left.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already; nothing was written.")
    found = _survey(wanted)
    _check(wanted, found)
    with adapter_folder.new_folder(folder) as work:
        (work / "data").mkdir()
        for path in wanted.files:
            if found.rows[path.name]:
                write_jsonl(
                    work / "data" / f"{_name(path)}.jsonl", (_shown(wanted, row) for _, row in _kept(wanted, path))
                )
        write_text(work / "README.md", card(wanted, found))
        os.replace(work, folder)
    return found


def _survey(wanted: Wanted) -> Found:
    names = [_name(path) for path in wanted.files]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two of the files are called {twice!r}; rename one of them.")
    found = Found()
    for path in wanted.files:
        counts = found.rows[path.name] = Counter()
        for number, row in _kept(wanted, path, found.left_out):
            if secret := secrets.find([json.dumps(_shown(wanted, row), ensure_ascii=False, default=str)]):
                raise UserError(f"{place(path, number)} holds {secret}; remove it. Nothing was written.")
            counts[_source(row, path), _license(row, path, wanted.licenses)] += 1
    return found


def _kept(wanted: Wanted, path: Path, left_out: Counter[str] | None = None) -> Iterator[tuple[int, Row]]:
    """The rows of a file that are published, with all of their columns."""
    left_out = Counter() if left_out is None else left_out
    for number, row in read_records(path):
        if BAD_ROW in row:
            raise UserError(f"{place(path, number)}: {row[BAD_ROW]}. Nothing was written.")
        if (source := _source(row, path)) in wanted.without:
            left_out[source] += 1
            continue
        for name in wanted.without:
            left_out[name] += name in row
        yield number, row


def _shown(wanted: Wanted, row: Row) -> Row:
    """A row as it is published."""
    return {key: value for key, value in row.items() if key not in wanted.without}


def _source(row: Row, path: Path) -> str:
    source = row.get("source")
    return source if isinstance(source, str) and source else path.name


def _license(row: Row, path: Path, given: Mapping[str, str]) -> str:
    source, own = _source(row, path), row.get("license")
    asked = given.get(source) or given.get(path.name)
    own = own if isinstance(own, str) and own else None
    if own and (fault := license_fault(own)):
        raise UserError(f"{path}: rows of {source} say license: {fault}. Nothing was written.")
    if own and asked and own != asked:
        raise UserError(f"{path}: rows of {source} say license: {own}, and --license says {asked}; mend one of them.")
    return own or asked or OWN.get(source, "")


def _check(wanted: Wanted, found: Found) -> None:
    """Raise UserError for what must be said or changed first."""
    sources = {source for source, _ in found.sources}
    left_out = +found.left_out  # without those that no row had
    known = sorted({*sources, *(path.name for path in wanted.files), *left_out})
    for option, names in (("--without", wanted.without), ("--license", wanted.licenses)):
        for name in names:
            if name not in (left_out if option == "--without" else known):
                raise UserError(f"{option} {name}: no row has that source or column.{hint(name, known)}")
    if unknown := sorted({source for source, licence in found.sources if not licence}):
        asked = " ".join(f"--license {visible(source)}=ID" for source in unknown)
        raise UserError(
            f"the licence of {', '.join(map(visible, unknown))} is not known. Say it ({asked}), or leave the rows out "
            f"(--without {visible(unknown[0])}). Nothing was written."
        )
    for source, licence in found.sources:
        if forbids := forbids_sharing(licence):
            raise UserError(
                f"{visible(source)} is under {visible(licence)}, which {forbids}: --without {visible(source)} leaves "
                "its rows out. Nothing was written."
            )
    if not found.sources:
        raise UserError("no row is left to publish. Nothing was written.")


def card(wanted: Wanted, found: Found) -> str:
    """README.md: metadata for the Hub, the rows by file and source, their licences, and what was left out."""
    from huggingface_hub import DatasetCardData

    total = found.sources.total()
    licenses = sorted({licence for _, licence in found.sources})
    configs = [
        {"config_name": _name(path), "data_files": f"data/{_name(path)}.jsonl"}
        for path in wanted.files
        if found.rows[path.name]
    ]
    metadata = DatasetCardData(
        license=licenses[0] if len(licenses) == 1 else licenses,
        language=list(wanted.language),
        size_categories=[next((name for bound, name in SIZES if total < bound), "n>1M")],
        tags=["extraction-adapters"],
        configs=configs,
    )
    name = wanted.repo.partition("/")[2]
    lines = ["---", str(metadata.to_yaml()).strip(), "---", "", f"# {name}", ""]
    lines += [wanted.about, ""] if wanted.about else []
    lines += [f"{total:,} rows, made with extraction-adapters {versions().get('extraction-adapters', '')}.", ""]
    lines += ["```python", "from datasets import load_dataset", ""]
    lines += [f"rows = load_dataset({json.dumps(wanted.repo)}, {json.dumps(configs[0]['config_name'])}, split='train')"]
    lines += ["```", "", "## Sources and licences", "", "| file | source | rows | licence |", "|---|---|---|---|"]
    for file, counts in found.rows.items():
        for (source, licence), rows in sorted(counts.items()):
            lines.append(f"| {_cell(file)} | {_cell(source)} | {rows:,} | {_cell(licence)} |")
    lines += ["", *(f"- {_cell(note)}" for note in _notes(found))]
    if found.left_out:
        lines += ["", "## Left out", ""]
        lines += [f"- `{_cell(what)}`: {rows:,} rows" for what, rows in sorted(found.left_out.items()) if rows]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _notes(found: Found) -> list[str]:
    notes = [
        f"{source} is under {licence}, which {asked}."
        for source, licence in sorted(found.sources)
        if (asked := demands(licence))
    ]
    return [*notes, "The licences are those that the publisher named. This is no legal advice."]


def _name(path: Path) -> str:
    """The file's name without its endings, as the Hub takes it for a configuration."""
    return re.sub(r"[^\w-]+", "-", path.name.partition(".")[0]) or "rows"


def _cell(text: str) -> str:
    return visible(text).replace("|", "\\|")


def push(folder: Path, repo: str, *, private: bool) -> dict[str, Any]:
    """Send the folder in one commit: its address, its commit, and the files of the repository that are not of it.

    The same content again makes no second commit. Raises UserError and HubError as `hub.push`.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api, names = HfApi(), {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        before = api.dataset_info(repo)
        if private and not before.private:
            raise UserError(f"{repo} is public: make it private in its settings, or say so with --public.")
        message = f"{len(names) - 1} file{'s' * (len(names) > 2)} of rows"
        made = api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=folder, commit_message=message)
        after = api.dataset_info(repo)
    except (HfHubHTTPError, hub.transport(), OSError, RuntimeError, ValueError) as error:
        hub.give_up_if_final(error, repo)
        raise hub.HubError(f"the push to {repo} failed: {first_line(error)}") from error
    others = sorted({sibling.rfilename for sibling in after.siblings or ()} - names - {".gitattributes"})
    url = f"{api.endpoint}/datasets/{repo}"
    return {"repo": repo, "url": url, "commit": made.oid, "new": after.sha != before.sha, "strangers": others}
