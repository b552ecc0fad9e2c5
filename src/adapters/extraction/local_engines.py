"""Extraction engines with the model in this process: transformers and vLLM."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from adapters.backends.adapter_folder import CONFIG, WEIGHTS, own_names
from adapters.backends.constraint import Constraint
from adapters.backends.local import base_model, text_only
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.generate import LocalSampler
from adapters.backends.local.model import load_merged, on_gpu, prepare_cpu
from adapters.backends.local.token_ends import token_ends
from adapters.backends.local.tokenizer import load_tokenizer
from adapters.console import quiet_libraries
from adapters.data.lengths import answer_limit
from adapters.errors import UserError
from adapters.extraction import vllm_probe
from adapters.extraction.adapter_source import Source
from adapters.extraction.chunks import Sizes
from adapters.extraction.constraining import constraint_of
from adapters.extraction.engine import LEAST, Answer, DrawEngine, Drawing, Engine, Group, Options, Request
from adapters.extraction.files import blocks
from adapters.types import Drawn, Example, TokenScores


def transformers_engine(source: Source, options: Options, window: int, note: Callable[[str], None]) -> Engine:
    """The adapter merged into its base; batches sorted by length inside a window."""
    # A chain of thought may hold JSON of its own, so a thinking model is left to end by itself.
    constraint = constraint_of("transformers", source, options.constrain)
    sampler = _sampler(source, note, stop_at_json=not source.model.thinking, scored=options.scored)
    if not sampler.shares:
        note(_WHOLE)

    def answer(requests: Iterable[Request]) -> Iterator[Answer]:
        for block in blocks(requests, window):
            rows, prompts, too_long = _encode(block, sampler.encoder, sampler.context)
            yield from too_long
            samples = sampler.answers(
                prompts,
                max_new_tokens=options.max_new_tokens,
                batch_size=options.batch_size,
                grammar=_grammar_of(constraint, block, rows),
            )
            yield from (Answer(rows[n], *sample[:3], scores=sample.scores) for n, sample in samples)

    return answer


def transformers_draws(source: Source, drawing: Drawing, options: Options, note: Callable[[str], None]) -> DrawEngine:
    """Several answers to each prompt, as an evaluation would write them: whatever follows the JSON counts."""
    constraint = constraint_of("transformers", source, options.constrain, several=True)
    sampler = _sampler(source, note, stop_at_json=False)
    if not sampler.groups:
        note(_WHOLE)

    def draw(examples: Sequence[Example], wanted: Callable[[int], bool]) -> Iterator[Group]:
        requests = _requests(examples)
        rows, prompts, too_long = _encode(requests, sampler.encoder, sampler.context)
        yield from (Group(a.row, error=a.error) for a in too_long if wanted(a.row))
        drawn = sampler.draws(
            prompts,
            [drawing.seeds(examples[row].id) for row in rows],
            temperature=drawing.temperature,
            max_new_tokens=_limit(source, drawing, sampler.encoder, examples),
            batch_size=options.batch_size,
            wanted=lambda n: wanted(rows[n]),
            grammar=_grammar_of(constraint, requests, rows),
        )
        yield from (Group(rows[n], answers) for n, answers in drawn)

    return draw


_WHOLE = "this architecture keeps more than keys and values: prompts are computed whole, through generate"


def _requests(examples: Sequence[Example]) -> list[Request]:
    return [Request(n, example.prompt, example.meta.get("text")) for n, example in enumerate(examples)]


def _grammar_of(
    constraint: Constraint | None, requests: Sequence[Request], rows: Sequence[int]
) -> Callable[[int], str] | None:
    """The grammar of the n-th of the rows."""
    if constraint is None:
        return None
    texts = {request.row: request.text for request in requests}
    return lambda n: constraint.grammar(texts[rows[n]])


def _limit(source: Source, drawing: Drawing, encoder: Encoder, examples: Sequence[Example]) -> int:
    """Most tokens of an answer. Gold answers tell it of none to a row without one, nor the length of a thought."""
    golds = [example.completion for example in examples if example.completion is not None]
    if drawing.max_new_tokens or source.model.thinking or len(golds) < len(examples):
        return drawing.max_new_tokens or Options().max_new_tokens
    return answer_limit(map(len, encoder.completions(golds)))


def _sampler(source: Source, note: Callable[[str], None], *, stop_at_json: bool, scored: bool = False) -> LocalSampler:
    quiet_libraries()
    prepare_cpu()
    base, encoder = _load(source, note)
    model = load_merged(base, source.model, source.adapter)
    if on_gpu():
        model = model.to(torch.accelerator.current_accelerator())
    context = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    speedups = source.model.speedups
    return LocalSampler(model, encoder, stop_at_json=stop_at_json, context=context, speedups=speedups, scored=scored)


def vllm_engine(source: Source, options: Options, window: int, note: Callable[[str], None]) -> Engine:
    """An engine of vLLM in this process: LoRA request, prefix cache, structured output.

    Raises UserError when vLLM answers the same with and without the adapter.
    """
    from vllm import SamplingParams

    constraint = constraint_of("vllm", source, options.constrain)
    llm, lora, encoder = _open_vllm(source, note)
    plain = {"temperature": 0.0, "max_tokens": options.max_new_tokens, "stop_token_ids": [encoder.end]}
    plain["logprobs"] = 0 if options.scored else None
    context = llm.llm_engine.model_config.max_model_len

    def answer(requests: Iterable[Request]) -> Iterator[Answer]:
        for block in blocks(requests, window):
            rows, prompts, too_long = _encode(block, encoder, context)
            yield from too_long
            inputs = [{"prompt_token_ids": ids} for ids in prompts]
            texts = {request.row: request.text for request in block}
            sampling = [SamplingParams(**plain, **_structured(source, constraint, texts[row])) for row in rows]
            outputs = llm.generate(inputs, sampling, lora_request=lora, use_tqdm=False) if inputs else ()
            for row, output in zip(rows, outputs, strict=True):
                first = output.outputs[0]
                scores = _token_scores(encoder, first) if options.scored else None
                cut = first.finish_reason == "length"
                yield Answer(row, first.text, len(first.token_ids), cut, scores=scores)

    return answer


def _structured(source: Source, constraint: Constraint | None, text: str | None) -> dict[str, Any]:
    """What vLLM calls structured output, for an answer to a text; its backend `guidance` takes grammars."""
    if constraint is None:
        return {}
    from vllm.sampling_params import StructuredOutputsParams

    if constraint.how == "schema":
        return {"structured_outputs": StructuredOutputsParams(json=source.task.answer_schema())}
    return {"structured_outputs": StructuredOutputsParams(grammar=constraint.grammar(text))}


def vllm_draws(source: Source, drawing: Drawing, options: Options, note: Callable[[str], None]) -> DrawEngine:
    """Several answers to each prompt by vLLM in this process. Raises UserError as `vllm_engine`."""
    from vllm import SamplingParams

    constraint = constraint_of("vllm", source, options.constrain, several=True)
    llm, lora, encoder = _open_vllm(source, note)
    context = llm.llm_engine.model_config.max_model_len

    def draw(examples: Sequence[Example], wanted: Callable[[int], bool]) -> Iterator[Group]:
        rows, prompts, too_long = _encode(_requests(examples), encoder, context)
        yield from (Group(a.row, error=a.error) for a in too_long if wanted(a.row))
        limit = _limit(source, drawing, encoder, examples)
        fixed = {"max_tokens": limit, "stop_token_ids": [encoder.end], "logprobs": 0}
        asked = [(row, ids) for row, ids in zip(rows, prompts, strict=True) if wanted(row)]
        for block in blocks(asked, _PROMPTS):
            params = [
                SamplingParams(**_drawing_of(drawing, seed), **fixed, **structured)
                for row, _ in block
                for structured in [_structured(source, constraint, examples[row].meta.get("text"))]
                for seed in drawing.seeds(examples[row].id)
            ]
            several = len(params) // len(block)
            inputs = [{"prompt_token_ids": ids} for _, ids in block for _ in range(several)]
            outputs = iter(llm.generate(inputs, params, lora_request=lora, use_tqdm=False))
            yield from (Group(row, [_drawn(next(outputs).outputs[0]) for _ in range(several)]) for row, _ in block)

    return draw


def _drawing_of(drawing: Drawing, seed: str | None) -> dict[str, Any]:
    if seed is None:
        return {"temperature": 0.0}
    return {"temperature": drawing.temperature, "seed": zlib.crc32(seed.encode())}


def _token_scores(encoder: Encoder, output: Any) -> TokenScores:
    """The scores of vLLM's greedy answer: with `logprobs=0` each step names the chosen token alone."""
    ids = list(output.token_ids)
    logprobs = [step[token].logprob for token, step in zip(ids, output.logprobs, strict=True)]
    return TokenScores(token_ends(encoder.tokenizer, ids, output.text), tuple(logprobs))


