"""The recipe: the strict models of its YAML. `pipeline/plan.py` checks that what a recipe names exists."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, field_validator

from adapters.recipe.fields import Count, EnvironmentSpec, NonEmpty, PluginSpec, Seq, Share, Sources, Strict
from adapters.recipe.first_line import HEADER
from adapters.recipe.publish import Benchmark, Publish
from adapters.recipe.stages import Stage, TokenClassification
from adapters.recipe.tinker import Hosted


class Model(Strict):
    """The base model and how its prompts are rendered."""

    base: str = Field(description="Hub id, local folder, or `pypi:NAME==VERSION` for a model carried by a wheel.")
    revision: str | None = Field(default=None, description="Hub revision; a commit hash makes the run repeatable.")
    thinking: bool = Field(default=False, description="The chat template's thinking switch.")
    pad_token: str | None = Field(
        default=None, description="Special token to pad with; default: the tokenizer's, or one that ends nothing."
    )
    trust_remote_code: bool = Field(default=False, description="Run the repository's code; needs --trust-remote-code.")
    quantize: Literal["nf4"] | None = Field(default=None, description="Train on 4-bit base weights (extra `quant`).")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="Type of the frozen base weights. auto: bfloat16 on a GPU, float32 on a CPU."
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto",
        description="Precision of the arithmetic. auto: bf16 where the device has it, else fp16 (GPU) or fp32 (CPU).",
    )
    attention: str = Field(default="auto", description="Attention of transformers: auto, sdpa, eager …")
    speedups: bool = Field(default=True, description="Faster parts of TRL and transformers; equal up to rounding.")


_INIT = (
    "every stage relies on an adapter that equals the base until it is trained (B = 0): the reference `base` is the "
    "adapter with B at zero, and some of these initial values change the base's weights"
)
NOT_OFFERED: Final[Mapping[str, str]] = {
    "use_dora": "vLLM cannot serve DoRA's magnitudes",
    "modules_to_save": "whole copies of modules are no A and B matrices, and vLLM serves nothing else",
    "bias": "vLLM cannot serve trained biases, and a disabled adapter would no longer be the base",
    "lora_bias": "vLLM cannot serve trained biases",
    "target_parameters": "vLLM cannot serve adapters on bare parameters",
    "trainable_token_indices": "changed embeddings cannot be served by vLLM",
    "layer_replication": "it makes another base model, which a published adapter could not name",
    "layers_to_transform": "exclude_modules leaves layers out: [layers.0, layers.1]",
    "layers_pattern": "exclude_modules leaves layers out: [layers.0, layers.1]",
    "init_lora_weights": _INIT,
    **dict.fromkeys(("loftq_config", "eva_config", "corda_config", "lora_ga_config", "kasa_config"), _INIT),
    **dict.fromkeys(
        ("use_qalora", "use_bdlora", "arrow_config", "alora_invocation_tokens", "velora_config"),
        "vLLM serves plain LoRA only",
    ),
}
"""Options of PEFT's LoraConfig that a recipe does not have -> why."""


