"""JSONL files and atomic writes, with kills and full disks in between."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from adapters.errors import UserError
from adapters.files import append_jsonl, numbered_jsonl, read_jsonl, replacing, truncate_jsonl, write_jsonl, write_text


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = [{"text": "é\u2028\x85\n", "n": n} for n in range(3)]
    assert write_jsonl(path, iter(records[:1])) == 1
    append_jsonl(path, records[1:])
    append_jsonl(path, [])
    assert read_jsonl(path) == records
    assert read_jsonl(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("sync", [False, True])
def test_a_torn_line_costs_nothing_but_itself(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [{"step": 1}, {"step": 2}])
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        complete = [{"step": 1}, {"step": 2}][: (whole[:cut] + b"\n" * (cut in (11, 23))).count(b"\n")]
        append_jsonl(path, [{"step": 3}], sync=sync)
        assert read_jsonl(path) == [*complete, {"step": 3}], cut


def test_lines_that_are_no_record_are_skipped_or_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n[2]\n\xff\n{"a": 5}\n{"a"')
    assert list(numbered_jsonl(path)) == [(1, {"a": 1}), (5, {"a": 5})]
    with pytest.raises(UserError, match=r"a\.jsonl, line 3: not a JSON object"):
        list(numbered_jsonl(path, strict=True))


def test_truncating_drops_refused_records_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": n}) + "\n" for n in (1, 2, 3)) + '{"st')
    truncate_jsonl(path, lambda record: record["step"] <= 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    truncate_jsonl(tmp_path / "none.jsonl", bool)
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.txt"
    write_text(path, "old")

    def broken():  # type: ignore[no-untyped-def]
        yield {"a": 1}
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_jsonl(path, broken())
    full = OSError(errno.ENOSPC, "No space left on device")

    def fill(path: Path) -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise full

    with pytest.raises(OSError, match="No space") as raised:
        fill(path)
    assert raised.value.filename == str(path), "the system names no file"
    with pytest.raises(FileNotFoundError) as missing, replacing(path):
        (tmp_path / "input").read_text()
    assert missing.value.filename == str(tmp_path / "input")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
