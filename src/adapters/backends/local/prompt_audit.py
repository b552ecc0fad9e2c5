"""Compare the prompt tokens of training, evaluation and use; check masks."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

from adapters.backends.local import training
from adapters.backends.local.dpo import _pairs
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.generate import LocalSampler
from adapters.data.preference import THOUGHTS
from adapters.types import Example, Message

EMPTY_THOUGHT = re.compile(r"<(\w+)>\s*</\1>\s*")
OPEN_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>\s*$", re.IGNORECASE)


def sft(encoder: Encoder, example: Example) -> list[int]:
    """The masked tokens of the row that SFT trains on, with the answer learned whole and no earlier turn."""
    [row] = training._tokens(encoder, [replace(example, learned=(), masked=())])
    return [t for t, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]


def grpo(encoder: Encoder, example: Example) -> list[int]:
    """The tokens that TRL's trainer gets for the prompt."""
    [row] = training._prompts([example])
    return training.GroupPrompts(encoder)([row["prompt"]])[0][0]


def dpo(encoder: Encoder, example: Example) -> list[int]:
    """The masked tokens of a pair by TRL's collator; of both sides, if they differ."""
    chosen, rejected = (masked for masked, _ in _sides(encoder, example))
    return chosen if chosen == rejected else chosen + rejected


def distill(encoder: Encoder, example: Example) -> list[int]:
    """The prompt as TRL's distillation trainer gets it."""
    from adapters.backends.local.distill import trainer_prompt

    return trainer_prompt(encoder, [dict(message) for message in example.prompt])


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
    return _with(encoder, tokenizer=published).prompts([example.prompt])[0]


def _with(encoder: Encoder, **changed: Any) -> Encoder:
    """The encoder with other attributes."""
    other = copy(encoder)
    vars(other).update(changed)
    return other


