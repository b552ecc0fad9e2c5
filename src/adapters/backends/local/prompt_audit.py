"""Compare the prompt tokens of training, evaluation and use; check masks."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig
from trl import GRPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from adapters.backends.local import training
from adapters.backends.local.base_model import AT
from adapters.backends.local.dpo import _pairs
from adapters.backends.local.generate import LocalSampler
from adapters.backends.local.model import Encoder
from adapters.errors import UserError
from adapters.types import Example, Message

OPEN_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>\s*$", re.IGNORECASE)


def sft(encoder: Encoder, example: Example) -> list[int]:
    """The masked tokens of the row that SFT trains on."""
    [row] = training._tokens(encoder, [example])
    return [t for t, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]


def grpo(encoder: Encoder, example: Example) -> list[int]:
    """The tokens that TRL's own trainer makes of the prompt."""
    trainer = SimpleNamespace(
        processing_class=encoder.tokenizer,
        chat_template=None,
        chat_template_kwargs=encoder.template,
        tools=None,
        environment_factories=None,
        _is_vlm=False,
    )
    ids: list[int] = list(GRPOTrainer._tokenize_prompts(trainer, [list(example.prompt)])[0][0])
    return ids


def dpo(encoder: Encoder, example: Example) -> list[int]:
    """The masked tokens of a pair by TRL's collator; of both sides, if they differ."""
    chosen, rejected = (masked for masked, _ in _sides(encoder, example))
    return chosen if chosen == rejected else chosen + rejected


def evaluation(encoder: Encoder, example: Example) -> list[int]:
    """What reaches `generate` in an evaluation, padding left out."""
    model = _Recorder(encoder.end)
    LocalSampler(model, encoder, 0, 1)([example.prompt], max_new_tokens=1, batch_size=1, progress=lambda *_: None)
    return model.ids


def usage(encoder: Encoder, example: Example) -> list[int]:
    """The tokens that a user gets who follows the model card."""
    with tempfile.TemporaryDirectory() as folder:
        encoder.tokenizer.save_pretrained(folder)
        published = AutoTokenizer.from_pretrained(folder)
    return _rendered(published, example.prompt, **encoder.template)


VIEWS: dict[str, Callable[[Encoder, Example], list[int]]] = {
    "sft": sft,
    "grpo": grpo,
    "dpo": dpo,
    "evaluation": evaluation,
    "model card": usage,
}


