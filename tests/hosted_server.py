"""TuFT as a Tinker-compatible server in one process on a CPU: no Ray, no vLLM, no GPU.

    python tests/hosted_server.py --model NAME=DIR --root DIR --port N [--key tml-dummy] [--alpha-ratio 1]

TuFT's own code does the protocol, the records of runs and checkpoints, LoRA training through PEFT, losses and the
optimizer. Replaced here: the Ray actor by an object in this process; vLLM by sampling with transformers (an adapter a
snapshot); and what SDK 0.38 asks of a server beyond the version that TuFT 0.2.2 was written for. With the same --root
a new server knows the runs and checkpoints of the one before it, also of one that was killed.
"""

# ruff: noqa: B008
from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import inspect
import sys
import types as python_types
from pathlib import Path
from typing import Any

import torch

ray, actor = python_types.ModuleType("ray"), python_types.ModuleType("ray.actor")
actor.ActorProxy = object  # type: ignore[attr-defined]
ray.actor, ray.kill = actor, lambda *a, **k: None  # type: ignore[attr-defined]
sys.modules.update({"ray": ray, "ray.actor": actor})
if not torch.cuda.is_available():
    torch.cuda.reset_peak_memory_stats = lambda *a, **k: None

from tinker import types  # noqa: E402

types.OptimStepRequest.adam_params = property(lambda self: self.optim_params)  # the field's name before 0.38
if not hasattr(types, "CheckpointArchiveUrlResponse"):
    types.CheckpointArchiveUrlResponse = types.ExternalWeightsUrlsResponse

import uvicorn  # noqa: E402
from fastapi import Depends, HTTPException, Request  # noqa: E402
from fastapi.responses import FileResponse, JSONResponse, Response  # noqa: E402
from tuft import server, training_controller  # noqa: E402
from tuft.backends import base_backend  # noqa: E402
from tuft.backends.hf_training_model import HFTrainingModel  # noqa: E402
from tuft.config import AppConfig, ModelConfig  # noqa: E402
from tuft.exceptions import UnknownModelException  # noqa: E402
from tuft.persistence import PersistenceConfig  # noqa: E402

V1 = "/api/v1"


class Local:
    """`actor.method.remote(...)` on an object of this process."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.held, name)

        async def remote(*args: Any, **kwargs: Any) -> Any:
            value = method(*args, **kwargs)
            return await value if inspect.isawaitable(value) else value

        return python_types.SimpleNamespace(remote=remote)


class Sampling(base_backend.BaseSamplingBackend):
    """Sampling with transformers; every snapshot is an adapter of its own on one base."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        from transformers import AutoModelForCausalLM

        self.base = AutoModelForCausalLM.from_pretrained(str(config.model_path), dtype="auto").eval()
        self.peft: Any = None
        self.lock = asyncio.Lock()

    async def async_init(self) -> None:
        pass

    async def add_adapter(self, lora_id: str, adapter_path: Path) -> None:
        from peft import PeftModel

        if self.peft is None:
            self.peft = PeftModel.from_pretrained(self.base, str(adapter_path), adapter_name=lora_id)
        else:
            self.peft.load_adapter(str(adapter_path), adapter_name=lora_id)

    async def remove_adapter(self, lora_id: str) -> None:
        if self.peft is not None:
            self.peft.delete_adapter(lora_id)

    async def sample(
        self,
        prompt: Any,
        num_samples: int,
        sampling_params: Any,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        lora_id: str | None = None,
    ) -> Any:
        async with self.lock:
            return await asyncio.to_thread(
                self._sample, prompt.to_ints(), num_samples, sampling_params, include_prompt_logprobs, lora_id
            )

    @torch.no_grad()
    def _sample(self, ids: list[int], n: int, params: Any, want_prompt: bool, lora_id: str | None) -> Any:
        model, context = self.base, contextlib.nullcontext()
        if self.peft is not None:
            model = self.peft
            if lora_id:
                model.set_adapter(lora_id)
            else:
                context = model.disable_adapter()
        generator = torch.Generator().manual_seed(params.seed) if params.seed is not None else None
        eos = self.base.generation_config.eos_token_id if params.stop is None else params.stop
        stops = set(eos if isinstance(eos, list) else [] if eos is None else [eos])
        with context:
            prompt_logprobs = None
            if want_prompt:
                logprobs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
                prompt_logprobs = [None] + [logprobs[i - 1, ids[i]].item() for i in range(1, len(ids))]
            sequences = [self._sequence(model, ids, params, stops, generator) for _ in range(n)]
        return types.SampleResponse(sequences=sequences, _prompt_logprobs_list=prompt_logprobs)

    def _sequence(self, model: Any, ids: list[int], params: Any, stops: set[int], generator: Any) -> Any:
        tokens, logprobs, reason = [], [], "length"
        past, current = None, torch.tensor([ids])
        for _ in range(params.max_tokens or 16):
            out = model(current, past_key_values=past, use_cache=True)
            past, logits = out.past_key_values, out.logits[0, -1].float()
            if params.temperature > 0:
                logits = logits / params.temperature
                token = int(torch.multinomial(logits.softmax(-1), 1, generator=generator))
            else:
                token = int(logits.argmax())
            tokens.append(token)
            logprobs.append(logits.log_softmax(-1)[token].item())
            current = torch.tensor([[token]])
            if token in stops:
                reason = "stop"
                break
        return types.SampledSequence(stop_reason=reason, sequence_id="", _tokens_list=tokens, _logprobs_list=logprobs)


HFTrainingModel.get_actor = classmethod(lambda cls, config: Local(cls(config)))
base_backend.BaseSamplingBackend.create_backend = classmethod(
    lambda cls, config, worker_venv_path=None: Sampling(config)
)


