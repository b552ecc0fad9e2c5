"""Training on the Tinker API; data and rewards are computed on this machine."""

from __future__ import annotations

import atexit
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from adapters.backends.jobs import Evaluation, Job
from adapters.backends.local.tokenizing import TokenizingBackend
from adapters.backends.tinker import convert_adapter, service
from adapters.backends.tinker.cost import Account, Tokens
from adapters.backends.tinker.cost_estimate import estimate
from adapters.backends.tinker.dpo import train_dpo
from adapters.backends.tinker.generate import HostedSampler
from adapters.backends.tinker.grpo import train_grpo
from adapters.backends.tinker.parity import check_recipe, differences, notes
from adapters.backends.tinker.service import Service
from adapters.backends.tinker.sft import train_sft
from adapters.backends.tinker.stage import HOSTED, HostedStage, service_copy
from adapters.console import phase, quiet_libraries
from adapters.errors import Refused, UserError, hint
from adapters.files import write_json
from adapters.recipe.load import run_folder
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import TokenClassification
from adapters.types import Difference, Progress
from adapters.types import Sampler as AnySampler

COMPARED = 8
"""Texts on which the downloaded adapter is compared with the service's."""
TRAIN: dict[str, Callable[[HostedStage, Any], dict[str, Any]]]
TRAIN = {"sft": train_sft, "grpo": train_grpo, "dpo": train_dpo}


