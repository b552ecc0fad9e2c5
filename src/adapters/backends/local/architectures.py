"""Whether a base is an encoder, which tags words, or a causal model, which writes answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)

from adapters.backends.base_files import known_wheel
from adapters.backends.local.base_model import Base, load_config
from adapters.errors import UserError
from adapters.recipe.recipe import Model
from adapters.recipe.stages import TokenClassification

WINDOW: Final = 256
"""Sub-words of a window, where neither the recipe nor the model says another number."""
_FROM_PADDING: Final = ("roberta", "camembert", "xmod", "ibert", "longformer", "luke", "data2vec-text", "mpnet", "esm")
"""Parts of the names of architectures that count positions from the padding token's id on."""


def check_kind(stage: Any, model: Model, base: Base | None, at: tuple[str | int, ...]) -> None:
    """Raise UserError for an encoder in a stage that writes, and a causal model in one that tags.

    `base` is None where a plan must not fetch it: a known wheel, whose architecture is known.
    """
    try:
        config = None if base is None else load_config(base)
    except UserError:  # what loads the base says it better, and a dry run goes on without it
        return
    kind = known_wheel(model.base)[1].model_type if config is None else config.model_type
    encoder = is_encoder(kind) and not getattr(config, "is_encoder_decoder", False)
    if isinstance(stage, TokenClassification) and not encoder:
        raise UserError(
            f"token_classification needs an encoder (bert, roberta, deberta …); the base is a {kind}. Use kind: sft.",
            at=(*at, "kind"),
        )
    if encoder and not isinstance(stage, TokenClassification):
        raise UserError(
            f"{stage.kind} needs a causal model; the base is a {kind}. Use kind: token_classification.",
            at=(*at, "kind"),
        )


def is_encoder(model_type: str) -> bool:
    """Whether an architecture reads in both directions and can tag words."""
    return (
        model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and model_type in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES
    )


def positions(config: Any) -> int | None:
    """The longest input that an encoder reads; None where its configuration does not say."""
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int) or most <= 0:
        return None
    shifted = any(name in config.model_type for name in _FROM_PADDING)
    return most - (config.pad_token_id or 0) - 1 if shifted else most


def check_windows(base: Base, stages: Sequence[Any]) -> None:
    """Raise UserError for a stage whose windows are longer than the model reads; a base that is not here is not."""
    try:
        config = load_config(base)
    except UserError:
        return
    for n in range(len(stages)):
        window(config, stages[: n + 1])


def window(config: Any, stages: Sequence[Any]) -> int:
    """Sub-words of a window: the last stage's `max_length`, or the default. Raises UserError for too many."""
    most, wanted = positions(config), stages[-1].max_length
    if wanted is None:
        return min(WINDOW, most or WINDOW)
    if most is not None and wanted > most:
        raise UserError(f"the model reads {most} sub-words at most.", at=("stages", len(stages) - 1, "max_length"))
    return int(wanted)
