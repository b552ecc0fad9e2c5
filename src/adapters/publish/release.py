"""The steps of a publication (bundle, gate, push), each stored and resumable.

RUN/publish/bundle/        the files that are pushed
RUN/publish/proof.json     the hash of each file and of all inputs, and the checks of the gate
RUN/publish/pushed.json    repository, commit and tag
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
from adapters.files import read_json, write_json
from adapters.publish import bundle, card, gate, hub
from adapters.publish.finished_run import Finished
from adapters.publish.gate import Check, GateError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Release:
    """A bundle on disk with the results of its checks."""

    folder: Path
    checks: tuple[Check, ...]
    repo: str
    tag: str
    notes: tuple[str, ...]
    reused: bool
    """Whether an earlier call verified it."""

    @property
    def passed(self) -> bool:
        """Whether it may be pushed."""
        return all(check.passed for check in self.checks)

    @property
    def files(self) -> dict[str, int]:
        """Name -> bytes."""
        return {p.as_posix(): (self.folder / p).stat().st_size for p in bundle.files(self.folder)}


def prepare(finished: Finished, earlier: Finished | None, say: Say, vllm: Path | None = None) -> Release:
    """Make and verify the bundle, or reuse it. A failed check is no error.

    `vllm` is the Python interpreter of an environment with vLLM, which is asked too.
    """
    repo = finished.settings.repo
    if repo is None:
        raise UserError(
            "the card needs the name of its repository: set publish.repo: owner/name, or give --repo.",
            at=("publish", "repo"),
        )
    folder, proof = finished.folder / "publish" / "bundle", finished.folder / "publish" / "proof.json"
    key = _key(finished, earlier, repo, vllm)
    stored = read_json(proof)
    reused = stored.get("key") == key and stored.get("passed") and stored.get("files") == bundle.hashes(folder)
    if reused:
        checks = [Check(*c) for c in stored["checks"]]
    else:
        finished.example()  # finds mistakes in the settings before the slow part
        proof.unlink(missing_ok=True)
        checks = _make(finished, earlier, repo, folder, say, vllm)
        passed = all(c.passed for c in checks)
        write_json(proof, {"key": key, "passed": passed, "checks": checks, "files": bundle.hashes(folder)})
    tag = finished.settings.tag or f"{finished.recipe.name}-{_hash(bundle.hashes(folder))[:8]}"
    return Release(folder, tuple(checks), repo, tag, tuple(_notes(finished)), bool(reused))


def _make(
    finished: Finished, earlier: Finished | None, repo: str, folder: Path, say: Say, vllm: Path | None
) -> list[Check]:
    work = adapter_folder.work_folder(folder)
    for old in (work, folder):
        shutil.rmtree(old, ignore_errors=True)
    say("making the bundle")
    bundle.assemble(finished, work)
    say("loading it in a fresh process")
    checks, facts = gate.loaded(finished, work)
    if vllm and all(c.passed for c in checks):
        say("asking vLLM")
        check, more = gate.served(finished, work, facts, vllm)
        checks, facts = [*checks, check], {**facts, **more}
    if all(c.passed for c in checks):
        (work / "README.md").write_text(card.render(finished, work, repo, facts, checks, earlier), encoding="utf-8")
        checks += gate.static(finished, work)
        if all(c.passed for c in checks):
            say("running the card's code")
            checks.append(gate.used(finished, work, repo))
    os.replace(work, folder)
    return checks


def push(release: Release, finished: Finished, say: Say) -> hub.Pushed:
    """Push a verified bundle. Raises GateError for others, and what `hub.push` raises."""
    if not release.passed:
        failed = next(check for check in release.checks if not check.passed)
        raise GateError(f"{failed.name}: {failed.detail}")
    message, private = f"{finished.recipe.name}: {finished.stages[-1].name}", finished.settings.private
    pushed = hub.push(release.folder, release.repo, private=private, tag=release.tag, message=message, say=say)
    write_json(finished.folder / "publish" / "pushed.json", asdict(pushed))
    return pushed


def _key(finished: Finished, earlier: Finished | None, repo: str, vllm: Path | None) -> str:
    inputs: list[Any] = [
        [s.manifest for s in finished.stages],
        finished.figures,
        finished.ledger,
        {k: v for k, v in finished.file.tree.items() if k != "publish"},
        finished.settings.model_dump(exclude=set(bundle.PUSH_KEYS)),
        repo,
        [earlier.manifest, earlier.figures] if earlier else None,
        card.TEMPLATE.read_text(encoding="utf-8"),
        versions(),
        str(vllm),
    ]
    return _hash(inputs)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _notes(finished: Finished) -> list[str]:
    """Gaps of the card that the user can still fill before the push."""
    settings, sources = finished.settings, card.training_sources(finished)
    notes = [] if settings.license else ["the card names no licence: set publish.license"]
    if not settings.description:
        notes.append("the card does not say what the adapter does: set publish.description")
    notes += [note.replace("`", "") for note in card.license_notes(sources)]
    own = (settings.license or "").lower()
    non_commercial = [s["source"] for s in sources if "-nc" in (s["license"] or "").lower()]
    if non_commercial and own and "-nc" not in own:
        notes.append(f"the adapter is to be under {own}, and {', '.join(non_commercial)} allows no commercial use")
    if not finished.figures:
        notes.append("the run evaluated nothing: the card has no figures and the gate no answers to compare")
    return notes
