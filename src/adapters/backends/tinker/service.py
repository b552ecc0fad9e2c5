"""The Tinker service: requests, waiting, errors, downloads.

The only module that imports the SDK. Errors are one sentence without secrets.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

# Read when the SDK is first used. Its telemetry would send exception texts and, with some errors, request headers.
os.environ.setdefault("TINKER_TELEMETRY", "0")

import httpx
import tinker

from adapters.backends.adapter_folder import CONFIG, WEIGHTS
from adapters.backends.tinker.idle_time import IdleTimer
from adapters.backends.tinker.objectives import TrainRow
from adapters.console import console
from adapters.errors import Refused, UserError
from adapters.files import replacing
from adapters.recipe.tinker import Hosted
from adapters.secrets import redact

log = logging.getLogger(__name__)
LOOK_AFTER = 15.0
"""Seconds without a result after which the service's health is checked."""
CONSOLE = "https://tinker-console.thinkingmachines.ai"
SAMPLED_AT_ONCE = 512


class _Pauses(logging.Handler):
    """Prints why the SDK waits (payment, capacity), which it only logs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message about a pause."""
        if "paused" in (text := redact(record.getMessage())):
            console(stderr=True).print(f"waiting for the service: {text}", markup=False)


logging.getLogger("tinker").addHandler(_Pauses())


class ServiceError(RuntimeError):
    """The service failed. The run continues from what was stored before."""


def base_url() -> str:
    """The service's address: TINKER_BASE_URL, or the public one."""
    from tinker.lib.base_url import resolve_base_url

    return str(resolve_base_url())


def explain(error: BaseException, doing: str) -> Exception:
    """Convert an SDK error into one sentence with what to do; `doing` is "while …"."""
    # SDK 0.38 fails on a refusal for payment while it opens a session; the refusal is a cause of what it raises then.
    causes = [error]
    while following := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(following)
    error = next((e for e in causes if isinstance(e, tinker.BillingError)), error)
    text = redact(str(error)).strip() or type(error).__name__
    first = text.splitlines()[0]
    if isinstance(error, tinker.AuthenticationError | tinker.PermissionDeniedError):
        return UserError(
            f"{base_url()} refuses the API key ({first}). Set TINKER_API_KEY to a valid one ({CONSOLE}), or run: "
            "tinker auth login"
        )
    if isinstance(error, tinker.BillingError) or "status 402" in text:
        return Refused(
            f"the service asks for payment {doing}: {first.rstrip('.')}. Set up billing at {CONSOLE}; "
            "the same command then continues from what is stored"
        )
    if isinstance(error, tinker.APIConnectionError):
        return ServiceError(f"{base_url()} cannot be reached {doing}: {first}")
    if "must start with the 'tml-'" in text:
        return UserError("the API key in TINKER_API_KEY is malformed: a key starts with tml-.")
    if "api_key client option must be set" in text:
        return UserError(f"no API key: set TINKER_API_KEY (keys: {CONSOLE}), or run: tinker auth login")
    cause = error.__cause__ or error.__context__
    if "poisoned" in text:
        why = f" ({redact(str(cause)).splitlines()[0]})" if cause and str(cause) else ""
        return ServiceError(f"the training run on the service is unusable after a failed request{why} {doing}")
    if isinstance(error, tinker.NotFoundError) or "status 404" in text or " 404" in text:
        return ServiceError(f"the service did not find what was asked for {doing}: {first}")
    return ServiceError(f"the service failed {doing}: {first}")


SDK_ERRORS = (tinker.TinkerError, ValueError, RuntimeError, OSError, CancelledError, httpx.HTTPError)
"""What the SDK raises; a failed result raises ValueError, a poisoned client RuntimeError."""


class Pending:
    """A submitted request."""

    def __init__(self, service: Service, future: Any, doing: str) -> None:
        self.service, self.doing = service, doing
        service.idle.sent()
        self.future = future.future() if hasattr(future, "future") else future
        self.future.add_done_callback(service.idle.answered)

    def result(self) -> Any:
        """Wait for the answer. Raises ServiceError for failures and after the time-out."""
        silent: float | None = None
        minutes = self.service.hosted.timeout_minutes
        limit = 60 * minutes
        while True:
            try:
                return self.future.result(timeout=min(LOOK_AFTER, limit / 2))
            except SDK_ERRORS as error:
                if not isinstance(error, TimeoutError) or self.future.done():
                    log.error("%s: %s: %s", self.doing, type(error).__name__, redact(str(error)))
                    raise explain(error, self.doing) from None
            if alive():
                silent = None
                continue
            now = time.monotonic()
            if silent is None:
                silent = now
                console(stderr=True).print(f"{base_url()} does not answer; waiting up to {minutes:g} minutes")
            if now - silent > limit:
                raise ServiceError(f"{base_url()} has not answered for {minutes:g} minutes {self.doing}")