class TinkerBackend(TokenizingBackend):
    """See `adapters.backends.jobs.Backend`."""

    def __init__(self, recipe: Recipe) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("the hosted trainer is one process; start it with adapters run, without a launcher.")
        self.recipe = recipe
        quiet_libraries()
        self.account = Account(recipe.tinker, run_folder(recipe))

    @property
    def served_base(self) -> str:
        """The service's name of the base model."""
        return self.recipe.tinker.base or self.base.hub_id

    def check(self, stages: Sequence[Any]) -> list[str]:
        """Raise UserError for what the service cannot do; return notes on differences."""
        for n, stage in enumerate(stages):
            if isinstance(stage, TokenClassification):
                fault = "the hosted trainer cannot train encoders; use trainer: local."
                raise UserError(fault, at=("stages", n, "kind"))
        check_recipe(self.recipe)
        for n, stage in enumerate(stages):
            reference = getattr(stage, "reference", "start")
            if reference not in ("start", "base"):
                try:
                    service_copy(Path(reference))
                except UserError as error:
                    raise UserError(str(error), at=("stages", n, "reference")) from None
        return [f"hosted at {service.base_url()}", *notes(self.recipe)]

    def check_start(self, folder: Path) -> None:
        """Raise UserError for an adapter that was not trained on the service."""
        service_copy(folder)

    def estimate(self, jobs: Sequence[Job], tests: Sequence[Evaluation], *, certain: bool) -> list[str]:
        """Estimate the run's cost; check the service, the API key and the base model.

        Raises UserError and Refused; in a dry run (not `certain`) a problem with the service is a note.
        """
        out = estimate(jobs, self.encoder.prompts, tests, self.recipe.tinker) if certain or jobs[0].tokens else []
        try:
            self._check_service(jobs, tests)
        except (UserError, Refused) as error:
            if certain:
                raise
            out.append(f"the service was not asked: {error}" if isinstance(error, Refused) else str(error))
        return out

    def _check_service(self, jobs: Sequence[Job], tests: Sequence[Evaluation]) -> None:
        models = service.models()
        if self.served_base not in models:
            known = sorted(models)
            raise UserError(
                f"the service has no base model {self.served_base!r}.{hint(self.served_base, known)} It has: "
                f"{', '.join(known)}. tinker.base names one that is called otherwise there.",
                at=("model", "base"),
            )
        context = models[self.served_base]
        if context is None:
            return
        longest = [("stages", job.index, *self._longest(job)) for job in jobs]
        for n, test in enumerate(tests):
            prompt = max(row.prompt for row in self.lengths(test.examples))
            longest.append(("evaluate", n, prompt + test.max_new_tokens, "max_new_tokens"))
        for section, n, tokens, key in longest:
            if tokens > context:
                raise UserError(
                    f"rows of up to {tokens:,} tokens do not fit the {context:,} that {self.served_base} reads on the "
                    f"service; lower {key}.",
                    at=(section, n, key),
                )

    def _longest(self, job: Job) -> tuple[int, str]:
        """Tokens of the longest sequence of a stage, and the key that limits it."""
        lengths = self.lengths([*job.examples, *job.validation])
        if job.stage.kind == "grpo":
            return max(n.prompt for n in lengths) + job.stage.max_completion_length, "max_completion_length"
        return max(n[0] + max(n[1:]) for n in lengths), "max_length"

    def describe(self) -> dict[str, Any]:
        """What the manifest records about the base model and where it was trained."""
        return {
            "base": self.recipe.model.base,
            "hub_id": self.base.hub_id,
            "revision": self.base.revision,
            "service": {"url": service.base_url(), "base": self.served_base},
        }

    def parity(self) -> list[Difference]:
        """How the local and the hosted trainer differ for this recipe."""
        return differences(self.recipe)

    def train(self, job: Job, start: Path | None, folder: Path, progress: Progress) -> Mapping[str, Any]:
        """Train one stage on the service and download its adapter into `folder`.

        Raises Refused when the budget is used up; the adapter trained so far is then in `folder`/trainer/stopped.
        """
        phase("connecting to the service")
        session = Service(self.recipe.tinker, f"{self.recipe.name}-{job.name}")
        status = "errored"
        try:
            run = HostedStage(
                session, self.account, self.encoder, job, self.recipe, self.served_base, start, folder, progress
            )
            try:
                figures = TRAIN[job.stage.kind](run, job.stage) | {"idle_share": session.idle.share()}
                figures |= self._download(run, folder)
            except Refused as refusal:
                raise Refused(self._stop(run, refusal)) from None
            status = "success"
            return figures | self.account.figures(job.name)
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            session.close(status)

    def _stop(self, run: HostedStage, refusal: Refused) -> str:
        run.settle()
        if not run.done:
            return f"{refusal}. Nothing was trained yet."
        run.checkpoint()
        stopped = run.work / "stopped"
        self._fetch(run, stopped)
        return (
            f"{refusal}. Stopped after step {run.done} of {run.job.steps}, from where the same command continues; the "
            f"adapter so far is in {stopped}"
        )

    def _fetch(self, run: HostedStage, folder: Path) -> dict[str, Any]:
        """Download what is trained so far and write it as an adapter folder."""
        raw, days = run.work / "download", self.recipe.tinker.checkpoint_ttl_days
        shutil.rmtree(raw, ignore_errors=True)
        stored = run.run.save_external(f"step-{run.done}", days).result().path
        run.service.download(stored, raw)
        shape = convert_adapter.write_adapter(raw, folder, self.base)
        self.encoder.tokenizer.save_pretrained(str(folder))
        return shape

    def _download(self, run: HostedStage, folder: Path) -> dict[str, Any]:
        phase("downloading the adapter")
        days = self.recipe.tinker.checkpoint_ttl_days
        state = run.run.save("final", days)
        sampling = run.run.save_for_sampling("final", days)
        figures = self._fetch(run, folder)
        where = {
            "run": run.run.id,
            "base": self.served_base,
            "state": state.result().path,
            "sampler": sampling.result().path,
            "kept_until": (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds"),
        }
        write_json(folder / HOSTED, where)
        verify = self.recipe.tinker.verify_adapter
        if verify == "numbers" or (verify == "auto" and convert_adapter.weights_fit_here(self.base)):
            texts = [p + a for p, a, _ in self.encoder.tokens(run.job.examples[:COMPARED])]
            run.spend(Tokens(prefill=sum(map(len, texts))))
            sampler = run.service.sampler(path=where["sampler"])
            figures |= convert_adapter.compare(folder, self.base, self.recipe.model, sampler, texts)
        return figures

    def sampler(self, adapter: Path | None) -> AnySampler:
        """The base model, or the weights that the service keeps of an adapter."""
        weights = {"base": self.served_base} if adapter is None else {"path": self._stored_weights(adapter)}
        return HostedSampler(self._evaluation.sampler(**weights), self.encoder, self.account, "evaluation")

    @cached_property
    def _evaluation(self) -> Service:
        session = Service(self.recipe.tinker, f"{self.recipe.name}-evaluation")
        atexit.register(session.close, "success")
        return session

    def _stored_weights(self, adapter: Path) -> str:
        where = service_copy(adapter)
        if datetime.fromisoformat(where["kept_until"]) < datetime.now(UTC):
            raise UserError(
                f"the service kept the weights of {adapter} until {where['kept_until']}; the adapter itself is here, "
                "and trainer=local evaluates it."
            )
        return str(where["sampler"])

    def barrier(self) -> None:
        """One process only."""
