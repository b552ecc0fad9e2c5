"""A stage on the service: its step, checkpoints, log and submitted requests.

A killed run continues from the weights and the optimizer of its last checkpoint, so that every step counts once. A
checkpoint exists once its line is in `checkpoints.jsonl`. The line is written when the service has confirmed the
storage; it confirms in the order of submission, so after the checkpoint's step and before the next.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.backends.health import HealthMonitor
from adapters.backends.jobs import Job
from adapters.backends.local.encoder import Encoder
from adapters.backends.tinker.cost import Account, Tokens
from adapters.backends.tinker.objectives import learning_rate
from adapters.backends.tinker.service import Pending, Run, Sampler, Service, ServiceError
from adapters.console import phase
from adapters.errors import UserError
from adapters.files import append_jsonl, read_json, read_jsonl, truncate_jsonl, write_json
from adapters.recipe.recipe import Recipe
from adapters.types import Progress

HOSTED = "hosted.json"
"""File in an adapter's folder: the service's paths of the same weights, for training and for sampling."""
CHECKPOINT_DAYS = 7


@dataclass(frozen=True, slots=True)
class Submitted:
    """An optimizer step in flight; `measure` turns the answers into figures."""

    step: int
    rate: float
    passes: Sequence[Pending]
    update: Pending
    save: Pending | None
    measure: Callable[[list[Any]], Mapping[str, float]]


@dataclass
class HostedStage:
    """A new or resumed job on the service; `done` is the last step in the weights."""

    service: Service
    account: Account
    encoder: Encoder
    job: Job
    recipe: Recipe
    base: str
    start: Path | None
    folder: Path
    progress: Progress

    def __post_init__(self) -> None:
        self.monitor = HealthMonitor(self.job.stage.health)
        self.work = self.folder / "trainer"
        self.work.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.work / "stopped", ignore_errors=True)
        self.log, self.rollouts = self.folder / "log.jsonl", self.folder / "rollouts-0.jsonl"
        self.open: deque[Submitted] = deque()
        last = [row for row in read_jsonl(self.work / "checkpoints.jsonl") if "state" in row][-1:]
        self.done: int = last[0]["step"] if last else 0
        self.resumed = self.done
        self.stored = self.done if last else -1
        for file in (self.log, self.rollouts):
            truncate_jsonl(file, lambda row: row["step"] <= self.done)
        if last:
            self.run = self._run_from(last[0]["state"], optimizer=True)
        elif self.start is not None:
            self.run = self._run_from(service_copy(self.start)["state"], optimizer=False)
        else:
            attention, mlp = parts_trained(self.recipe)
            rank, seed = self.recipe.lora.rank, self.recipe.seed
            self.run = self.service.new_run(self.base, rank, seed, attention=attention, mlp=mlp)
        phase("training")

    def _run_from(self, path: str, *, optimizer: bool) -> Run:
        try:
            return self.service.run_from(path, optimizer=optimizer)
        except ServiceError as error:
            raise ServiceError(
                f"{error}. Checkpoints are kept {CHECKPOINT_DAYS} days, and finished stages "
                f"tinker.checkpoint_ttl_days; if these are gone, delete {self.folder} to train this stage again"
            ) from None

    def due(self, step: int) -> bool:
        """Whether a checkpoint is stored after this step."""
        every = self.job.stage.save_every or max(1, self.job.steps // 10)
        return step % every == 0 or step == self.job.steps

    def submit(self, step: int, passes: Sequence[Pending], measure: Callable[[list[Any]], Mapping[str, float]]) -> None:
        """Close a step: the optimizer's update, and a checkpoint where one is due."""
        phase("training")
        stage = self.job.stage
        rate = learning_rate(step, self.job.steps, stage.learning_rate, stage.schedule, stage.warmup)
        update = self.run.step(rate, stage.weight_decay)
        save = self.run.save(f"step-{step}", CHECKPOINT_DAYS) if self.due(step) else None
        self.open.append(Submitted(step, rate, passes, update, save, measure))

    def settle(self, keep: int = 0) -> None:
        """Wait until at most `keep` steps are in flight; log results and checkpoints."""
        while len(self.open) > keep:
            sent = self.open.popleft()
            figures = dict(sent.measure([p.result() for p in sent.passes]))
            sent.update.result()
            self._judge(sent.step, figures)
            self.done = sent.step
            figures |= {"learning_rate": sent.rate, "idle_share": self.service.idle.share()}
            figures |= self.account.figures(self.job.name)
            append_jsonl(self.log, [{"step": sent.step, **figures}], sync=True)
            self.progress(sent.step, self.job.steps, {**figures, **self.account.live(), "resumed": self.resumed})
            if sent.save is not None:
                self._note(sent.step, sent.save)

    def _judge(self, step: int, figures: Mapping[str, float]) -> None:
        """Raise HealthError before a bad step or its checkpoint is recorded."""
        kept = f"The service keeps the weights of step {self.stored}."
        self.monitor.judge(step, figures, lambda: kept if self.stored > 0 else "No checkpoint had been stored yet.")

    def checkpoint(self) -> None:
        """Store the weights as they are, unless they are stored already."""
        if self.done > max(0, self.stored):
            self._note(self.done, self.run.save(f"step-{self.done}", CHECKPOINT_DAYS))

    def _note(self, step: int, save: Pending) -> None:
        append_jsonl(self.work / "checkpoints.jsonl", [{"step": step, "state": save.result().path}], sync=True)
        self.stored = step

    def spend(self, tokens: Tokens) -> None:
        """Charge tokens to this stage; called before they are sent."""
        self.account.charge(self.job.name, tokens)

    def reference(self, name: str) -> Sampler:
        """The reference of KL and DPO (start, base, an adapter), kept over restarts."""

        def resolve() -> dict[str, Any]:
            folder = self.start if name == "start" else None if name == "base" else Path(name)
            # A new adapter is the base itself: its B matrices are zero.
            return {"path": service_copy(folder)["sampler"] if folder else None, "base": self.base}

        return self.service.sampler(**self.once("reference", resolve))

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """A value that is computed once and kept over restarts."""
        path = self.work / f"{name}.json"
        if not path.is_file():
            write_json(path, compute())
        return json.loads(path.read_text())


def service_copy(folder: Path) -> dict[str, Any]:
    """Where the service keeps the adapter of this folder.

    Raises UserError for an adapter that was not trained on the service.
    """
    if paths := read_json(folder / HOSTED):
        return paths
    raise UserError(
        f"the adapter in {folder} was not trained on the service, which cannot load adapters from elsewhere; "
        "train that stage with trainer: tinker too, or this one with trainer: local."
    )


ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
MLP = frozenset({"gate_proj", "up_proj", "down_proj"})


def parts_trained(recipe: Recipe) -> tuple[bool, bool]:
    """Whether the linear layers of attention and of the MLP get an adapter."""
    targets = ATTENTION | MLP if recipe.lora.target_modules == "all-linear" else set(recipe.lora.target_modules)
    return bool(ATTENTION & targets), bool(MLP & targets)
