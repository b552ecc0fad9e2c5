"""Snapshots in the cache of the Hub: folders that name a repository and a commit."""

from __future__ import annotations

import re
from pathlib import PurePath

_SNAPSHOT = re.compile(r"models--([\w.-]+)/snapshots/([0-9a-f]{40})/?$")


def snapshot(path: PurePath | str) -> tuple[str, str] | None:
    """Hub id and commit of `…/models--OWNER--NAME/snapshots/COMMIT`; None for any other path."""
    found = _SNAPSHOT.search(PurePath(path).as_posix())
    return (found[1].replace("--", "/", 1), found[2]) if found else None
