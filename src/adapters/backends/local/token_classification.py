"""Training of an encoder that tags words, through transformers' Trainer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device, set_seed
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, DataCollatorForTokenClassification, Trainer

from adapters.backends.jobs import Evaluation, Job, Reading
from adapters.backends.local import LocalBackend, architectures, tagger, training
from adapters.backends.local.base_model import load_config
from adapters.backends.local.model import load_adapter, load_base, name_base, new_adapter
from adapters.backends.local.sharding import shards_weights
from adapters.backends.local.word_encoder import IGNORED, WordEncoder
from adapters.backends.memory import StagePlan
from adapters.console import phase
from adapters.data_aug.mine.words import LABELS, question_of
from adapters.errors import UserError
from adapters.recipe.stages import TokenClassification
from adapters.types import Example, Lengths, Progress, Sampler


def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Cross-entropy of the labelled positions, summed and divided by their number in the whole batch.

    The Trainer counts `num_items_in_batch` over accumulation and processes; without it the labels here are counted.
    """
    logits = outputs["logits"].float()
    summed: torch.Tensor = cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="sum")
    if num_items_in_batch is None:
        num_items_in_batch = (labels != IGNORED).sum().clamp(min=1)
    mean: torch.Tensor = summed / num_items_in_batch
    return mean


def train(run: training.LocalStage, encoder: WordEncoder) -> dict[str, Any]:
    """Train one stage. Returns its steps, and the NLL of held-out rows per word before and after."""
    phase("tokenising")
    rows = _rows(encoder, run.job.examples)
    trainer = run.trainer(
        Trainer,
        rows.select(run.order(rows["length"])).remove_columns("length"),
        data_collator=DataCollatorForTokenClassification(encoder.tokenizer),
        compute_loss_func=loss,
    )
    held_out = _rows(encoder, run.job.validation) if run.job.validation else None
    figures = run.train_measured(trainer, (lambda: nll(trainer, held_out)) if held_out else None)
    training.release(trainer)
    return figures


@torch.inference_mode()
def nll(trainer: Trainer, rows: Dataset) -> float:
    """Mean negative log-likelihood of the right tag per word that is read, in nats."""
    model, size = trainer.accelerator.unwrap_model(trainer.model), trainer.args.per_device_eval_batch_size
    was = model.training
    model.to(trainer.accelerator.device).eval()
    summed = words = 0.0
    for start in range(0, len(rows), size):
        batch = trainer.data_collator(
            [{k: row[k] for k in ("input_ids", "labels")} for row in _slice(rows, start, size)]
        )
        batch = send_to_device(batch, trainer.accelerator.device)
        labels = batch.pop("labels")
        count = float((labels != IGNORED).sum())
        summed += float(loss(model(**batch), labels)) * count
        words += count
    model.train(was)
    return summed / words


def _slice(rows: Dataset, start: int, size: int) -> list[dict[str, Any]]:
    return [rows[n] for n in range(start, min(start + size, len(rows)))]


def _rows(encoder: WordEncoder, examples: Sequence[Example]) -> Dataset:
    return training.dataset(
        examples,
        lambda block: (
            {**window, "length": len(window["input_ids"])} for example in block for window in encoder.rows(example)
        ),
    )


