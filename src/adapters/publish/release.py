"""The steps of a publication, each kept on disk, so that whatever breaks, the next call goes on from there.

RUN/publish/bundle/        what is pushed
RUN/publish/proof.json     what it was made from, the hash of each file, what the gate found
RUN/publish/pushed.json    where it went
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.backends import adapter_folder
from adapters.environment import versions
from adapters.errors import UserError
from adapters.files import write_json
from adapters.publish import bundle, card, gate, hub
from adapters.publish.finished_run import Finished
from adapters.publish.gate import Check, GateError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Release:
    """A bundle on disk with the gate's findings."""

    folder: Path
    checks: tuple[Check, ...]
    repo: str
    tag: str
    notes: tuple[str, ...]
    reused: bool
    """Whether it was proven by an earlier call."""

    @property
    def passed(self) -> bool:
        """Whether it may be published."""
        return all(check.passed for check in self.checks)

    @property
    def files(self) -> dict[str, int]:
        """Name -> bytes."""
        return {p.as_posix(): (self.folder / p).stat().st_size for p in bundle.files(self.folder)}


def prepare(finished: Finished, earlier: Finished | None, say: Say) -> Release:
    """Make the bundle and put it through the gate, or find it made and proven. A failed gate is a result, no error."""
    repo = finished.settings.repo
    if repo is None:
        raise UserError("where to? Set publish.repo: owner/name, or give --repo.", at=("publish", "repo"))
    place = finished.folder / "publish"
    folder, proof = place / "bundle", place / "proof.json"
    key = _key(finished, earlier, repo)
    held = json.loads(proof.read_text(encoding="utf-8")) if proof.is_file() else {}
    reused = (
        held.get("key") == key and held.get("passed") and folder.is_dir() and held["files"] == bundle.hashes(folder)
    )
    if reused:
        checks = [Check(*c) for c in held["checks"]]
    else:
        finished.example()  # all that can be wrong with the settings is found before the slow part
        work = adapter_folder.work_folder(folder)
        for old in (work, folder):
            shutil.rmtree(old, ignore_errors=True)
        proof.unlink(missing_ok=True)
        say("making the bundle")
        bundle.assemble(finished, work)
        say("loading it in a fresh process")
        checks, facts = gate.loaded(finished, work)
        if all(c.passed for c in checks):
            (work / "README.md").write_text(card.render(finished, work, repo, facts, checks, earlier), encoding="utf-8")
            checks += gate.static(finished, work)
            if all(c.passed for c in checks):
                say("running the card's code")
                checks.append(gate.used(finished, work, repo))
        os.replace(work, folder)
        passed = all(c.passed for c in checks)
        write_json(
            proof, {"key": key, "passed": passed, "checks": [list(c) for c in checks], "files": bundle.hashes(folder)}
        )
    tag = finished.settings.tag or f"{finished.recipe.name}-{_content(folder)[:8]}"
    return Release(folder, tuple(checks), repo, tag, tuple(_notes(finished)), bool(reused))


def push(release: Release, finished: Finished, say: Say) -> hub.Pushed:
    """Push a proven bundle. Raises GateError for one that is not, UserError and HubError as `hub.push`."""
    if not release.passed:
        failed = next(check for check in release.checks if not check.passed)
        raise GateError(f"{failed.name}: {failed.detail}")
    message = f"{finished.recipe.name}: {finished.stages[-1].name}"
    private = finished.settings.private
    pushed = hub.push(release.folder, release.repo, private=private, tag=release.tag, message=message, say=say)
    write_json(finished.folder / "publish" / "pushed.json", asdict(pushed))
    return pushed


def _key(finished: Finished, earlier: Finished | None, repo: str) -> str:
    """Hash of everything that a bundle is made of, the tools included."""
    what: list[Any] = [
        [s.manifest for s in finished.stages],
        finished.figures,
        finished.ledger,
        {k: v for k, v in finished.file.tree.items() if k != "publish"},
        finished.settings.model_dump(exclude=set(bundle.PUSH_KEYS)),
        repo,
        [earlier.manifest, earlier.figures] if earlier else None,
        card.TEMPLATE.read_text(encoding="utf-8"),
        versions(),
    ]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def _content(folder: Path) -> str:
    return hashlib.sha256(json.dumps(bundle.hashes(folder), sort_keys=True).encode()).hexdigest()


def _notes(finished: Finished) -> list[str]:
    """What the person should know before it is out, and can change."""
    settings, sources = finished.settings, card.training_sources(finished)
    notes = [] if settings.license else ["the card names no licence: set publish.license"]
    if not settings.description:
        notes.append("the card does not say what the adapter does: set publish.description")
    notes += [note.replace("`", "") for note in card.license_notes(sources)]
    free = (settings.license or "").lower()
    strict = [s["source"] for s in sources if "-nc" in (s["license"] or "").lower()]
    if strict and free and "-nc" not in free:
        notes.append(f"the adapter is to be under {free}, and {', '.join(strict)} allows no commercial use")
    if not finished.figures:
        notes.append("the run evaluated nothing: the card has no figures and the gate no answers to compare")
    return notes
