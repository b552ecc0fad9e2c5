"""A corpus done in parts, into a folder that a restart continues."""

from __future__ import annotations

import hashlib
import json
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
from adapters.extraction.resumable import CHANGEABLE_EXTRACTION_KEYS, check_settings
from adapters.types import Progress

_BEGUN = r"\d{5,}(-[^/]*)?\.begun\.json"
_PART = re.compile(
    rf"\d{{5,}}(-[^/]*)?\.(jsonl|parquet)(\.manifest\.json|\.html)?|\.(\d{{5,}}[^/]*|manifest\.json)\.\d+|{_BEGUN}"
)
"""Names of parts, their manifests and pages, how often they were begun, and what a killed worker leaves."""


@dataclass(frozen=True)
class PartsJob:
    """The parts of a corpus, the folder of their outputs, and what decides these."""

    parts: list[Part]
    out: Store
    suffix: str
    settings: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """What tells this work's parts from those of another."""
        decides = {name: value for name, value in self.settings.items() if name not in CHANGEABLE_EXTRACTION_KEYS}
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def begin(self, *, fresh: bool) -> None:
        """Refuse a folder that holds something else, or was begun with other settings. Raises UserError.

        Only a folder with a manifest of this program is emptied, and only of parts.
        """
        there = self.out.files()
        earlier = self.out.read_json(MANIFEST) if MANIFEST in there else None
        ours = earlier is not None and isinstance(earlier.get("settings"), dict)
        if foreign := [name for name in there if not (ours and (name == MANIFEST or _PART.fullmatch(name)))]:
            raise UserError(
                f"{self.out.url} holds {foreign[0]}, which is no part of an output; choose a folder of its own."
            )
        if ours and not fresh:
            begun = f"{self.out.url} was {'made' if earlier and earlier.get('complete') else 'begun'}"
            check_settings(self.settings, earlier["settings"] if earlier else {}, begun)
            for name in filter(re.compile(_BEGUN).fullmatch, there):  # a command of the user's tries anew
                self.out.remove(name)
            return
        for name in there:
            self.out.remove(name)
        self.out.put_json({"complete": False, "settings": self.settings}, MANIFEST)

    def finished(self) -> dict[str, Any] | None:
        """Counts of a complete folder; None for any other."""
        earlier = self.out.read_json(MANIFEST) or {}
        return dict(earlier["counts"]) if earlier.get("complete") and not self._missing()[0] else None

    def _missing(self) -> tuple[list[Part], list[Mapping[str, Any]]]:
        """The parts that are not done, and the counts of those that are."""
        there = self.out.files()
        names = {part: ray_data.manifest_name(part, self.suffix) for part in self.parts}
        done = [part for part, name in names.items() if name in there and f"{part.name}{self.suffix}" in there]
        manifests = self.out.read_jsons(names[part] for part in done)
        counts = {m["part"]: m["counts"] for m in manifests if m.get("job") == self.digest}
        return [part for part in self.parts if part.name not in counts], list(counts.values())

    def run(self, work: Work, cluster: Cluster, moved: Progress) -> dict[str, Any]:
        """Do the missing parts. Returns the counts of all. Raises UserError, and ClusterError where one failed."""
        began = time.monotonic()
        missing, counts = self._missing()
        there, resumed = len(counts), sum(c["rows"] for c in counts)
        errors = sum(sum(c.get("errors", {}).values()) for c in counts)
        moved(there, len(self.parts), {"resumed": there, "errors": errors})
        if missing:
            task = ray_data.Task(work, self.out.url, self.suffix, self.digest)
            for n, manifest in enumerate(ray_data.run(task, missing, cluster), there + 1):
                errors += sum(manifest["counts"].get("errors", {}).values())
                moved(n, len(self.parts), {"resumed": there, "errors": errors})
            missing, counts = self._missing()
            if missing:
                raise ray_data.ClusterError(f"{len(missing)} parts are not there, such as {missing[0].name}")
        seconds = time.monotonic() - began
        whole = summed(counts) | {"parts": len(self.parts), "resumed": resumed, "seconds": round(seconds, 2)}
        whole["rows_per_second"] = round((whole["rows"] - resumed) / seconds, 3) if len(counts) > there else None
        self.out.put_json({"complete": True, "settings": self.settings, "counts": whole}, MANIFEST)
        return whole
