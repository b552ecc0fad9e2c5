"""The tokenizer of a base model, with a token to pad with."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, Final

from transformers import AutoTokenizer

from adapters.backends.local.base_model import AT, Base
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.model import trusts
from adapters.errors import UserError, first_line, hint
from adapters.recipe.recipe import Model

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
        raise UserError(f"the tokenizer of {base.load!r} cannot be loaded: {first_line(error)}", at=AT) from error


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