_PROMPTS = 64
"""Prompts that vLLM gets at once; what it has answered is then safe from a kill."""


def _drawn(output: Any) -> Drawn:
    count = len(output.token_ids)
    return Drawn(output.text, count, output.finish_reason == "length", output.cumulative_logprob / max(count, 1))


def _open_vllm(source: Source, note: Callable[[str], None]) -> tuple[Any, Any, Encoder]:
    """vLLM, the request for the adapter, and the encoder. Raises UserError when the adapter has no effect."""
    base, encoder = _load(source, note)
    rank = json.loads((source.adapter / CONFIG).read_text(encoding="utf-8")).get("r", 16)
    folder = _under_served_names(source.adapter, base)
    llm = vllm_probe.open_llm(base.load, base.revision, rank, source.model.dtype, enable_prefix_caching=True)
    lora = vllm_probe.lora(folder)
    [prompt] = encoder.prompts([vllm_probe.PROBE])
    asked = [
        vllm_probe.greedy(llm, [prompt], request, vllm_probe.PROBE_TOKENS, [encoder.end])[0]
        for request in (None, None, lora)
    ]
    if not vllm_probe.has_effect(*asked):
        raise UserError(
            f"vLLM loads the adapter and does not apply it: with and without it, the answer to a probe has the same "
            f"log-probabilities. The names in {source.adapter / WEIGHTS} may not be those of the class that vLLM runs."
        )
    return llm, lora, encoder


