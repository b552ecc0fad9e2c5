"""The licence of the base model, by name."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from adapters.publish.finished_run import Finished
from adapters.publish.hub import transport

SECONDS: Final = 10.0
"""Time that the Hub has to name a licence."""


def of_run(finished: Finished) -> str | None:
    """The recipe's word, else that of the base's own card, beside it or on the Hub; None when none names it."""
    from huggingface_hub import HfApi, ModelCard, try_to_load_from_cache

    if finished.settings.base_license:
        return finished.settings.base_license
    model, revision = finished.base_id, finished.base_revision
    beside = Path(finished.recipe.model.base).expanduser() / "README.md"
    stored = try_to_load_from_cache(model, "README.md", revision=revision)
    for path in (beside, stored):
        with suppress(Exception):  # its metadata are anybody's YAML
            if named := _name(ModelCard.load(path).data if path and Path(path).is_file() else None):
                return named
    with suppress(transport(), OSError, ValueError):
        return _name(HfApi().model_info(model, revision=revision, timeout=SECONDS).card_data)
    return None


def _name(data: Any) -> str | None:
    """The licence in the metadata of a model card; under its own name where the Hub knows none."""
    name = getattr(data, "license", None)
    return str(getattr(data, "license_name", None) or name) if name else None
