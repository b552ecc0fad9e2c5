"""Parts that several sections of a recipe share: the strict base model, plug-ins, and data sources."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

T = TypeVar("T")
# YAML has lists only; the tuple keeps the model immutable while its items stay strictly typed.
Seq = Annotated[tuple[T, ...], Field(strict=False)]
NonEmpty = Annotated[tuple[T, ...], Field(strict=False, min_length=1)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
# A number is a name too, as it is in a row's column.
Domain = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9 ._-]*[A-Za-z0-9._-])?$"),
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
]

LARGEST = 2**32
"""Upper bound for integers: larger values are typos and overflow int32 in the libraries."""


class Strict(BaseModel):
    """No unknown key, no coercion, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _below_the_largest(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) >= LARGEST:
            raise ValueError(f"must be below {LARGEST:,}")
        return value


class _ShortForm(BaseModel):
    """A mapping for which a text may stand: the value of its one required key."""

    short: ClassVar[str]

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        # The short form is valid in editors too.
        return {"anyOf": [{"type": "string"}, handler.resolve_ref_schema(handler(schema))]}

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, value: Any) -> Any:
        return {cls.short: value} if isinstance(value, str) else value


class PluginSpec(_ShortForm):
    """A plug-in by name, `module:Class` or `./file.py:Class`; its parameters sit flat beside `use`."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    short: ClassVar[str] = "use"

    use: str = Field(description="Name of a built-in or installed plug-in, `module:Class`, or `./file.py:Class`.")

    @field_validator("use")
    @classmethod
    def _is_a_name(cls, use: str) -> str:
        if "\0" in use:
            raise ValueError("holds a zero character, which no file name may hold")
        return use

    @property
    def params(self) -> dict[str, Any]:
        """The plug-in's own parameters."""
        return dict(self.model_extra or {})


class RewardSpec(PluginSpec):
    """A reward with its weight in the sum. The reward is in [0, 1]; the weight gives its sign and size."""

    weight: float = Field(default=1.0, description="Factor in the weighted sum of rewards; negative punishes.")
    on_error: Literal["raise", "zero", "skip"] = Field(
        default="raise", description="A failed call: raise stops the run, zero scores it 0, skip leaves it out."
    )
    timeout: float | None = Field(default=None, gt=0, description="Seconds after which a call's process is killed.")
    max_errors: Share = Field(default=0.02, description="Share of failed calls above which zero and skip stop the run.")
    parallel: Count | None = Field(default=None, description="Calls made at once; default: 1, of an async reward 16.")

    @model_validator(mode="after")
    def _policy(self) -> RewardSpec:
        if "max_errors" in self.model_fields_set and self.on_error == "raise":
            raise ValueError("max_errors has no effect while a failure stops the run; set on_error: zero or skip")
        return self


class EnvironmentSpec(PluginSpec):
    """An environment that a model acts in for several turns. The sum of an episode's rewards is in [0, 1]."""

    weight: float = Field(default=1.0, description="Factor of its reward in the weighted sum of rewards.")
    max_turns: Count = Field(default=8, description="Turns of the model after which an episode is cut, and counted.")
    max_turn_length: Count | None = Field(
        default=None,
        description="Tokens of one turn; default: what is left of max_completion_length; of a test set, the stage's.",
    )


class NoiseSpec(PluginSpec):
    """Noise on the training texts: a preset (ocr, pdf, html, latex, document), a family, or a plug-in."""

    level: Literal["light", "medium", "heavy"] = Field(default="medium", description="Strength of a preset.")
    share: Share = Field(default=0.5, description="Share of the rows that get noise.")
    policy: Literal["protect", "follow", "clean"] = Field(
        default="protect",
        description="Labels in the text: protect spares them, follow rewrites them, clean does neither.",
    )
    teacher: Literal["same", "clean"] = Field(
        default="same", description="What a distill stage's teachers read: what the student reads, or the clean text."
    )


