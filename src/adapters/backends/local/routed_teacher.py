"""Several LoRA teachers on the student's own base, as the one teacher that TRL's distillation trainer knows.

The trainer keeps only the tokens of a row, so the teacher of a row is found by its prompt's tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from adapters.backends.adapter_folder import WEIGHTS, own_names
from adapters.backends.local.base_model import Base
from adapters.backends.local.bundle_checks import check_tensors
from adapters.backends.local.model import empty_base, mismatch, other_shapes
from adapters.errors import UserError, first_line
from adapters.recipe.recipe import Model

STUDENT = "default"


class Route(NamedTuple):
    """Where a prompt goes: its domain, and the tokens of the prompt that the teacher reads."""

    domain: str
    prompt: tuple[int, ...]


def routes(rows: Iterable[tuple[str, Sequence[int], str, Sequence[int]]]) -> dict[tuple[int, ...], Route]:
    """The table of routes by the student's prompt: of (row in words, prompt, domain, the teacher's prompt).

    Of rows with one prompt and several prompts for the teacher, the first one counts. Raises UserError for a prompt of
    two domains.
    """
    table: dict[tuple[int, ...], Route] = {}
    first: dict[tuple[int, ...], str] = {}
    for row, prompt, domain, read in rows:
        known = table.setdefault(tuple(prompt), Route(domain, tuple(read)))
        one = first.setdefault(tuple(prompt), row)
        if known.domain != domain:
            raise UserError(f"{one} and {row} have one prompt, to the token, and two domains.")
    return table


class RoutedTeacher(nn.Module):
    """What the trainer uses of a teacher: `config`, `get_output_embeddings` and `base_model`.

    The student's model is held outside the module tree, or the trainer's `eval()` and device moves would reach it.
    """

    model: PeftModel

    def __init__(
        self, model: PeftModel, adapters: Mapping[str, str], table: Mapping[tuple[int, ...], Route], pad: int
    ) -> None:
        """`adapters` are the names of the teachers' adapters in `model`, by domain; `pad` is the padding token."""
        super().__init__()
        object.__setattr__(self, "model", model)
        self.adapters, self.table, self.pad = adapters, table, pad
        self.domains: list[str] = []
        """The domain of each row of the last pass."""

    @property
    def config(self) -> Any:
        """The base's configuration."""
        return self.model.config

    def get_output_embeddings(self) -> Any:
        """The base's LM head, which no adapter changes."""
        return self.model.get_output_embeddings()

    def base_model(
        self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, use_cache: bool
    ) -> BaseModelOutput:
        """Hidden states of the last `logits_to_keep` tokens, each row's by its teacher."""
        width = logits_to_keep - 1  # columns of the completions
        prompts = [
            ids[real].tolist()
            for ids, real in zip(input_ids[:, :-width], attention_mask[:, :-width].bool(), strict=True)
        ]
        found = [self._route(prompt) for prompt in prompts]
        self.domains = [route.domain for route in found]
        backbone, hidden = self.model.get_base_model().base_model, None
        with self._judging():
            for domain in dict.fromkeys(self.domains):
                rows = [n for n, other in enumerate(self.domains) if other == domain]
                self.model.set_adapter(self.adapters[domain], inference_mode=True)
                ids, mask = self._padded([found[n].prompt for n in rows], input_ids)
                ids = torch.cat([ids, input_ids[rows, -width:]], dim=1)
                mask = torch.cat([mask, attention_mask[rows, -width:]], dim=1)
                states = backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
                if hidden is None:
                    hidden = states.new_empty(len(prompts), logits_to_keep, states.shape[-1])
                hidden[rows] = states[:, -logits_to_keep:]
        return BaseModelOutput(last_hidden_state=hidden)

    def _route(self, prompt: Sequence[int]) -> Route:
        if (route := self.table.get(tuple(prompt))) is None:
            raise RuntimeError("the trainer asks for a prompt that is not one of the stage's; see distill")
        return route

    def _padded(self, prompts: Sequence[Sequence[int]], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, prompts))
        ids = [[self.pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return like.new_tensor(ids), like.new_tensor(mask)

    @contextmanager
    def _judging(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            # Checkpointed passes are computed again in the backward pass, by whatever is active then.
            self.model.set_adapter(STUDENT)
            self.model.train(training)


def check_teacher(folder: Path, base: Base | None, model: Model) -> None:
    """Raise UserError for an adapter that cannot judge on the base; loads no weights of the base.

    Without a base, which a plan need not fetch, the adapter alone is looked at.
    """
    try:
        stored = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise UserError(f"cannot be read: its {WEIGHTS} is damaged ({first_line(error)}).") from None
    _, sound, detail = check_tensors(stored)
    if not sound:
        raise UserError(f"cannot judge: {detail}.")
    if base is None or (empty := empty_base(base, model)) is None:
        return
    try:
        with init_empty_weights():
            peft = get_peft_model(empty, PeftConfig.from_pretrained(folder))
    except (ValueError, TypeError, RuntimeError) as error:  # no such modules, unknown keys
        raise UserError(f"does not fit: {first_line(error)}") from None
    ends = (empty.get_input_embeddings(), empty.get_output_embeddings())
    if any(isinstance(end, BaseTunerLayer) for end in ends):
        raise UserError("changes the embeddings or the head, which student and teachers share.")
    if odd := other_shapes(folder, peft):
        raise UserError(f"does not fit: {odd[0]} of its tensors are not those of its configuration; {odd[1]}.")


@contextmanager
def teachers_beside(model: PeftModel, folders: Mapping[str, Path]) -> Iterator[dict[str, str]]:
    """Load the teachers beside the student while the context is open: domain -> name of its adapter.

    Raises UserError for an adapter that does not fit, and RuntimeError when one was changed, by a single bit.
    """
    names = {domain: f"teacher{n}" for n, domain in enumerate(folders)}
    save = model.save_pretrained

    def save_student(*args: Any, **kwargs: Any) -> Any:
        return save(*args, **{"selected_adapters": [STUDENT], **kwargs})

    for domain, folder in folders.items():
        model.load_adapter(str(folder), adapter_name=names[domain], is_trainable=False)
        if problem := mismatch(model, folder, names[domain]):
            raise UserError(f"the teacher {domain!r} ({folder}) does not fit this base: {problem}")
    model.set_adapter(STUDENT)
    model.save_pretrained = save_student  # checkpoints hold the student alone
    try:
        yield names
        for domain, folder in folders.items():
            if odd := _changed(model, folder, names[domain]):
                raise RuntimeError(f"training changed the teacher {domain!r}: {odd}")
    finally:
        vars(model).pop("save_pretrained", None)
        for name in names.values():
            model.delete_adapter(name)
        model.set_adapter(STUDENT)


def _changed(model: PeftModel, folder: Path, name: str) -> str | None:
    """The first tensor of an adapter in memory that is not that of its file to the bit."""
    held = get_peft_model_state_dict(model, adapter_name=name)
    stored = own_names(load_file(folder / WEIGHTS))
    return next((key for key, t in stored.items() if not torch.equal(t, held[key].detach().cpu().to(t.dtype))), None)
