"""Fenced code blocks of the documentation, for tests that run what a page shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^( *)(`{3,})([^`\n]*)\n(.*?)^\1\2`*[ ]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of its first fence, and what follows the language there."""

    language: str
    text: str
    line: int
    name: str = ""


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in its order. A fence that is never closed is an error."""
    source = page.read_text(encoding="utf-8")
    page_blocks = []
    for fence in _FENCE.finditer(source):
        language, _, name = fence[3].strip().partition(" ")
        page_blocks.append(Block(language, dedent(fence[4]), source.count("\n", 0, fence.start()) + 1, name.strip()))
    unpaired = re.search(r"^ *`{3,}", _FENCE.sub("", source), re.MULTILINE)
    assert not unpaired, f"{page.name}: a code block has no end"
    return page_blocks


def named_files(page: Path) -> dict[str, str]:
    """The blocks whose fence names a file, such as ```` ```yaml recipe.yaml ````: their texts by that name."""
    return {block.name: block.text for block in blocks(page) if block.name}
