"""Where a name stands in a text, in scripts with capitals and without."""

from __future__ import annotations

from adapters.graph.locate import occurrences


def test_a_name_is_no_part_of_a_token() -> None:
    assert occurrences("NSF, NSFC and the  Sample\nInstitute; e\u0301tat e", "NSF") == [(0, 3)]
    assert occurrences("the  Sample\nInstitute", "Sample Institute") == [(5, 21)]
    assert occurrences("e\u0301tat e", "e") == [(6, 7)], "a combining mark belongs to its letter"


def test_scripts_without_capitals_write_names_unparted() -> None:
    assert occurrences("在北京的大学", "北京") == [(1, 3)]
