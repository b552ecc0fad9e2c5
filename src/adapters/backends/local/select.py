"""Measuring held-out rows while a trainer trains, and putting the chosen state back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from adapters.backends import selection
from adapters.backends.local import sharding
from adapters.backends.local.generate import LocalSampler
from adapters.backends.local.model import on_gpu, precision
from adapters.backends.local.speedups.merged import in_16_bits, merged, obstacle
from adapters.backends.local.tagger import Tagger, TaggerSampler
from adapters.backends.local.word_encoder import WordEncoder
from adapters.backends.selection import Course, Measured, Selection
from adapters.errors import UserError
from adapters.files import replacing
from adapters.recipe.stages import Stage
from adapters.types import Progress

if TYPE_CHECKING:
    from adapters.backends.local.training import LocalStage


def check(stage: Stage, at: tuple[str | int, ...]) -> None:
    """Raise UserError for a stage with `select` where the weights are sharded."""
    if stage.select is not None and sharding.shards_weights():
        raise UserError(
            "held-out rows are answered by whole weights, and this launch shards them; use ddp.yaml or zero2.yaml of "
            "recipes/accelerate, or leave select out.",
            at=at,
        )


class Selecting(TrainerCallback):  # type: ignore[misc]
    """Measures the due steps, stores each new best state, stops the training where patience has run out.

    All processes answer, the first one scores, and all decide by its figures. `held_out.jsonl` lies in the stage's
    folder, states in the trainer's.
    """

    def __init__(self, run: LocalStage, selected: Selection) -> None:
        self.run, self.state, self.folder = run, PartialState(), run.folder.parent
        found = [selection.read(self.folder, selected)] if self.state.is_main_process else [None]
        self.course = Course(selected, run.job.steps, run.job.name, broadcast_object_list(found)[0] or [])

    @property
    def last_step(self) -> int:
        """The step at which the stage ends, by what is measured so far."""
        return self.course.last_step

    def begin(self) -> None:
        """Measure the start, whose weights are in memory until a checkpoint is loaded."""
        if self.course.at(0) is None:
            self._log(self._measure(0, self.run.progress))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the state after this step if it is due; stop where no better one is expected."""
        step = state.global_step
        if self.course.due(step):
            self._log(self.course.at(step) or self._measure(step))
        control.should_training_stop |= step >= self.last_step

    def finish(self, last: int) -> dict[str, Any]:
        """After the last step: put the chosen state into the model. Returns the figures of the choice."""
        if self.course.at(last) is None:
            self._log(self._measure(last))
        self.state.wait_for_everyone()
        outcome = self.course.outcome(last)
        if outcome["step"] != last:
            set_peft_model_state_dict(self.run.model, load_file(self._file(outcome["step"])), adapter_name="default")
        return outcome

    def _measure(self, step: int, progress: Progress = lambda *_: None) -> Measured:
        judge = self.course.selection.judge
        texts = _answers(self.run, self.course.selection, progress)
        # A reward may be somebody's server, and give two processes two scores.
        rows = broadcast_object_list([judge.rows(texts) if self.state.is_main_process else None])[0]
        new = self.course.add(step, rows)
        if self.state.is_main_process:
            self._store(new)
            self.course.announce(new)
        return new

    def _log(self, measured: Measured) -> None:
        if self.state.is_main_process:
            selection.log(self.folder, self.course.selection.judge.metric, measured)

    def _store(self, new: Measured) -> None:
        """The state first, then its record: a record without its state could not be chosen."""
        wanted = {m.step for m in (self.course.at(0), self.course.best()) if m is not None}
        if new.step in wanted:
            state = get_peft_model_state_dict(self.run.model, adapter_name="default")
            self._file(0).parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._file(new.step)) as temporary:
                save_file({name: t.detach().cpu().contiguous() for name, t in state.items()}, temporary)
        selection.store(self.folder, new)
        for old in self.run.folder.glob("state-*.safetensors"):
            if old not in [self._file(step) for step in wanted]:
                old.unlink()

    def _file(self, step: int) -> Path:
        return self.run.folder / f"state-{step}.safetensors"


def _answers(run: LocalStage, selected: Selection, progress: Progress) -> Sequence[str]:
    """Of the model as it is; see `Selection.texts`."""
    model, state = run.model, PartialState()
    base, training = model.get_base_model(), model.training
    model.to(state.device).eval()  # before the first step nothing may have moved the model yet
    encoder: Any = run.encoder
    tags_words = isinstance(encoder, WordEncoder)
    with ExitStack() as stack:
        if not tags_words and obstacle(model) is None:
            stack.enter_context(merged(model))
            if precision(run.recipe.model) == "bf16" and not on_gpu():
                stack.enter_context(in_16_bits(model))
        speedups = run.recipe.model.speedups
        if tags_words:
            threshold = float(run.recipe.task.params.get("threshold", 0.5))
            tagger = Tagger(base, encoder, threshold=threshold)
            sampler: Any = TaggerSampler(tagger, state.process_index, state.num_processes)
        else:
            sampler = LocalSampler(base, run.encoder, state.process_index, state.num_processes, speedups=speedups)
        texts = selected.texts(sampler, progress)
    model.train(training)
    return texts
