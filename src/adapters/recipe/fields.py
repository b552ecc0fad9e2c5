"""What every part of a recipe is made of: strict frozen models, plug-ins by name, and data sources."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

T = TypeVar("T")
# YAML has lists only; the tuple keeps the model immutable while its items stay strictly typed.
Seq = Annotated[tuple[T, ...], Field(strict=False)]


LARGEST = 2**32
"""Whole numbers from here on are slips of the hand, and libraries count in 32 bits."""


class Strict(BaseModel):
    """No unknown key, no coercion, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _of_this_world(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) >= LARGEST:
            raise ValueError(f"must be below {LARGEST:,}")
        return value


class PluginSpec(BaseModel):
    """A plug-in by name, `module:Class` or `./file.py:Class`; its parameters sit flat beside `use`."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    use: str = Field(description="Name of a built-in or installed plug-in, `module:Class`, or `./file.py:Class`.")

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The short form, a name alone, is right in editors too."""
        return {"anyOf": [{"type": "string"}, handler.resolve_ref_schema(handler(schema))]}

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value

    @property
    def params(self) -> dict[str, Any]:
        """The plug-in's own parameters."""
        return dict(self.model_extra or {})


class RewardSpec(PluginSpec):
    """A reward with its weight in the sum. The reward itself is in [0, 1]; sign and size belong here."""

    weight: float = Field(default=1.0, description="Factor in the weighted sum of rewards; negative punishes.")
    on_error: Literal["raise", "zero", "skip"] = Field(
        default="raise",
        description="A call that fails stops the run, scores 0, or is left out as a reward that does not apply.",
    )
    timeout: float | None = Field(
        default=None,
        gt=0,
        description="Seconds a call may take. With it the reward runs in a process of its own, which is then killed.",
    )
    max_errors: float = Field(
        default=0.02, ge=0, le=1, description="Share of failed calls above which the run stops, under zero and skip."
    )


class NoiseSpec(PluginSpec):
    """Noise on the training texts: a preset (ocr, latex, html, pdf, document), a family, or a plug-in."""

    level: Literal["light", "medium", "heavy"] = Field(default="medium", description="Strength of a preset.")
    share: float = Field(default=0.5, ge=0, le=1, description="Share of the rows that are noised.")
    policy: Literal["protect", "follow", "clean"] = Field(
        default="protect",
        description="protect: a label keeps what scoring compares; follow: it becomes the noisy text; clean: it stays.",
    )


class Subset(Strict):
    """One part of a seeded split of a source's keys. All rows that share the key stay on one side."""

    take: str = Field(description="Name of the part to use here.")
    of: dict[str, float] = Field(description="Every part with its fraction; the last one takes what is left.")
    by: str = Field(default="id", description="Column whose values are split.")
    seed: int = 42

    @model_validator(mode="after")
    def _parts(self) -> Subset:
        if self.take not in self.of:
            raise ValueError(f"take: {self.take!r} is not one of the parts {', '.join(self.of)}")
        if any(f <= 0 for f in self.of.values()) or abs(sum(self.of.values()) - 1) > 1e-6:
            raise ValueError(f"of: the fractions must be positive and sum to 1, not {sum(self.of.values()):g}")
        return self


Scalar = str | int | float | bool | None


class _Source(Strict):
    name: str | None = Field(
        default=None, description="Name in ledgers and reports; default: the file or dataset name."
    )
    repeat: int = Field(default=1, ge=1, description="How many times each row is used in an epoch.")
    cap: int | None = Field(default=None, ge=1, description="At most this many rows, drawn with the recipe's seed.")
    where: dict[str, Scalar | Seq[Scalar]] = Field(
        default_factory=dict, description="Keep rows whose column equals the value, or one of the listed values."
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="name the task reads: name of the source's column"
    )
    subset: Subset | None = None
    license: str | None = Field(
        default=None,
        description="Licence of the rows, such as cc-by-4.0: the ledger and the model card say it, and what it asks.",
    )


class PathSource(_Source):
    """A local file: .jsonl, .json, .csv or .parquet."""

    path: str


class HubSource(_Source):
    """A dataset of the Hub, or a local dataset folder, read through `datasets`."""

    hub: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None


class SynthesizedSource(_Source):
    """Rows made by one of the project's generators; row i is a pure function of (seed, i)."""

    synthesize: str
    n: int = Field(ge=1, le=10_000_000)
    seed: int = 0


def _source_kind(value: Any) -> str | None:
    kinds = {"path": PathSource, "hub": HubSource, "synthesize": SynthesizedSource}
    if isinstance(value, dict):
        return next((kind for kind in kinds if kind in value), None)
    return next((kind for kind, cls in kinds.items() if isinstance(value, cls)), None)


Source = Annotated[
    Annotated[PathSource, Tag("path")]
    | Annotated[HubSource, Tag("hub")]
    | Annotated[SynthesizedSource, Tag("synthesize")],
    Discriminator(
        _source_kind,
        custom_error_type="source_kind",
        custom_error_message="a data source is a mapping with one of the keys path, hub or synthesize",
    ),
]
Sources = Annotated[tuple[Source, ...], Field(strict=False, min_length=1)]