class Split(Strict):
    """One part of a seeded split of a source. All rows with the same key are in the same part."""

    name: str = Field(description="The part to use here.")
    fractions: dict[str, float] = Field(description="Every part's fraction, as {train: 0.9, test: 0.1}; they sum to 1.")
    key: str = Field(default="id", description="Column whose distinct values are split.")
    seed: int = Field(default=42, description="Seed of the shuffle before the keys are cut into parts.")

    @model_validator(mode="after")
    def _parts(self) -> Split:
        if self.name not in self.fractions:
            raise ValueError(f"name: {self.name!r} is not one of the parts {', '.join(self.fractions)}")
        total = sum(self.fractions.values())
        if any(f <= 0 for f in self.fractions.values()) or abs(total - 1) > 1e-6:
            raise ValueError(f"fractions: they must be positive and sum to 1, not {total:g}")
        return self


class Spread(Strict):
    """Which rows an RL stage can learn from, by answers that `adapters sample` has graded."""

    samples: str = Field(description="Output of `adapters sample` on these rows, relative to data_root.")
    least: float = Field(default=0.05, gt=0, description="Least difference of a row's best and worst sample.")


Scalar = str | int | float | bool | None


class _Source(Strict):
    name: str | None = Field(default=None, description="Name in reports; default: that of the file or dataset.")
    repeat: Count = Field(default=1, description="How many times each row is used in an epoch.")
    max_rows: Count | None = Field(default=None, description="At most this many rows, drawn with the recipe's seed.")
    where: dict[str, Scalar | Seq[Scalar]] = Field(
        default_factory=dict, description="Keep rows whose column equals the value, or one of the listed values."
    )
    columns: dict[str, str] = Field(default={}, description="name the task reads: name of the source's column")
    split: Split | None = Field(default=None, description="Use one part of a seeded split of the rows.")
    keep_empty: Share = Field(default=1.0, description="Share of the rows with nothing to find that are used; seeded.")
    spread: Spread | None = Field(
        default=None, description="Leave out rows whose stored samples hardly differ in reward (adapters sample)."
    )
    domain: Domain | None = Field(
        default=None, description="Domain of the rows, for distill; default: their own column `domain`, if any."
    )
    license: str | None = Field(default=None, description="Licence of the rows, such as cc-by-4.0.")
    mend: str | None = Field(
        default=None, description="Correct guessed labels and mark uncertain ones: funding_links (docs/synthetic.md)."
    )


class PathSource(_Source, _ShortForm):
    """A local file (JSONL, JSON, CSV, TSV or Parquet) or a folder of `save_to_disk`."""

    short: ClassVar[str] = "path"

    path: str = Field(description="The file, relative to data_root.")


class HubSource(_Source):
    """A dataset of the Hub, or a local dataset folder, read by the `datasets` library."""

    hub: str = Field(description="Hub id of the dataset, or its folder relative to data_root.")
    config: str | None = Field(default=None, description="Configuration of the dataset.")
    hub_split: str = Field(default="train", description="Split of the dataset to load.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of the dataset.")


class SynthesizedSource(_Source):
    """Rows made by one of the project's generators; row i depends on the seed and i alone."""

    synthesize: str = Field(description="Name of the generator: funding, receipts, desk, agent, agent_pairs …")
    n: int = Field(ge=1, le=10_000_000, description="Number of rows.")
    seed: int = Field(default=0, description="Same seed, same rows.")


SOURCES: dict[str, type[BaseModel]] = {"path": PathSource, "hub": HubSource, "synthesize": SynthesizedSource}


def _source_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "path"
    if isinstance(value, dict):
        return next((kind for kind in SOURCES if kind in value), None)
    return next((kind for kind, cls in SOURCES.items() if isinstance(value, cls)), None)


Source = Annotated[
    Annotated[PathSource, Tag("path")]
    | Annotated[HubSource, Tag("hub")]
    | Annotated[SynthesizedSource, Tag("synthesize")],
    Discriminator(
        _source_kind,
        custom_error_type="source_kind",
        custom_error_message="a data source is a file, or a mapping with one of the keys path, hub and synthesize",
    ),
]
Sources = NonEmpty[Source]
