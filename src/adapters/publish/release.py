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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from adapters.backends import adapter_folder
from adapters.environment import versions
from adapters.errors import UserError
from adapters.files import read_json, sha256, write_json
from adapters.pipeline import seeds
from adapters.publish import (
    base_license,
    bundle,
    card,
    gate,
    hub,
    llama_server,
    plugin_code,
    provenance,
    requirements,
    stages,
    vllm_server,
)
from adapters.publish.finished_run import Finished
from adapters.publish.gate import Check, GateError
from adapters.publish.gguf import Converters

Say = Callable[[str], None]
NO_TAG: Final = "TAG-OF-THIS-BUNDLE"
"""Stands in the card for a tag that is made from the hash of the bundle, card included."""


@dataclass(frozen=True)
class Release:
    """A bundle on disk with the results of its checks."""

    folder: Path
    checks: tuple[Check, ...]
    repo: str
    tag: str | None
    """None for a pull request, whose commit is not on the main branch."""
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


def prepare(
    finished: Finished,
    earlier: Finished | None,
    say: Say,
    vllm: Path | None = None,
    llama: Converters | None = None,
    *,
    pull_request: bool = False,
) -> Release:
    """Make and verify the bundle, or reuse it. A failed check is no error.

    `vllm` is the Python interpreter of an environment with vLLM, `llama` a folder of llama.cpp; both are asked too.
    """
    repo = finished.settings.repo
    if repo is None:
        raise UserError(
            "the card needs the name of its repository: set publish.repo: owner/name, or give --repo.",
            at=("publish", "repo"),
        )
    folder, proof = finished.folder / "publish" / "bundle", finished.folder / "publish" / "proof.json"
    key = _key(finished, earlier, (vllm, llama.folder if llama else None), pull_request)
    stored = read_json(proof)
    reused = stored.get("key") == key and stored.get("passed") and stored.get("files") == bundle.hashes(folder)
    if reused:
        checks = [Check(*c) for c in stored["checks"]]
    else:
        finished.example()  # finds mistakes in the settings before the slow part
        proof.unlink(missing_ok=True)
        tag = None if pull_request else finished.settings.tag or NO_TAG
        maker = _Maker(finished, earlier, repo, say, vllm, llama, tag)
        checks = maker.make(folder)
        found = {key: maker.facts.get(key) for key in ("rerun", "base_license", "llama_fault")}
        stored = {"key": key, "passed": all(c.passed for c in checks), "checks": checks, "tag": maker.tag, **found}
        write_json(proof, stored | {"files": bundle.hashes(folder)})
    return Release(folder, tuple(checks), repo, stored["tag"], tuple(_notes(finished, stored)), bool(reused))


def _notes(finished: Finished, found: Mapping[str, Any]) -> list[str]:
    """Gaps of the card that the user can still fill before the push; `found` when the bundle was made."""
    sources = provenance.training_sources(finished)
    notes = requirements.other_rows(finished.recipe)
    notes += requirements.notes(finished.settings, sources, tests=bool(finished.figures))
    if found["passed"] and not found["base_license"]:
        notes.append(f"the licence of {finished.base_id} was not found: set publish.base_license")
    for stage in finished.stages:
        for name in stages.changed_rewards(finished, stage):
            notes.append(
                f"{stage.name}: the code of the reward {name} has changed since the training; the card says so"
            )
    if fault := found.get("llama_fault"):
        notes.append(f"llama.cpp: {fault}; the card has no commands for it")
    if rerun := found.get("rerun"):
        notes.append(f"the bundle's recipe cannot be run as it is, and the card says so: {rerun.replace('`', '')}")
    return notes