def alive() -> bool:
    """Whether anything answers at the service's address, be it an error."""
    try:
        httpx.get(f"{base_url()}/api/v1/healthz", timeout=10)
    except httpx.HTTPError:
        return False
    return True


def models() -> dict[str, int | None]:
    """Base models of the service with their context lengths.

    Raises UserError for a missing or refused key and a service that does not answer, Refused for billing.
    """
    if not alive():  # the SDK would go on trying for minutes
        raise UserError(f"nothing answers at {base_url()}. Is TINKER_BASE_URL right, and the service up?")
    try:
        tinker.auth.raise_if_tinker_not_accessible()
        known = tinker.RestClient(base_url=base_url()).get_server_capabilities().result().supported_models
    except SDK_ERRORS as error:
        explained = explain(error, "when asked for its models")
        if isinstance(explained, ServiceError):
            raise UserError(f"{explained}. Is TINKER_BASE_URL right, and the service up?") from None
        raise explained from None
    return {m.model_name: getattr(m, "max_context_length", None) for m in known if m.model_name}


class Service:
    """A session with the service."""

    def __init__(self, hosted: Hosted, name: str) -> None:
        self.hosted, self.idle = hosted, IdleTimer()
        try:
            self.client = tinker.ServiceClient(user_metadata={"run": name}, display_name=name)
        except (*SDK_ERRORS, AttributeError) as error:  # see `explain`
            raise explain(error, "at the start") from None

    def close(self, status: Any) -> None:
        """End the session, without waiting for a service that does not answer."""
        try:
            self.client.close(status).result(timeout=10)
        except SDK_ERRORS as error:
            log.info("the session was not closed: %s", redact(str(error)))

    def ask(self, call: Callable[..., Any], *arguments: Any, doing: str, **options: Any) -> Pending:
        """Submit a request. Raises as `explain` says if it fails at once."""
        try:
            return Pending(self, call(*arguments, **options), doing)
        except SDK_ERRORS as error:
            raise explain(error, doing) from None

    def new_run(self, base: str, rank: int, seed: int, *, attention: bool, mlp: bool) -> Run:
        """A fresh adapter on a base model of the service."""
        doing = f"while it made a new adapter on {base}"
        head = False  # TRL's losses never train it and vLLM cannot serve it
        create = self.client.create_lora_training_client
        return Run(self, self.ask(create, base, rank, seed, mlp, attention, head, doing=doing).result())

    def run_from(self, path: str, *, optimizer: bool) -> Run:
        """The adapter of a stored state, with or without its optimizer state."""
        create = self.client.create_training_client_from_state
        if optimizer:
            create = self.client.create_training_client_from_state_with_optimizer
        return Run(self, self.ask(create, path, doing="while it loaded a stored adapter").result())

    def sampler(self, *, path: str | None = None, base: str | None = None) -> Sampler:
        """Sample from stored weights, or from a base model."""
        options = {"model_path": path} if path else {"base_model": base}
        doing = "while it loaded weights to sample from"
        return Sampler(self, self.ask(self.client.create_sampling_client, doing=doing, **options).result())

    def download(self, path: str, folder: Path) -> None:
        """Download the files of external weights into `folder`, each atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        doing = "while the adapter was downloaded"
        try:
            rest = tinker.RestClient(base_url=base_url())
        except SDK_ERRORS as error:
            raise explain(error, doing) from None
        for attempt in range(3):
            urls = self.ask(rest.get_external_weights_urls, path, doing=doing).result().urls
            if missing := {WEIGHTS, CONFIG} - set(urls):
                raise ServiceError(f"the service's adapter lacks {min(missing)}")
            try:
                for name in (WEIGHTS, CONFIG):  # not the server's own names, which could lead out of the folder
                    _fetch(urls[name], folder / name)
                return
            except httpx.HTTPError as error:  # an expired signature, a broken connection: sign and fetch again
                log.warning("download, attempt %d: %s", attempt + 1, redact(str(error)))
                if attempt == 2:
                    raise explain(error, doing) from None
                time.sleep(2**attempt)


def _fetch(url: str, target: Path) -> None:
    with (
        httpx.stream("GET", url, timeout=60, follow_redirects=True) as answer,
        replacing(target) as temporary,
        temporary.open("wb") as file,
    ):
        answer.raise_for_status()
        for chunk in answer.iter_bytes():
            file.write(chunk)


def datum(row: TrainRow) -> Any:
    """A row in the SDK's form."""
    columns: dict[str, Any] = {"target_tokens": list(row.targets)}
    columns |= {name: list(values) for name, values in row.columns.items()}
    return tinker.Datum(model_input=tinker.ModelInput.from_ints(list(row.tokens)), loss_fn_inputs=columns)


