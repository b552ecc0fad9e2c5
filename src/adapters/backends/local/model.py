"""Device, precision, tokenizer and weights of a base model; prompts to tokens."""

from __future__ import annotations

import ctypes
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import init_empty_weights
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from adapters.backends.adapter_folder import WEIGHTS, own_names
from adapters.backends.local.base_model import AT, Base
from adapters.console import phase
from adapters.errors import UserError, hint
from adapters.recipe.recipe import Lora, Model
from adapters.types import Example, Lengths, Message

CONSENT = "ADAPTERS_TRUST_REMOTE_CODE"
"""Environment variable that --trust-remote-code sets, also for the processes that a launcher starts."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def on_gpu() -> bool:
    """Whether there is an accelerator, and the launcher did not ask for the CPU."""
    return torch.accelerator.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true")


def precision(model: Model) -> str:
    """bf16, fp16 or fp32: the recipe's choice, or what the hardware computes natively."""
    if model.precision != "auto":
        return model.precision
    if on_gpu():
        native = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp16"
    # On CPUs without these instructions bf16 is emulated and slower than fp32.
    probes = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return "bf16" if any(probe is not None and probe() for probe in probes) else "fp32"


def prepare_cpu() -> None:
    """Use all cores, and keep freed memory for reuse."""
    # accelerate would set one thread, and glibc would give every activation back to the system.
    if on_gpu():
        return
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // local))
    with suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD


PADS: Final = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|endoftext|>")
"""Names that families of models give the token to pad with, where they name none."""
_SPARE: Final = re.compile(r"\W+\w*(pad|reserved|unused|extra|dummy|placeholder|special_\d)\w*\W+", re.IGNORECASE)
_ENDS: Final = re.compile(r"end|eo[tsmdu]|stop|return|</", re.IGNORECASE)


def load_tokenizer(
    base: Base,
    config: Model | None = None,
    *,
    template_of: Base | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Any:
    """The tokenizer, padding on the left with a token that does not end answers.

    `template_of` is the model whose chat template is used, with a note, where the tokenizer has none. Raises UserError
    when the tokenizer cannot be had or knows no chat template.
    """
    tokenizer = _tokenizer(base, config)
    if tokenizer.chat_template is None and template_of is not None:
        tokenizer.chat_template = _tokenizer(template_of, config).chat_template
        note(f"the tokenizer in {base.load} has no chat template; that of {template_of.load} is used")
    if tokenizer.chat_template is None:
        raise UserError(f"{base.load!r} has no chat template; use an instruct model.", at=AT)
    # Were padding the end token, anything that masks padding would mask the end of every answer too.
    end = tokenizer.convert_ids_to_tokens(Encoder(tokenizer, thinking=True).end)
    ends = {end, tokenizer.eos_token}
    if wanted := config and config.pad_token:
        _check_padding(tokenizer, wanted, ends)
    if wanted or tokenizer.pad_token is None or tokenizer.pad_token in ends:
        tokenizer.pad_token = wanted or _padding(tokenizer, end)
    tokenizer.padding_side = "left"
    return tokenizer


def _tokenizer(base: Base, config: Model | None) -> Any:
    try:
        trust = config is not None and trusts(config)
        return AutoTokenizer.from_pretrained(base.load, revision=base.revision, trust_remote_code=trust)
    except (OSError, ValueError, ImportError) as error:  # not found, no access, unknown architecture
        raise UserError(f"the tokenizer of {base.load!r} cannot be loaded: {_first_line(error)}", at=AT) from error


def _check_padding(tokenizer: Any, wanted: str, ends: Collection[str | None]) -> None:
    at = ("model", "pad_token")
    if wanted in ends:
        raise UserError(f"{wanted!r} ends answers, so it cannot pad them.", at=at)
    known = [token.content for token in tokenizer.added_tokens_decoder.values()]
    if wanted not in known:  # a word that is made the padding token would vanish from all texts
        raise UserError(f"{wanted!r} is no special token of the tokenizer.{hint(wanted, known)}", at=at)


def _padding(tokenizer: Any, end: str) -> str:
    """A special token to pad with that ends nothing; an end token where the tokenizer has no other."""
    special = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    idle = [t for t in reversed(special) if t not in str(tokenizer.chat_template) and not _ENDS.search(t)]
    beginning, ending = tokenizer.bos_token, tokenizer.eos_token
    candidates = [
        *(name for name in PADS if name in tokenizer.get_vocab()),
        *filter(_SPARE.fullmatch, special),
        tokenizer.unk_token,
        *(token for token in idle if token != beginning),
        beginning,
    ]
    # Losses and masks of all stages go by place, not by token: an end token that also pads is learned.
    return next((token for token in candidates if token not in (None, end, ending)), ending or end)


def trusts(config: Model) -> bool:
    """Whether the model's own code may run: both recipe and command line must say so."""
    if config.trust_remote_code and os.environ.get(CONSENT) != "1":
        raise UserError(
            "the recipe wants to run Python code of the model's repository on this machine. If you have read that "
            "code, pin model.revision to a commit hash and say --trust-remote-code as well.",
            at=("model", "trust_remote_code"),
        )
    return config.trust_remote_code


def load_base(base: Base, config: Model, *, whole: bool = False) -> Any:
    """The base model in the recipe's dtype (default: bfloat16 on GPU, else float32).

    It is on the CPU; quantised to 4 bits (Dettmers et al. 2023, double quantisation), on this process's device.
    `whole` leaves the weights unquantised, as merging an adapter requires.
    """
    phase("loading the model")
    on_device = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision(config)]
    dtype = DTYPES.get(config.dtype, on_device if on_gpu() else torch.float32)
    options: dict[str, Any] = {} if config.attention == "auto" else {"attn_implementation": config.attention}
    if config.quantize and not whole:
        # PEFT freezes the base, the trainer checkpoints, and adapter weights are float32: what else
        # prepare_model_for_kbit_training does is to copy embeddings and LM head to float32, at twice their memory.
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=config.quantize,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=on_device,
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base.load,
            revision=base.revision,
            dtype=dtype,
            use_safetensors=True,  # pickled weights can run any code when they are read
            trust_remote_code=trusts(config),
            **options,
        )
    except (OSError, ValueError, ImportError) as error:
        reason = _first_line(error)
        if "Unrecognized configuration class" in reason:
            reason = (
                "transformers has no text model for its class. If it is a vision-language model, take the text model "
                f"out: adapters base text-only {base.load} -o FOLDER, and set model.base=FOLDER."
            )
        raise UserError(f"{base.load!r} cannot be loaded: {reason}", at=AT) from error
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On such CPUs the first forward without gradients repacks 4-bit weights into a form that has no backward.
            module.support_avx512bf16_for_cpu = False
    model.config.use_cache = True
    return model


