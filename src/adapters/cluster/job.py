"""A corpus done in parts, into a folder that a restart continues."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.cluster import ray_data
from adapters.cluster.parts import MANIFEST, Part, Store
from adapters.cluster.ray_data import Cluster
from adapters.cluster.work import Work
from adapters.errors import UserError
from adapters.extraction.merge_shards import summed
from adapters.extraction.resumable import check_settings
from adapters.types import Progress

_PART = re.compile(r"\d{5,}(-[^/]*)?\.(jsonl|parquet)(\.manifest\.json)?|\.\d{5,}[^/]*")
"""Names of parts, their manifests, and what a killed worker leaves."""


@dataclass(frozen=True)
class PartsJob:
    """The parts of a corpus, the folder of their outputs, and what decides these."""

    parts: list[Part]
    out: Store
    suffix: str
    settings: Mapping[str, Any]

    def begin(self, *, fresh: bool) -> None:
        """Refuse a folder that holds something else, or was begun with other settings. Raises UserError."""
        there = self.out.files()
        if foreign := [name for name in there if name != MANIFEST and not _PART.fullmatch(name)]:
            raise UserError(
                f"{self.out.url} holds {foreign[0]}, which is no part of an output; choose a folder of its own."
            )
        earlier = self.out.read_json(MANIFEST) if MANIFEST in there else None
        if fresh:
            for name in there:
                self.out.remove(name)
        elif earlier is not None:
            begun = f"{self.out.url} was {'made' if earlier.get('complete') else 'begun'}"
            check_settings(self.settings, earlier.get("settings", {}), begun)
            return
        elif there:
            raise UserError(f"{self.out.url} holds parts without a {MANIFEST}: choose another name, or give --fresh.")
        self.out.put_json({"complete": False, "settings": self.settings}, MANIFEST)

    def finished(self) -> dict[str, Any] | None:
        """Counts of a complete folder; None for any other."""
        earlier = self.out.read_json(MANIFEST) or {}
        return dict(earlier["counts"]) if earlier.get("complete") and not self._missing() else None

    def _missing(self) -> list[Part]:
        there = self.out.files()
        return [part for part in self.parts if f"{part.name}{self.suffix}" not in there]

    def run(self, work: Work, cluster: Cluster, moved: Progress) -> dict[str, Any]:
        """Do the missing parts. Returns the counts of all. Raises UserError."""
        began = time.monotonic()
        missing = self._missing()
        done = [ray_data.manifest_name(part, self.suffix) for part in self.parts if part not in set(missing)]
        counts = [manifest["counts"] for manifest in self.out.read_jsons(done)]
        there, resumed = len(counts), summed(counts).get("rows", 0)

        def told() -> None:
            errors = sum(sum(c.get("errors", {}).values()) for c in counts)
            moved(len(counts), len(self.parts), {"resumed": there, "errors": errors})

        told()
        if missing:
            for manifest in ray_data.run(work, missing, self.out, self.suffix, cluster):
                counts.append(manifest["counts"])
                told()
        seconds = time.monotonic() - began
        whole = summed(counts) | {"parts": len(self.parts), "resumed": resumed, "seconds": round(seconds, 2)}
        whole["rows_per_second"] = round((whole["rows"] - resumed) / seconds, 3) if missing else None
        self.out.put_json({"complete": True, "settings": self.settings, "counts": whole}, MANIFEST)
        return whole
