"""Datasets of the Hub, local dataset folders and folders of `save_to_disk`, as rows.

`datasets` guesses types: of a JSON file it takes texts such as "2020-01-01" for dates, of a CSV file "007" for 7 and
"NA" for nothing. So it finds the files of a split, and those of text are read as files are anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from adapters.console import quiet_datasets
from adapters.data.data_file import is_data_file, is_saved_dataset
from adapters.data.rows import arrow_batches, arrow_rows, read_file
from adapters.errors import KeyPath, UserError, first_line
from adapters.recipe.fields import HubSource
from adapters.types import Row

_LAYOUT = ("name", "version", "data_dir", "data_files", "description", "features", "sep", "delimiter")
"""Options of a text dataset that do not change what its cells say; the separator is found from the file."""


def read_hub(source: HubSource, root: Path, *, at: KeyPath, texts: tuple[str, ...] = ()) -> Iterator[Row]:
    """The rows of a dataset's split. Raises UserError when it cannot be loaded."""
    local = root / Path(source.hub).expanduser()
    if is_saved_dataset(local):
        yield from _rows([_saved_split(local, source.hub_split, at)], at, texts)
        return
    quiet_datasets()
    try:
        builder = _builder(source, local)
        files = _text_files(builder, source.hub_split)
        if files is None:
            builder.download_and_prepare()
            table = builder.as_dataset(split=source.hub_split)
    except Exception as error:  # the library raises many types for the same user error
        reason = first_line(error)
        dataset = f"{source.hub!r} (config {source.config}, split {source.hub_split!r})"
        raise UserError(f"the dataset {dataset} cannot be loaded: {reason}", at=at) from error
    if files is not None:
        yield from _rows(files, at, texts)
    else:
        for batch in arrow_batches(table):
            yield from arrow_rows(batch)


def _builder(source: HubSource, local: Path) -> Any:
    import datasets
    from huggingface_hub import snapshot_download

    if local.is_dir():
        return datasets.load_dataset_builder(str(local), source.config)
    try:
        return datasets.load_dataset_builder(source.hub, source.config, revision=source.revision)
    except ConnectionError as error:
        try:  # the library knows what it converted, not the files that were read from here
            stored = snapshot_download(source.hub, repo_type="dataset", revision=source.revision, local_files_only=True)
        except Exception:
            raise error from None
        return datasets.load_dataset_builder(stored, source.config)


def _rows(files: list[Path], at: KeyPath, texts: tuple[str, ...]) -> Iterator[Row]:
    for file in files:
        yield from (row for _, row in read_file(file, at=at, texts=texts))


def _saved_split(folder: Path, split: str, at: KeyPath) -> Path:
    if not (folder / "dataset_dict.json").is_file():
        return folder
    if not (folder / split / "state.json").is_file():
        known = sorted(p.name for p in folder.iterdir() if (p / "state.json").is_file())
        raise UserError(f"{folder} has no split {split!r}, but {', '.join(known)}; say which as hub_split.", at=at)
    return folder / split


def _text_files(builder: Any, split: str) -> list[Path] | None:
    """Local copies of a split's JSON and CSV files; None where the library must read it."""
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json

    config = builder.config
    named = (config.data_files or {}).get(split)
    if not isinstance(builder, Json | Csv) or not named or not all(is_data_file(Path(file)) for file in named):
        return None
    usual = type(config)()
    if any(getattr(config, f.name) != getattr(usual, f.name) for f in fields(config) if f.name not in _LAYOUT):
        return None
    paths = [_local(str(file)) for file in named]
    return [path for path in paths if path is not None] if None not in paths else None


def _local(file: str) -> Path | None:
    from huggingface_hub import HfFileSystem, hf_hub_download

    if Path(file).is_file():
        return Path(file)
    if not file.startswith("hf://datasets/"):
        return None
    at: Any = HfFileSystem().resolve_path(file)
    return Path(hf_hub_download(at.repo_id, at.path_in_repo, repo_type=at.repo_type, revision=at.revision))