class EncoderBackend(LocalBackend):
    """See `adapters.backends.jobs.Backend`: for recipes whose stages are of the kind token_classification."""

    draws = constrains = False
    labels = LABELS

    @cached_property
    def encoder(self) -> WordEncoder:  # type: ignore[override]
        """The tokenizer with the recipe's windows; the first use may download it."""
        return tagger.word_encoder(self.base, self.recipe.model, self.recipe.stages)

    def check(self, stages: Sequence[Any]) -> list[str]:
        """Check the stages' options and the architecture."""
        if self.recipe.model.quantize:
            raise UserError("an encoder is trained on whole weights; leave quantize out.", at=("model", "quantize"))
        notes = super().check(stages)
        if shards_weights():
            raise UserError(
                "the encoder's head is trained whole, and this launch shards weights; use ddp.yaml or zero2.yaml of "
                "recipes/accelerate."
            )
        if not self.recipe.model.base.startswith("pypi:"):
            architectures.check_windows(self.base, stages)
        return notes

    @cached_property
    def config(self) -> Any:
        """The base's configuration."""
        return load_config(self.base)

    def lengths(self, examples: Sequence[Example]) -> list[Lengths]:
        """Sub-words of each question and its text; no answer is written."""
        encoder = self.encoder
        phase(f"tokenising {len(examples):,} rows")
        return [Lengths(encoder.length(question_of(example.prompt)), 0) for example in examples]

    def readings(self, stage: TokenClassification, examples: Sequence[Example]) -> list[Reading]:
        """How the encoder reads each row: sub-words of its question, of a window, and its windows."""
        stages = [stage]
        encoder = WordEncoder(self.encoder.tokenizer, architectures.window(self.config, stages), stage.stride)
        return [encoder.reading(question_of(example.prompt)) for example in examples]

    def memory(self, jobs: Sequence[Job], tests: Sequence[Evaluation], **hardware: Any) -> list[StagePlan]:
        """Nothing: the plan is of causal models."""
        return []

    def audit(self, examples: Sequence[Example], kinds: Sequence[str]) -> dict[str, Any]:
        """The first row with something to find, as the trainer and a user of the adapter read it."""
        first = next((e for e in examples if e.gold.get("spans") or e.gold.get("label")), examples[0])
        [row, *_] = self.encoder.rows(first)
        with tempfile.TemporaryDirectory() as folder:
            self.encoder.tokenizer.save_pretrained(folder)
            saved = WordEncoder(AutoTokenizer.from_pretrained(folder), self.encoder.max_length, self.encoder.stride)
        tokenizer, ids = self.encoder.tokenizer, row["input_ids"]
        views = {"training": ids, "model card": saved.rows(first)[0]["input_ids"]}
        different = [name for name, other in views.items() if other != ids]
        shown = {
            "id": first.id,
            "prompt": [f"{token} " for token in tokenizer.convert_ids_to_tokens(ids)],
            "learned": [],
            "rejected": [],
            "earlier": [n for n, label in enumerate(row["labels"]) if label != IGNORED],
            "views": {name: tokenizer.decode(other) for name, other in views.items()},
            "different": different,
        }
        errors = [f"the saved tokenizer reads another row than {name}" for name in different]
        counts = dict.fromkeys(("end_token_lost", "changed_by_tokenizer", "special_in_target", "special_in_prompt"), 0)
        end = tokenizer.convert_ids_to_tokens(ids[-1])
        return {"shown": [shown], "end_token": end, "errors": errors, "warnings": [], "looked_at": 0, **counts}

    def train(self, job: Job, start: Path | None, folder: Path, progress: Progress) -> Mapping[str, Any]:
        """Train one stage; rank 0 writes the adapter, with the head, and its tokenizer into `folder`."""
        set_seed(self.recipe.seed)  # the head's start is random
        model = load_base(self.base, self.recipe.model, labels=LABELS)
        if start is None:
            adapter = new_adapter(model, self.recipe.lora, self.base)
        else:
            adapter = load_adapter(model, start, self.base, trainable=True)
        name_base(adapter, None)
        encoder: Any = tagger.word_encoder(self.base, self.recipe.model, [job.stage])
        run = training.LocalStage(adapter, encoder, job, self.recipe, folder / "trainer", progress)
        figures = train(run, encoder) | run.chosen
        self._save(run, start, folder)
        del model, adapter, run
        self._free()
        return figures

    def sampler(self, adapter: Path | None) -> Sampler:
        """The encoder with an adapter merged in memory, or with the untrained head that the first stage begins with."""
        self._free()
        set_seed(self.recipe.seed)
        model = tagger.merged(self.base, self.recipe.model, adapter).to(self.state.device)
        threshold = float(self.recipe.task.params.get("threshold", 0.5))
        rank, world = self.state.process_index, self.state.num_processes
        return tagger.TaggerSampler(tagger.Tagger(model, self.encoder, threshold=threshold), rank, world)