def build(arguments: argparse.Namespace) -> Any:
    """TuFT's app with the routes that SDK 0.38 wants in the form it wants them.

    While a file named `unpaid` is in the root folder, requests are refused as the public service refuses an account
    without payment; clients are told to wait for two seconds, not for an hour. A file named `telemetry` appears when
    one has sent some.
    """
    root = Path(arguments.root)
    models = [
        ModelConfig(
            model_name=name,
            model_path=Path(path),
            max_model_len=arguments.context,
            max_lora_rank=64,
            lora_alpha_ratio=arguments.alpha_ratio,
        )
        for name, path in (model.split("=", 1) for model in arguments.model)
    ]
    app = server.create_root_app(
        AppConfig(
            checkpoint_dir=root / "checkpoints",
            authorized_users={arguments.key: "default"},
            supported_models=models,
            persistence=PersistenceConfig(mode="FILE", file_path=root / "records.json"),
        )
    )
    user, state = server._get_user, server._get_state
    old = {(r.path, m): r.endpoint for r in app.routes if hasattr(r, "methods") for m in r.methods}

    def replace(method: str, path: str, endpoint: Any) -> None:
        app.router.routes[:] = [
            r
            for r in app.router.routes
            if not (getattr(r, "path", None) == path and method in getattr(r, "methods", ()))
        ]
        app.add_api_route(path, endpoint, methods=[method])
        app.router.routes.insert(0, app.router.routes.pop())

    @app.middleware("http")
    async def bill(request: Request, answer: Any) -> Any:
        if (root / "unpaid").exists() and not request.url.path.endswith(("healthz", "client/config")):
            return JSONResponse({"detail": "payment failed"}, 402)
        if request.url.path.endswith("telemetry"):
            (root / "telemetry").touch()
        return await answer(request)

    async def client_config(request: types.ClientConfigRequest, who: Any = Depends(user)) -> Any:
        told = await old[f"{V1}/client/config", "POST"](request, who)
        return told.model_copy(update={"billing_exception_max_pause_duration_sec": 2})

    async def asample(request: types.SampleRequest, st: Any = Depends(state), who: Any = Depends(user)) -> Any:
        future = await old[f"{V1}/asample", "POST"](request, st, who)
        ids = [f"{future.request_id}-{i}" for i in range(request.num_samples)]
        return {"request_id": future.request_id, "sample_sequence_ids": ids}

    async def load_weights(
        request: types.LoadWeightsRequest, st: Any = Depends(state), who: Any = Depends(user)
    ) -> Any:
        if request.model_id is None:  # 0.38 creates a run by loading into one that does not exist yet
            source = types.ParsedCheckpointTinkerPath.from_tinker_path(request.path).training_run_id
            try:
                held = st.training.get_run_record(source, who.user_id)
            except UnknownModelException as error:  # left alone it would be a 500, which clients retry for minutes
                raise HTTPException(404, f"no such checkpoint: {request.path}") from error
            model_id = f"{request.session_id}:train:{request.model_seq_id}"
            lora = types.LoraConfig(
                rank=held.lora_rank,
                train_attn=held.train_attn,
                train_mlp=held.train_mlp,
                train_unembed=held.train_unembed,
            )
            real, training_controller.uuid = (
                training_controller.uuid,
                python_types.SimpleNamespace(uuid4=lambda: model_id),
            )
            try:
                base = request.base_model or held.base_model
                await st.create_model(request.session_id, base, lora, who.user_id, request.user_metadata)
            finally:
                training_controller.uuid = real
            request = request.model_copy(update={"model_id": model_id, "seq_id": None})
        return await old[f"{V1}/load_weights", "POST"](request, st, who)

    async def save_external(
        request: types.SaveWeightsExternalRequest, st: Any = Depends(state), who: Any = Depends(user)
    ) -> Any:
        async def save() -> Any:
            name = "external-" + request.path
            await st.save_checkpoint(request.model_id, who.user_id, name, "sampler", seq_id=request.seq_id)
            return types.SaveWeightsExternalResponse(
                path=f"tinker://{request.model_id}/external_weights/{request.path}"
            )

        return await st.future_store.enqueue(save, model_id=request.model_id, user_id=who.user_id)

    def adapter(run: str, name: str) -> Path:
        return root / "checkpoints" / run / f"external-{name}" / "adapter"

    async def external_urls(run: str, name: str, request: Request, who: Any = Depends(user)) -> Any:
        if not adapter(run, name).is_dir():
            raise HTTPException(404, "no such checkpoint")
        base = str(request.base_url).rstrip("/")
        files = [p.name for p in adapter(run, name).iterdir() if p.suffix != ".md"]
        expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        return {"urls": {f: f"{base}/files/{run}/{name}/{f}" for f in files}, "expires": expires.isoformat()}

    async def external_file(run: str, name: str, file: str) -> Any:
        return FileResponse(adapter(run, name) / Path(file).name)

    async def finish(session: str) -> Any:
        return Response(status_code=204)

    replace("POST", f"{V1}/client/config", client_config)
    replace("POST", f"{V1}/asample", asample)
    replace("POST", f"{V1}/load_weights", load_weights)
    replace("POST", f"{V1}/save_weights_external", save_external)
    replace(
        "GET",
        f"{V1}/training_runs/{{run}}/checkpoints/external_weights/{{name}}/external_weights_urls",
        external_urls,
    )
    replace("GET", "/files/{run}/{name}/{file}", external_file)
    replace("POST", f"{V1}/sessions/{{session}}/finish", finish)
    return app


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--root", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", default="tml-dummy")
    parser.add_argument("--alpha-ratio", type=int, default=1)
    parser.add_argument("--context", type=int, default=1024)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    uvicorn.run(build(arguments), host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