VIEWS: dict[str, Callable[[Encoder, Example], list[int]]] = {
    "sft": sft,
    "grpo": grpo,
    "dpo": dpo,
    "distill": distill,
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
    [(prompt, *_)] = encoder.tokens([first])
    errors, warnings = _problems(encoder, first, prompt)
    for found, more in zip((errors, warnings), _beside_the_answer(encoder, first), strict=True):
        found += more
    shown = [_shown(encoder, e, kinds) for e in ([first] if pair is None or pair == first else [first, pair])]
    for view in shown:
        if view["different"]:
            names = ", ".join(view["different"])
            errors.append(f"{names} would not get the prompt that the others get; the difference is shown above")
    more_errors, more_warnings = _left_out(encoder, examples)
    errors, warnings = errors + more_errors, warnings + more_warnings
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
        "earlier": encoder.learned_tokens(example) if "sft" in kinds else [],
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
    if encoder.between.strip() and encoder.rendered(messages, generation=False) == encoder.rendered(messages):
        errors.append("the chat template ignores add_generation_prompt: the prompt does not say that an answer follows")
    [plain] = _with(encoder, template={}).prompts([messages])
    if plain != prompt:
        warnings.append(
            "without the template's switch (enable_thinking: "
            f"{str(thinking).lower()}) a user gets another prompt, which ends with {tokenizer.decode(plain)[-40:]!r}; "
            "the card's snippet passes it, and servers must too"
        )
    if tokenizer(encoder.rendered(messages))["input_ids"] != prompt:
        warnings.append(
            "the rendered prompt, tokenized as plain text, gets other tokens (a second start token, mostly)"
        )
    if "strftime_now" in str(tokenizer.chat_template):
        warnings.append("the chat template writes today's date into the prompt: it will differ from the one trained on")
    return errors, warnings


def _masks(encoder: Encoder, examples: Sequence[Example], sample: int = 500) -> dict[str, Any]:
    """Count targets without their end token or changed by the tokenizer, and texts with special tokens."""
    specials = [encoder.tokenizer.convert_ids_to_tokens(i) for i in encoder.tokenizer.all_special_ids]
    pattern = re.compile("|".join(re.escape(s) for s in specials if s)) if specials else None
    singles, pairs = list[Example](), list[Example]()
    targets = prompts = 0
    for e in examples:
        if e.completion is not None and len(singles) < sample:
            singles.append(e)
        if e.rejected is not None and len(pairs) < sample:
            pairs.append(e)
        if pattern:
            targets += bool(pattern.search(f"{e.completion or ''}\n{e.rejected or ''}"))
            prompts += bool(e.prompt and pattern.search(e.prompt[-1]["content"]))
    rows = list(training._tokens(encoder, singles)) if singles else []
    lost = {
        id(e) for e, row in zip(singles, rows, strict=True) if e.answer is None and row["labels"][-1] != encoder.end
    }
    decode = partial(encoder.tokenizer.decode, clean_up_tokenization_spaces=False)
    changed = sum(
        not decode(row["input_ids"][:-1]).endswith(e.completion or "")
        for e, row in zip(singles, rows, strict=True)
        if e.answer is None  # else the template writes it in another form
    )
    lost |= {id(e) for e in pairs if any(learned[-1:] != [encoder.end] for _, learned in _sides(encoder, e))}
    return {
        "looked_at": len({id(e) for e in (*singles, *pairs)}),
        "end_token_lost": len(lost),
        "changed_by_tokenizer": changed,
        "special_in_target": targets,
        "special_in_prompt": prompts,
    }


def _beside_the_answer(encoder: Encoder, example: Example) -> tuple[list[str], list[str]]:
    """Errors and warnings on what a whole turn of the template holds beside the trained tokens."""
    if example.completion is None:
        return [], []
    opening = (
        f"the chat template writes {encoder.opening!r} between prompt and answer; the template that is saved with the "
        "adapter has it in the prompt: give that one to servers (vLLM: --chat-template)"
    )
    warnings = [opening] if encoder.opening.strip() else []
    answer: Message = example.answer or {"role": "assistant", "content": example.completion}
    try:
        turn = encoder.rendered([*example.prompt, answer], generation=False)
    except Exception as error:  # a template may raise anything
        return [], [*warnings, f"the chat template refuses the answer of row {example.id!r}: {error}"]
    missing, doubtful = _untrained(encoder, example, turn)
    return [missing] if missing else [], [*warnings, doubtful] if doubtful else warnings


def _untrained(encoder: Encoder, example: Example, turn: str) -> tuple[str, str]:
    """An error and a warning on what stands before the answer in a whole turn and in the prompt; empty if the same."""
    decode = encoder.tokenizer.decode
    [(prompt, answer, _)] = encoder.tokens([example])
    trained, context = decode(prompt + answer), decode(prompt)
    whole = decode(
        encoder.tokenizer(turn, add_special_tokens=False)["input_ids"]
    )  # what it changes, it changes in both
    if whole.startswith(trained) or trained.startswith(whole.rstrip()):
        return "", ""
    before, given, _ = whole.rpartition(decode(answer[:-1]).strip())
    if not given:
        return "", f"the chat template writes the answer in another form: …{whole[len(context) :][:80]!r}"
    if before.startswith(context):
        missing = before[len(context) :]
        message = f"the chat template writes {missing!r} between prompt and answer, which is never trained"
        return (message, "") if missing.strip() and not encoder.template["enable_thinking"] else ("", message)
    pairs = enumerate(zip(before, context, strict=False))
    same = next((n for n, (a, b) in pairs if a != b), min(len(before), len(context)))
    if same == len(before) and EMPTY_THOUGHT.fullmatch(context[same:]):
        return "", ""  # the thinking switch closes a thought that finished turns do not show
    return (
        "",
        f"before an answer, a whole turn has {before[same:][-80:]!r} where the prompt has {context[same:][-80:]!r}",
    )


def _left_out(encoder: Encoder, examples: Sequence[Example], sample: int = 500) -> tuple[list[str], list[str]]:
    """Errors on prompts without the text of their row, and warnings on keys of messages that the template ignores."""
    lost, ignored = [], set()
    for example in examples[:sample]:
        text = encoder.text(example.prompt, row=example.id)
        if any(m["content"].strip() not in text for m in example.prompt if m["role"] in ("user", "system")):
            lost.append(example.id)
        for key in ("name", "tool_call_id", *THOUGHTS):
            if any(key in m for m in example.prompt):
                bare: Any = [{k: v for k, v in m.items() if k != key} for m in example.prompt]
                ignored |= {key} if encoder.rendered(bare) == text else set()
    several = f"{len(lost)} of {min(len(examples), sample)} prompts do not hold the text of their row"
    errors = [f"the chat template changes texts: {several}, the first is {lost[0]!r}"] if lost else []
    return errors, [f"the chat template does not write {key!r} of messages" for key in sorted(ignored)]