def new_adapter(model: Any, lora: Lora, base: Base) -> PeftModel:
    """Wrap the base in a fresh adapter, equal to the base until it is trained (B = 0)."""
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    linear = _linear_modules(model)
    left_out = _named_or_inside((*lora.exclude_modules, *_beside_the_decoder(model, linear)))
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.rslora,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        exclude_modules=left_out,
    )
    for name in lora.exclude_modules:
        if not any(re.fullmatch(str(_named_or_inside([name])), module) for module in linear):
            raise UserError(
                f"{name!r} is no linear layer and holds none. {_ends(linear)}", at=("lora", "exclude_modules")
            )
    try:
        peft = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(_first_line(error), at=("lora", "target_modules")) from error
    adapted = peft.base_model.targeted_module_names
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = getattr(lora, key)
        if idle := patterns.keys() - {get_pattern_key(patterns, module) for module in adapted}:
            what = "no adapted module takes its value from"
            raise UserError(
                f"{what} {min(idle)!r}; the first pattern that fits counts. {_ends(adapted)}", at=("lora", key)
            )
    name_base(peft, base)
    return peft


def check_modules(base: Base, model: Model, lora: Lora) -> None:
    """Raise UserError for a name or pattern in `lora` that fits no module of the base; loads no weights."""
    if lora.rank_pattern or lora.alpha_pattern or lora.exclude_modules or lora.target_modules != "all-linear":
        _empty_adapter(base, model, lora)


def check_start(folder: Path, base: Base, model: Model, lora: Lora) -> None:
    """Raise UserError for an adapter whose tensors are not those of a new one by `lora`; loads no weights."""
    if (empty := _empty_adapter(base, model, lora)) is None:
        return
    wanted = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(empty).items()}
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    stored = own_names(shapes)
    if odd := sorted(name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name)):
        raise UserError(
            f"the adapter in {folder} does not fit: {len(odd)} of its tensors are not those that this recipe's base "
            f"and `lora` (rank, target_modules, exclude_modules) give; {odd[0]} is {stored.get(odd[0], 'missing')} "
            f"in its file and {wanted.get(odd[0], 'missing')} here."
        )


