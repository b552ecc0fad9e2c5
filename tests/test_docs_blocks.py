"""The reader of documentation blocks: fences, languages, names, lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from docs_blocks import PAGES, Block, blocks, named_files

PAGE = """# Title
```python a.py
x = "``"
```
- a list:
  ```
  one
    two
  ```
````yaml
```
inner
```
````
```
```
"""


def test_the_blocks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert blocks(page) == [
        Block("python", 'x = "``"\n', 2, "a.py"),
        Block("", "one\n  two\n", 6),
        Block("yaml", "```\ninner\n```\n", 10),
        Block("", "", 15),
    ]
    assert named_files(page) == {"a.py": 'x = "``"\n'}


def test_a_block_without_an_end(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n")
    with pytest.raises(AssertionError, match=r"page\.md: a code block has no end"):
        blocks(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_every_page_holds_something(page: Path) -> None:
    assert all(block.text.strip() for block in blocks(page))
