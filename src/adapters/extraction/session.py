"""How an adapter answers, checked before a model is loaded: engine, options, votes, constraint and confidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from adapters.backends import base_files
from adapters.errors import UserError
from adapters.evaluation.picking import Pick
from adapters.extraction import chunk_sizes, engines
from adapters.extraction.adapter_source import Source
from adapters.extraction.chunks import Cutter
from adapters.extraction.confidence import Confidence, of_adapter, stored, way_of
from adapters.extraction.constraining import constraint_of, held_to
from adapters.extraction.engine import Drawing, Engine, Options


@dataclass(frozen=True)
class Session:
    """An adapter with an engine. `open` makes one; `start` loads the model.

    With `samples` above 1 each prompt is answered so often, the first time greedily, and one answer is picked.
    """

    source: Source
    engine: str
    options: Options
    samples: int = 1
    pick: Pick = "vote"
    temperature: float = 0.8

    @classmethod
    def open(cls, source: Source, engine: str, options: Options, **picks: Any) -> Session:
        """A session whose `options.constrain` is decided. A server (`options.endpoint`) takes the place of the engine.

        `picks` are samples, pick and temperature. Raises UserError for a constraint that cannot be, and for a base that
        was a folder and is gone.
        """
        name = "endpoint" if options.endpoint else engine
        if name != "endpoint" and not source.model.base.startswith("pypi:"):
            try:
                base_files.local_folder(source.model.base)
            except UserError as error:
                raise UserError(f"the base of {source.adapter}: {error} --base (base=) names another.") from None
        made = cls(source, name, options, **picks)
        constraint = constraint_of(name, source, options.constrain, several=made.several)
        return replace(made, options=replace(options, constrain=constraint.how if constraint else "off"))

    @property
    def several(self) -> bool:
        """Whether one of several answers is picked."""
        return self.samples > 1

    @property
    def picks(self) -> dict[str, Any]:
        """How one of several answers is picked; empty for single answers."""
        return {"samples": self.samples, "pick": self.pick, "temperature": self.temperature} if self.several else {}

    @property
    def settings(self) -> dict[str, Any]:
        """What decides single answers beside the adapter, for a manifest."""
        options = self.options
        answers = {"max_new_tokens": options.max_new_tokens, "constrain": options.constrain}
        return {"engine": self.engine, "endpoint": options.endpoint, **answers}

    def of_corpus(self, cutter: Cutter) -> dict[str, Any]:
        """What decides the answers to a corpus: `settings`, how long texts are cut, and how an answer is picked."""
        passes = cutter.passes if cutter.passes > 1 else None
        return {**self.settings, "window": cutter.window, **self.picks, "passes": passes}

    @cached_property
    def way(self) -> str:
        """The name of the way of answering, of which each has a calibration of its own.

        A server is asked whether it holds its answers to the text. Raises UserError where it cannot be asked.
        """
        held = held_to(self.options) if self.engine == "endpoint" else self.options.constrain
        return way_of(self.samples, self.pick, self.temperature, held or "off")

    @property
    def silent(self) -> str | None:
        """Why the answers do not say how sure they are; None where they do."""
        if self.source.tags_words:
            return "an encoder says nothing of how sure it is here."
        if self.engine == "endpoint" and not self.several:
            return "a server gives no log-probabilities here; answer by vote, with --samples 5."
        return None

    def confidence(self, least: float | None, *, grounded: bool) -> Confidence | None:
        """The adapter's calibration for these answers; None without one. Raises UserError where `least` needs it."""
        if self.silent is None:
            if least is None and not stored(self.source.adapter, self.source.weights):
                return None  # no reason to ask a server for its way
            return of_adapter(self.source, self.way, least, grounded=grounded)
        if least is not None:
            raise UserError(f"--min-confidence: {self.silent}")
        return None

    def cutter(self, window: int | None, passes: int) -> Cutter:
        """What cuts long texts. Raises UserError for `passes` without a window."""
        if passes > 1 and window is None:
            raise UserError("--passes reads texts again in smaller windows; say with --window how large the first are.")
        if self.source.tags_words and window is not None:
            raise UserError("--window: an encoder reads long texts in windows of its own; leave it out.")
        options = self.options
        load = partial(chunk_sizes.load, self.engine, self.source, options)
        return Cutter(load, options.max_new_tokens, window, passes)

    def start(self, note: Callable[[str], None], *, scored: bool) -> Engine:
        """Load the model. `scored`: single answers come with log-probabilities. Raises UserError."""
        options = replace(self.options, scored=scored and not self.several)
        if not self.several:
            return engines.make(self.engine, self.source, options, note)
        drawing = Drawing(self.samples - 1, self.temperature, max_new_tokens=options.max_new_tokens)
        return engines.make_picked(self.engine, self.source, drawing, self.pick, options, note)