def _empty_adapter(base: Base, model: Model, lora: Lora) -> PeftModel | None:
    """A new adapter on the base, both without values; None where the base cannot be had."""
    try:
        config = AutoConfig.from_pretrained(base.load, revision=base.revision, trust_remote_code=trusts(model))
        with init_empty_weights():
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trusts(model))
    except (OSError, ValueError, ImportError):  # what loads the base says it better
        return None
    with init_empty_weights():
        return new_adapter(empty, lora, base)


def _linear_modules(model: Any) -> list[str]:
    head = model.get_output_embeddings()
    return [name for name, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D)) and m is not head]


def _beside_the_decoder(model: Any, linear: Sequence[str]) -> list[str]:
    """What holds the linear modules outside the text decoder: the vision tower and projector of a wrapper."""
    # Text gives them no gradient, and vLLM serves no adapter on them.
    if model.config.get_text_config(decoder=True) is model.config:
        return []
    decoder = model.get_decoder()
    path: list[str] = next((name.split(".") for name, module in model.named_modules() if module is decoder), [])
    found = []
    for parts in (name.split(".") for name in linear):
        same = [a == b for a, b in zip(parts, path, strict=False)]
        if not all(same):
            found.append(".".join(parts[: same.index(False) + 1]))
    return list(dict.fromkeys(found))


def _named_or_inside(names: Sequence[str]) -> str | None:
    """PEFT's regular expression for modules whose name ends in one of the names, and all inside them."""
    return rf"(.*\.)?({'|'.join(map(re.escape, names))})(\..*)?" if names else None


def _ends(modules: Sequence[str]) -> str:
    ends = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in modules))
    return f"Modules end in: {ends}; the first is {modules[0]}." if modules else "There is none."


def load_adapter(model: Any, folder: Path, base: Base, *, trainable: bool) -> PeftModel:
    """Put a saved adapter on the base, and verify that every tensor was loaded."""
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds no {WEIGHTS}; pickled adapters (.bin) are not read.")
    peft = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    name_base(peft, base)
    if problem := mismatch(peft, folder):
        raise UserError(f"the adapter in {folder} does not fit {base.load}: {problem}")
    return peft


def load_merged(base: Base, config: Model, adapter: Path | None) -> Any:
    """The base, alone or with an adapter merged in memory, on the CPU, for sampling."""
    model = load_base(base, config, whole=True)  # merging into 4-bit weights would round
    if adapter is not None:
        model = load_adapter(model, adapter, base, trainable=False).merge_and_unload()
    if precision(config) == "bf16" and not on_gpu():
        model = model.to(torch.bfloat16)  # half the memory traffic, which limits decoding on a CPU
    return model.eval()


def mismatch(peft: PeftModel, folder: Path, adapter: str = "default") -> str | None:
    """How an adapter in memory differs from its file: tensors, shapes, values."""
    from safetensors.torch import load_file

    stored = own_names(load_file(folder / WEIGHTS))
    loaded = get_peft_model_state_dict(peft, adapter_name=adapter)
    if stored.keys() != loaded.keys():
        odd = sorted(stored.keys() ^ loaded.keys())
        return f"{len(odd)} tensors are on one side only, such as {odd[0]}"
    for name, tensor in stored.items():
        if tensor.shape != loaded[name].shape:
            return f"{name} is {tuple(tensor.shape)} in the file and {tuple(loaded[name].shape)} here"
        if not torch.allclose(tensor.float(), loaded[name].detach().cpu().float(), atol=1e-6):
            return f"{name} has other values than its file"
    return None