class Lora(Strict):
    """The shape of the adapter. All stages train the same adapter."""

    not_offered: ClassVar[Mapping[str, str]] = NOT_OFFERED

    rank: Count = Field(default=32, description="Rank of the update matrices.")
    alpha: float = Field(default=64, gt=0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: Literal["all-linear"] | Seq[str] = Field(
        default="all-linear",
        description="Names of the modules to adapt; all-linear: all linear layers but the LM head.",
    )
    rslora: bool = Field(default=False, description="Scale by alpha / sqrt(rank) instead of alpha / rank.")
    rank_pattern: dict[str, Count] = Field(
        default={}, description="Other ranks: end of a module's name, or a regular expression for it: rank."
    )
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="Other alphas, in the same way; the first pattern that fits a module counts."
    )
    exclude_modules: Seq[str] = Field(
        default=(), description="Names of modules to leave out, with all inside them: layers.0, down_proj."
    )

    @property
    def largest_rank(self) -> int:
        """The rank of the module with the largest one."""
        return max([self.rank, *self.rank_pattern.values()])

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _regular(cls, value: dict[str, Any]) -> dict[str, Any]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return value

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

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the test set in reports.")
    data: Sources = Field(description="Rows of the test set.")
    max_new_tokens: Count | None = Field(default=None, description="Limit of answers; default: 1.5 times the longest.")
    batch_size: Count | None = Field(default=None, description="Prompts at a time; default: chosen for the device.")
    prompt_variants: int = Field(
        default=1, ge=1, le=1_000, description="Forms of the prompt per row (label orders, for ie); figures are means."
    )

    samples: int | None = Field(
        default=None, ge=2, le=1_000, description="Answer each row so often too, and pick one answer; see pick."
    )
    pick: Literal["likelihood", "vote"] = Field(
        default="vote", description="The answer that agrees most with the others, or the likeliest a token."
    )
    temperature: float = Field(default=0.8, gt=0, description="Of all samples but the first, which is greedy.")
    constrain: Literal["schema", "source", "off"] = Field(
        default="off",
        description="Answer once more, allowing only JSON of the task's schema, or also only strings of the text.",
    )
    environment: EnvironmentSpec | None = Field(
        default=None, description="Play an episode from each row, and count those that succeed."
    )
    benchmark: Benchmark | None = Field(default=None, description="The Hub's benchmark that these rows are.")


class Recipe(Strict):
    """A run: the task, the model, the training stages and the evaluation."""

    header: str | None = Field(default=None, alias=HEADER, description="The line that makes the file runnable.")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run folder.")
    task: PluginSpec = Field(description="How a row becomes a prompt and a target, and how answers are scored.")
    model: Model
    lora: Lora = Lora()
    start: str | None = Field(
        default=None,
        description="Adapter that the first stage goes on from: a stage's folder, a finished run's (its last stage), "
        "or any adapter's; default: a new one.",
    )
    trainer: Literal["local", "tinker", "echo"] = Field(
        default="local", description="local: this machine; tinker: the Tinker API (docs/hosted.md); echo: no model."
    )
    tinker: Hosted = Hosted()
    seed: int = Field(default=42, ge=0, description="Seed of initial weights, order of rows, sampling and noise.")
    data_root: str | None = Field(default=None, description="Where data paths start; default: the recipe's folder.")
    run_dir: str = Field(default="runs", description="Folder of the run folders, relative to the working directory.")
    stages: NonEmpty[Stage] = Field(
        description="Training stages, in order: sft, grpo, dpo, best_of, distill; or token_classification."
    )
    evaluate: Seq[EvalSet] = Field(default=(), description="Test sets for the base model and every stage.")
    evaluate_base: bool = Field(default=True, description="Evaluate the base model too.")
    max_bad_rows: Share = Field(default=0.01, description="Share of a source's rows that may be unreadable.")
    publish: Publish | None = Field(default=None, description="The model card and the Hub repository.")
    report_to: Seq[str] = Field(default=(), description="Trackers that get the training's figures: trackio, wandb …")

    @property
    def tags_words(self) -> bool:
        """Whether the base is an encoder that tags words, instead of a causal model that writes answers."""
        return isinstance(self.stages[0], TokenClassification)

    @field_validator("stages")
    @classmethod
    def _one_model(cls, value: tuple[Stage, ...]) -> tuple[Stage, ...]:
        kinds = [isinstance(stage, TokenClassification) for stage in value]
        if any(kinds) and not all(kinds):
            raise ValueError(
                "token_classification trains an encoder, and the other kinds a causal model: no adapter is of both; "
                "give each a recipe of its own"
            )
        return value

    @field_validator("evaluate")
    @classmethod
    def _unique(cls, value: tuple[EvalSet, ...]) -> tuple[EvalSet, ...]:
        names = [e.name for e in value]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two test sets share the name {twice[0]!r}")
        return value
