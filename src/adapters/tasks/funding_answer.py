"""Answers of the `funding` task as records: the accepted shapes and their JSON schema."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError


def _listed(value: Any) -> Any:
    # The published readers take a scalar for a list of one, and an award number that was written as a number.
    items = value if isinstance(value, list) else [] if value is None else [value]
    texts = [str(item) if isinstance(item, int | float) and not isinstance(item, bool) else item for item in items]
    return [text for text in texts if text is not None and text != ""]


Texts = Annotated[list[str], BeforeValidator(_listed)]


class Award(BaseModel):
    """One grant: its identifiers, the programmes it belongs to, its titles."""

    funding_scheme: Texts = Field(default_factory=list)
    award_ids: Texts = Field(default_factory=list)
    award_title: Texts = Field(default_factory=list)


class Nested(BaseModel):
    """A funder as published: awards in a list of their own."""

    funder_name: str | None
    awards: list[Award]


class _Named(BaseModel):
    funder_name: str | None


class Compact(Award, _Named):  # in this order the name is the first field, as the target writes it
    """A funder in the short form: one award, its fields on the funder."""


_NESTED = TypeAdapter(list[Nested])
_COMPACT = TypeAdapter(list[Compact])


def read(value: Any) -> list[dict[str, Any]]:
    """Funders in the nested form from a list, one funder, or `{"funders": [...]}`. Raises ValueError for any fault."""
    if isinstance(value, dict):
        value = value["funders"] if isinstance(value.get("funders"), list) else [value]
    if not isinstance(value, list):
        raise ValueError(f"wrong shape: a list of funders is wanted, not {type(value).__name__}")
    nested = [_with_awards(item) if isinstance(item, dict) else item for item in value]
    try:
        return _NESTED.dump_python(_NESTED.validate_python(nested, strict=True))  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"wrong shape: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None


def _with_awards(funder: dict[str, Any]) -> dict[str, Any]:
    # A funder without awards carries one empty award, as in the published data.
    if "awards" in funder:
        return {**funder, "awards": [{}]} if funder["awards"] in ([], None) else funder
    award = {name: funder[name] for name in Award.model_fields if name in funder}
    return {k: v for k, v in funder.items() if k == "funder_name"} | {"awards": [award]}


def schema(target: str) -> dict[str, Any]:
    """JSON schema of an answer in the task's target form."""
    adapter = _NESTED if target == "nested" else _COMPACT
    return json.loads(json.dumps(adapter.json_schema()))  # type: ignore[no-any-return]


RECORD = _NESTED.json_schema()
"""JSON schema of a record, whatever the target form."""