def training_failure(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Why an adapter's tensors are no result of a training; None if they are."""
    if not_finite := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        return f"the trained adapter is not finite: {not_finite[0]}"
    if not any(tensor.abs().max() > 0 for name, tensor in tensors.items() if ".lora_B." in name):
        return "training left every B matrix at zero: the adapter would change nothing"
    return None


def name_base(peft: PeftModel, base: Base | None) -> None:
    """Write the base's Hub id into the adapter's configuration; None removes it.

    With an id, PEFT asks the Hub for the base's vocabulary at every checkpoint that the trainer saves.
    """
    config = peft.peft_config["default"]
    config.base_model_name_or_path, config.revision = (base.hub_id, base.revision) if base else ("", None)


def end_tokens(config: Any) -> list[int]:
    """The end tokens of a generation config, which may name none, one or several."""
    eos = config.eos_token_id
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


class Encoder:
    """Turns prompts and targets into token ids, the same in training and use.

    The chat template is mended where that changes no text that it writes: one that reads messages only as lists of
    parts reads texts too, and `opening`, what it writes between its prompt and an answer (a channel, an empty thought),
    becomes part of the prompt where models are not to think. `between` is that text before it is mended. Raises
    UserError for an unusable chat template.
    """

    def __init__(self, tokenizer: Any, thinking: bool) -> None:
        self.tokenizer = tokenizer
        self.template = {"enable_thinking": thinking}
        self._read_texts()
        self.end = self._end_token()
        self.between = self._between()
        self.opening = "" if thinking else self._opening()
        if self.opening:
            # Jinja reads the escapes of a Python text.
            said = f"{{{{ {self.opening!a} }}}}"
            self._mend(end=f"{{% if add_generation_prompt and not enable_thinking %}}{said}{{% endif %}}")

    def stops(self, config: Any) -> list[int]:
        """The tokens that end an answer: the one that is taught, and those of a generation config."""
        return sorted({self.end, *end_tokens(config)})

    def prompts(self, prompts: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Token ids of each prompt, up to the place where the answer starts. Raises UserError."""
        return self._ids([self.text(prompt) for prompt in prompts])

    def completions(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each answer, closed by the end token."""
        return [[*ids, self.end] for ids in self._ids(texts)]

    def tokens(self, examples: Sequence[Example]) -> list[tuple[list[int], list[int], list[int]]]:
        """Token ids of each example's prompt, target and rejected side (empty if none). Raises UserError."""
        sides = []
        for texts in ([e.completion for e in examples], [e.rejected for e in examples]):
            ids = iter(self.completions([text for text in texts if text is not None]))
            sides.append([[] if text is None else next(ids) for text in texts])
        prompts = self._ids([self.text(e.prompt, row=e.id) for e in examples])
        return list(zip(prompts, *sides, strict=True))

    def lengths(self, examples: Sequence[Example]) -> list[Lengths]:
        """Tokens of each example's prompt, target and rejected side (0 if none). Raises UserError."""
        return [Lengths(*map(len, row)) for row in self.tokens(examples)]

    def text(self, prompt: Sequence[Message], *, row: str | None = None) -> str:
        """The prompt as the chat template writes it. Raises UserError when it refuses or leaves out a part of it."""
        which = "the prompt" if row is None else f"the prompt of row {row!r}"
        try:
            text = self.rendered(prompt)
        except Exception as error:  # a template may raise anything
            raise UserError(
                f"the chat template refuses {which}: {_first_line(error)}{self._advice(prompt)}", at=AT
            ) from error
        if lost := self._lost(prompt, text):
            raise UserError(f"the chat template leaves {lost} out of {which}: the model would never see it", at=AT)
        return text

    def rendered(self, turns: Sequence[Message], *, generation: bool = True) -> str:
        """What the chat template writes for messages; with `generation`, up to the next answer. May raise anything."""
        calls = any("tool_calls" in turn for turn in turns)
        try:
            return self._rendered(turns, generation, arguments=dict)
        except Exception:  # some templates join the arguments of a call to a text
            if not calls:
                raise
            return self._rendered(turns, generation, arguments=json.dumps)

    def _rendered(self, turns: Sequence[Message], generation: bool, arguments: Callable[[Any], Any]) -> str:
        text: str = self.tokenizer.apply_chat_template(
            [self._turn(turn, arguments) for turn in turns],
            tools=(turns[0].get("tools") or None) if turns else None,
            add_generation_prompt=generation,
            tokenize=False,
            **self.template,
        )
        return text

    def _turn(self, turn: Message, arguments: Callable[[Any], Any]) -> dict[str, Any]:
        out: dict[str, Any] = {key: value for key, value in turn.items() if key != "tools"}
        if calls := turn.get("tool_calls"):
            functions = [{**c["function"], "arguments": arguments(c["function"]["arguments"])} for c in calls]
            out["tool_calls"] = [{**c, "function": f} for c, f in zip(calls, functions, strict=True)]
        return out

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return ids

    def _advice(self, prompt: Sequence[Message]) -> str:
        """What to do where the template takes the prompt without its system message."""
        rest = [turn for turn in prompt if turn["role"] != "system"]
        if len(rest) < len(prompt):
            with suppress(Exception):
                self.rendered(rest)
                return '. It takes no system message: set task.system: "", and say in task.user what it said'
        return ""

    def _lost(self, prompt: Sequence[Message], text: str) -> str | None:
        """A part of the prompt without which the template writes the same text."""
        if self._without_system and any(turn["role"] == "system" for turn in prompt):
            return "the system message"
        for key in ("tools", "tool_calls"):
            if any(turn.get(key) for turn in prompt):
                bare: Any = [{k: v for k, v in turn.items() if k != key} for turn in prompt]
                with suppress(Exception):
                    if self.rendered(bare) == text:
                        return key
        for n, turn in enumerate(prompt):
            if turn["role"] == "tool":
                with suppress(Exception):
                    other: Any = {**turn, "content": f"{turn['content']}{_MARK}"}
                    if self.rendered([*prompt[:n], other, *prompt[n + 1 :]]) == text:
                        return "the reply of a tool"
        return None

    @cached_property
    def _without_system(self) -> bool:
        with suppress(Exception):
            return _MARK not in self.rendered([{"role": "system", "content": _MARK}, _ASKED])
        return False  # refused, which the prompt itself will show

    def _read_texts(self) -> None:
        failure = "it leaves out the text of messages"
        for mended in (False, True):
            if mended:  # the templates of some vision models know lists of parts only
                self._mend(start=_TEXTS_AS_PARTS)
            try:
                if _MARK in self.rendered([{"role": "user", "content": _MARK}]):
                    return
            except Exception as error:  # a template may raise anything
                failure = _first_line(error)
        raise UserError(f"the chat template cannot be used: {failure}", at=AT)

    def _end_token(self) -> int:
        # The token that the template writes after an answer, which need not be the tokenizer's own end token.
        tail = self._ids([self._answered().rpartition(_MARK)[2].lstrip()])[0]
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        end = tail[0] if tail and tail[0] in special else self.tokenizer.eos_token_id
        if end is None:
            raise UserError("the chat template writes no end token after an answer, and the tokenizer has none", at=AT)
        return int(end)

    def _answered(self) -> str:
        try:
            return self.rendered([_ASKED, {"role": "assistant", "content": _MARK}], generation=False)
        except Exception as error:  # a template may raise anything
            raise UserError(f"the chat template refuses an answer: {_first_line(error)}", at=AT) from error

    def _between(self) -> str:
        prompt, (before, mark, _) = self.rendered([_ASKED]), self._answered().rpartition(_MARK)
        return before[len(prompt) :] if mark and before.startswith(prompt) else ""

    def _opening(self) -> str:
        prompt = self.rendered([_ASKED])
        if self.between.strip():
            # A template that does not say where an answer begins is refused by the audit.
            return self.between if prompt != self.rendered([_ASKED], generation=False) else ""
        # White space that the tokenizer joins to the answer's first word is no part of the prompt.
        whole = prompt + self.between
        seams = [self._ids([whole + start, whole, start]) for start in _STARTS]
        return self.between if all(joined == before + after for joined, before, after in seams) else ""

    def _mend(self, start: str = "", end: str = "") -> None:
        """Add to the chat template itself, so that trainers, servers and users get the same prompt."""
        own = self.tokenizer.chat_template
        named = own if isinstance(own, dict) else {"default": own}
        # Jinja leaves a template's last line break out.
        whole = {name: start + re.sub(r"(\r\n|\r|\n)\Z", "", text) + end for name, text in named.items()}
        self.tokenizer.chat_template = whole if isinstance(own, dict) else whole["default"]


_MARK: Final = "adapters mark"
_ASKED: Final[Message] = {"role": "user", "content": "a"}
_STARTS: Final = ("[{", "The")
"""Beginnings of answers."""
_TEXTS_AS_PARTS: Final = (
    "{%- set turns = namespace(all=[]) -%}{%- for turn in messages -%}{%- if turn.content is string -%}"
    "{%- set turn = dict(turn, content=[{'type': 'text', 'text': turn.content}]) -%}{%- endif -%}"
    "{%- set turns.all = turns.all + [turn] -%}{%- endfor -%}{%- set messages = turns.all -%}"
)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