class _Recorder:
    """A model that records its input."""

    def __init__(self, end: int) -> None:
        self.generation_config = GenerationConfig(eos_token_id=end)
        self.config = LlamaConfig(num_hidden_layers=1)
        self.device, self.end = torch.device("cpu"), end
        self.ids: list[int] = []

    def forward(self) -> None:
        """Takes no positions, so that the sampler calls `generate` with the whole prompt."""

    def generate(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
        self.ids = input_ids[0][attention_mask[0].bool()].tolist()
        return torch.cat([input_ids, torch.tensor([[self.end]])], dim=1)


def audit(encoder: Encoder, examples: Sequence[Example], kinds: Sequence[str]) -> dict[str, Any]:
    """Audit the first example, and the first pair, as the trainer sees them.

    `examples` are of all stages, `kinds` the recipe's stage kinds. Raises UserError when the template refuses a prompt.
    """
    first = next((e for e in examples if e.completion is not None), examples[0])
    pair = next((e for e in examples if e.rejected is not None), None) if "dpo" in kinds else None
    try:
        prompt = encoder.prompts([first.prompt])[0]
    except Exception as error:  # a template may raise anything
        raise UserError(f"the chat template refuses the prompt of row {first.id!r}: {error}", at=AT) from error
    errors, warnings = _problems(encoder, first, prompt)
    shown = [_shown(encoder, e, kinds) for e in ([first] if pair is None or pair is first else [first, pair])]
    for view in shown:
        if view["different"]:
            names = ", ".join(view["different"])
            errors.append(f"{names} would not get the prompt that the others get; the difference is shown above")
    return {
        "shown": shown,
        "end_token": encoder.tokenizer.decode([encoder.end]),
        "errors": list(dict.fromkeys(errors)),
        "warnings": warnings,
        **_masks(encoder, examples),
    }


def _shown(encoder: Encoder, example: Example, kinds: Sequence[str]) -> dict[str, Any]:
    """One example token by token, and every view of its prompt."""
    names = ["evaluation", "model card", *kinds]
    if example.rejected is None:
        names = [n for n in names if n != "dpo"]
    views = {name: view(encoder, example) for name, view in VIEWS.items() if name in names}
    [(prompt, learned, rejected)] = encoder.tokens([example])
    tokens = {"prompt": prompt, "learned": learned, "rejected": rejected}
    return {
        "id": example.id,
        **{name: [encoder.tokenizer.decode([i]) for i in ids] for name, ids in tokens.items()},
        "views": {name: encoder.tokenizer.decode(ids) for name, ids in views.items()},
        "different": [name for name, ids in views.items() if ids != prompt],
    }


def _sides(encoder: Encoder, example: Example) -> list[tuple[list[int], list[int]]]:
    """Masked and learned tokens of both sides of a pair, by TRL's collator."""
    batch = DataCollatorForPreference(pad_token_id=encoder.end)(list(_pairs(encoder, [example])))
    real = batch["attention_mask"].bool()
    learned = batch["completion_mask"].bool()
    rows = zip(batch["input_ids"], real & ~learned, real & learned, strict=True)
    return [(ids[masked].tolist(), ids[target].tolist()) for ids, masked, target in rows]


def _problems(encoder: Encoder, example: Example, prompt: list[int]) -> tuple[list[str], list[str]]:
    errors, warnings = [], []
    tokenizer, messages = encoder.tokenizer, example.prompt
    thinking = encoder.template["enable_thinking"]
    if opened := OPEN_THOUGHT.search(tokenizer.decode(prompt)):
        where = f"the prompt ends with {opened.group().strip()!r}"
        if not thinking:
            errors.append(
                f"model.thinking is false, but {where}: this template has no such switch, and answers would be trained "
                "inside a thought. Use an instruct model that does not think, or set model.thinking: true"
            )
        elif f"</{opened.group(1)}>" not in (example.completion or ""):
            warnings.append(f"model.thinking is true and {where}, but the targets hold no thought and do not close it")
    bare = _rendered(tokenizer, messages, add_generation_prompt=False, **encoder.template)
    if bare == prompt:
        errors.append("the chat template ignores add_generation_prompt: the prompt does not say that an answer follows")
    plain = _rendered(tokenizer, messages)
    if plain != prompt:
        warnings.append(
            "without the template's switch (enable_thinking: "
            f"{str(thinking).lower()}) a user gets another prompt, which ends with {tokenizer.decode(plain)[-40:]!r}; "
            "the card's snippet passes it, and servers must too"
        )
    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False, **encoder.template)
    if tokenizer(text)["input_ids"] != prompt:
        warnings.append(
            "the rendered prompt, tokenized as plain text, gets other tokens (a second start token, mostly)"
        )
    if "strftime_now" in str(tokenizer.chat_template):
        warnings.append("the chat template writes today's date into the prompt: it will differ from the one trained on")
    return errors, warnings


def _masks(encoder: Encoder, examples: Sequence[Example], sample: int = 500) -> dict[str, Any]:
    """Count targets without their end token or changed by the tokenizer, and texts with special tokens."""
    singles = [e for e in examples if e.completion is not None][:sample]
    pairs = [e for e in examples if e.rejected is not None][:sample]
    rows = list(training._tokens(encoder, singles)) if singles else []
    lost = {id(e) for e, row in zip(singles, rows, strict=True) if row["labels"][-1] != encoder.end}
    decode = partial(encoder.tokenizer.decode, clean_up_tokenization_spaces=False)
    changed = sum(
        not decode(row["input_ids"][:-1]).endswith(e.completion or "") for e, row in zip(singles, rows, strict=True)
    )
    lost |= {id(e) for e in pairs if any(learned[-1:] != [encoder.end] for _, learned in _sides(encoder, e))}
    specials = [encoder.tokenizer.convert_ids_to_tokens(i) for i in encoder.tokenizer.all_special_ids]
    pattern = re.compile("|".join(re.escape(s) for s in specials if s)) if specials else None
    targets = [f"{e.completion or ''}\n{e.rejected or ''}" for e in examples]
    prompts = [e.prompt[-1]["content"] for e in examples if e.prompt]
    return {
        "looked_at": len({id(e) for e in (*singles, *pairs)}),
        "end_token_lost": len(lost),
        "changed_by_tokenizer": changed,
        "special_in_target": sum(bool(pattern and pattern.search(text)) for text in targets),
        "special_in_prompt": sum(bool(pattern and pattern.search(text)) for text in prompts),
    }


def _rendered(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = True, **template: Any
) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=True, **template
    )["input_ids"]
    return ids