@dataclass
class _Maker:
    """Makes and verifies a bundle, step by step."""

    finished: Finished
    earlier: Finished | None
    repo: str
    say: Say
    vllm: Path | None
    llama: Converters | None
    tag: str | None
    """NO_TAG until the bundle's hash is known, from which its name is made."""
    facts: dict[str, Any] = field(default_factory=dict)

    def make(self, folder: Path) -> list[Check]:
        """The checks of a new bundle in `folder`, up to the first part with a failed one."""
        work = adapter_folder.work_folder(folder)
        for old in (work, folder):
            shutil.rmtree(old, ignore_errors=True)
        try:
            self.say("making the bundle")
            bundle.assemble(self.finished, work)
            checks = [gate.measured(self.finished)]
            for part in (self._load, self._serve, self._describe, self._use):
                if all(check.passed for check in checks):
                    checks += part(work, checks)
            os.replace(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return checks

    def _load(self, work: Path, _: list[Check]) -> list[Check]:
        self.say("loading it in a fresh process")
        checks, self.facts = gate.loaded(self.finished, work)
        return checks

    def _serve(self, work: Path, _: list[Check]) -> list[Check]:
        if self.vllm is None or self.finished.recipe.tags_words:
            return []
        self.say("asking vLLM")
        check, more = gate.served(self.finished, work, self.facts, self.vllm)
        self.facts |= more
        return [check]

    def _describe(self, work: Path, checks: list[Check]) -> list[Check]:
        self.say("trying its recipe")
        missing = plugin_code.of_run(self.finished).missing
        self.facts["base_license"] = base_license.of_run(self.finished)
        self.facts["rerun"] = "; ".join(missing) or gate.rerun(self.finished, work)
        text = self._card(work, checks)
        if self.vllm is not None and self.facts.get("vllm"):
            self._try_vllm(work, text, self.vllm)
            text = self._card(work, checks)
        if self.llama is not None and not self.finished.recipe.tags_words:
            self._try_llama(work, text)
            text = self._card(work, checks)
        if self.tag == NO_TAG:
            content = _hash({**bundle.hashes(work), "README.md": text})
            self.tag = f"{self.finished.recipe.name}-{content[:8]}"
            text = text.replace(NO_TAG, self.tag)
        (work / "README.md").write_text(text, encoding="utf-8")
        bundle.seal(work)
        return gate.static(self.finished, work)

    def _card(self, work: Path, checks: list[Check]) -> str:
        return card.render(self.finished, work, self.repo, self.facts, checks, self.earlier, tag=self.tag)

    def _try_vllm(self, work: Path, text: str, python: Path) -> None:
        """Run the card's command for vLLM's server; the card says so, or why it failed."""
        self.say("running the card's command for vLLM's server")
        try:
            vllm_server.tried(self.finished, work, self.repo, self.tag, text, python)
            self.facts["vllm_server"] = True
        except RuntimeError as error:
            self.facts["vllm_server_fault"] = str(error).removesuffix(".")

    def _try_llama(self, work: Path, text: str) -> None:
        """Run the card's commands for llama.cpp; those that fail are not shown."""
        self.say("running the card's commands for llama.cpp")
        assert self.llama is not None  # noqa: S101 - the caller has one
        try:
            self.facts["llama"] = llama_server.tried(self.finished, work, self.repo, self.tag, text, self.llama)
        except RuntimeError as error:
            self.facts["llama_fault"] = str(error).removesuffix(".")

    def _use(self, work: Path, _: list[Check]) -> list[Check]:
        self.say("running the card's code")
        return [gate.used(self.finished, work, self.repo, self.tag)]


def push(
    release: Release, finished: Finished, say: Say, *, pull_request: bool = False, delete_foreign: bool = False
) -> hub.Pushed:
    """Push a verified bundle. Raises GateError for others and for what the Hub gives back, and what `hub.push` does."""
    if not release.passed:
        failed = next(check for check in release.checks if not check.passed)
        raise GateError(f"{failed.name}: {failed.detail}")

    def prove(served: Path) -> None:
        say("loading it once more, from the Hub's files")
        try:
            failed = next((check for check in gate.loaded(finished, served)[0] if not check.passed), None)
        except RuntimeError as error:
            raise GateError(f"what the Hub gives is not what was proven: {error}") from None
        if failed:
            raise GateError(f"what the Hub gives is not what was proven: {failed.name}: {failed.detail}")

    pushed = hub.push(
        release.folder,
        release.repo,
        private=finished.settings.private,
        tag=release.tag,
        message=f"{finished.recipe.name}: {finished.stages[-1].name}",
        pull_request=pull_request,
        delete_foreign=delete_foreign,
        prove=prove,
        say=say,
    )
    write_json(finished.folder / "publish" / "pushed.json", asdict(pushed))
    return pushed


def _key(finished: Finished, earlier: Finished | None, asked: Sequence[Path | None], pull_request: bool) -> str:
    inputs: list[Any] = [
        [s.manifest for s in finished.stages],
        finished.figures,
        finished.ledger,
        seeds.stored(finished.run).model_dump(),
        {k: v for k, v in finished.file.tree.items() if k != "publish"},
        finished.settings.model_dump(exclude={"private", *(("tag",) if pull_request else ())}),
        pull_request,
        {name: sha256(path) for name, path in plugin_code.of_run(finished).files.items()},
        [earlier.manifest, earlier.figures] if earlier else None,
        card.TEMPLATE.read_text(encoding="utf-8"),
        versions(),
        [str(program) for program in asked],
    ]
    return _hash(inputs)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