class Run:
    """An adapter in training; requests are carried out in the order of submission."""

    def __init__(self, service: Service, client: Any) -> None:
        self.ask, self.client = service.ask, client

    @property
    def id(self) -> str:
        """The service's name for this training run."""
        return str(self.client.model_id)

    def forward(self, rows: Sequence[TrainRow]) -> Pending:
        """Log-probabilities of each row's targets (`logprobs_of`), no gradient."""
        data = [datum(r) for r in rows]
        return self.ask(self.client.forward, data, "cross_entropy", doing="while it computed a loss")

    def learn(self, rows: Sequence[TrainRow], loss: str, config: Mapping[str, float] | None = None) -> Pending:
        """Add the gradient of a built-in loss, summed over tokens and rows."""
        data, limits = [datum(r) for r in rows], dict(config) if config else None
        return self.ask(self.client.forward_backward, data, loss, limits, doing="while it trained")

    def learn_custom(self, rows: Sequence[TrainRow], loss: Callable[[list[Any]], Any]) -> Pending:
        """Add the gradient of a custom loss on log-probabilities (one tensor a row)."""
        data = [datum(r) for r in rows]

        def wrapped(_: Any, logprobs: list[Any]) -> tuple[Any, dict[str, float]]:
            return loss(logprobs), {}

        return self.ask(self.client.forward_backward_custom, data, wrapped, doing="while it trained")

    def step(self, learning_rate: float, weight_decay: float) -> Pending:
        """One AdamW step on the added-up gradients, with the local trainer's constants."""
        constants = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "grad_clip_norm": 1.0}
        adam = tinker.AdamParams(learning_rate=learning_rate, weight_decay=weight_decay, **constants)
        return self.ask(self.client.optim_step, adam, doing="while it took an optimizer step")

    def save(self, name: str, days: int) -> Pending:
        """Store weights and optimizer; the answer's `path` loads them again."""
        return self.ask(self.client.save_state, name, days * 86400, True, doing="while it stored a checkpoint")

    def save_for_sampling(self, name: str, days: int) -> Pending:
        """Store weights to sample from."""
        save = self.client.save_weights_for_sampler
        return self.ask(save, name, days * 86400, doing="while it stored weights to sample from")

    def save_external(self, name: str, days: int) -> Pending:
        """Store weights to download."""
        save = self.client.save_weights_external
        return self.ask(save, name, days * 86400, doing="while it stored weights to download")

    def snapshot(self) -> Pending:
        """The weights as they are now, to sample from (`Sampler(service, answer)`)."""
        save = self.client.save_weights_and_get_sampling_client
        return self.ask(save, doing="while it made its weights ready to sample from")


class Sampler:
    """Weights to sample from."""

    def __init__(self, service: Service, client: Any) -> None:
        self.ask, self.client = service.ask, client

    def sample(self, prompt: Sequence[int], n: int, *, max_tokens: int, temperature: float, stop: list[int]) -> Pending:
        """`n` answers to one prompt."""
        # Without a seed: with one, the answers of a group would be copies of each other.
        params = tinker.SamplingParams(max_tokens=max_tokens, temperature=temperature, stop=stop)
        text = tinker.ModelInput.from_ints(list(prompt))
        return self.ask(self.client.sample, text, n, params, doing="while it sampled")

    def logprobs(self, tokens: Sequence[int]) -> Pending:
        """Log-probability of each token but the first, at temperature 1."""
        text = tinker.ModelInput.from_ints(list(tokens))
        return self.ask(self.client.compute_logprobs, text, doing="while it computed log-probabilities")


def logprobs_of(answer: Any) -> list[list[float]]:
    """Log-probabilities of each row's targets, from a training answer."""
    return [[float(v) for v in row["logprobs"].tolist()] for row in answer.loss_fn_outputs]