def _under_served_names(adapter: Path, base: base_model.Base) -> Path:
    """The adapter's folder; a copy in a temporary one if vLLM runs the base's checkpoint under other names."""
    if (wrapper := text_only.wrapper_of(base)) is None:
        return adapter
    tensors = load_file(adapter / WEIGHTS)
    named = text_only.with_served_names(own_names(tensors), wrapper)
    if named.keys() <= tensors.keys():
        return adapter
    folder = Path(tempfile.mkdtemp(prefix="adapters-vllm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copyfile(adapter / CONFIG, folder / CONFIG)
    save_file(named, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def sizes(source: Source) -> Sizes:
    """The tokens of texts and prompts, by the adapter's tokenizer, and the context of its base. Raises UserError."""
    encoder = cache(lambda: _load(source, lambda _: None)[1])  # most corpora need no count
    return Sizes(
        lambda texts: [len(ids) - 1 for ids in encoder().completions(texts)],  # without the end token
        lambda prompt: len(encoder().prompts([prompt])[0]),
        _context(source),
    )


def _context(source: Source) -> int | None:
    try:
        config = base_model.load_config(base_model.resolve(source.model.base, source.model.revision))
    except UserError:  # that of a model with code of its own is known to the engine alone
        return None
    length: int | None = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return length


def _load(source: Source, note: Callable[[str], None]) -> tuple[base_model.Base, Encoder]:
    base = base_model.resolve(source.model.base, source.model.revision)
    # A bundle carries the tokenizer and chat template it was trained with.
    own = (source.adapter / "tokenizer_config.json").is_file()
    stored = base_model.Base(str(source.adapter), base.hub_id) if own else base
    tokenizer = load_tokenizer(stored, source.model, template_of=base if own else None, note=note)
    return base, Encoder(tokenizer, source.model.thinking)


def _encode(
    block: Sequence[Request], encoder: Encoder, context: int | None
) -> tuple[list[int], list[list[int]], list[Answer]]:
    """Rows and token ids of the prompts that fit into the context, and the answers of the others."""
    rows, prompts, too_long = list[int](), list[list[int]](), list[Answer]()
    for request, ids in zip(block, encoder.prompts([r.prompt for r in block]), strict=True):
        if context is not None and len(ids) + LEAST > context:
            fault = f"too long: a prompt of {len(ids):,} tokens for a context of {context:,}"
            too_long.append(Answer(request.row, error=fault))
        else:
            rows.append(request.row)
            prompts.append(ids)
    return rows, prompts, too_long
