"""An encoder adapter in use: labels and spans of texts, and answers to an evaluation's prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from accelerate.utils import gather_object

from adapters.backends import adapter_folder
from adapters.backends.local import architectures, base_model
from adapters.backends.local.model import load_merged, on_gpu, prepare_cpu, word_tokenizer
from adapters.backends.local.word_encoder import Piece, Read, WordEncoder
from adapters.console import quiet_libraries
from adapters.data_aug.mine.words import BEGIN, LABELS, Kind, Question, Span, label_score, question_of, spans_of
from adapters.errors import UserError
from adapters.files import read_json
from adapters.recipe.load import load_recipe
from adapters.recipe.recipe import Model
from adapters.recipe.stages import TokenClassification
from adapters.types import Message, Progress, Sample

CPU_BUDGET, GPU_BUDGET = 1_024, 65_536
"""Sub-words of a batch, padding included, at most. On a CPU more are slower: they do not fit its cache."""
_AT_ONCE: Final = 1_024
"""Questions between two movements of a progress display."""


class Tagger:
    """A loaded encoder that answers questions about texts; empty texts have no label and no span.

    Answers do not depend on what else is asked at once, up to rounding (float32). `threshold`: a label is true when its
    score is above it. Raises UserError for an instruction that leaves a window no room for text.
    """

    def __init__(self, model: Any, encoder: WordEncoder, *, threshold: float = 0.5) -> None:
        self.model, self.encoder, self.threshold = model, encoder, threshold

    @classmethod
    def load(cls, given: str | Path, *, base: str | None = None, threshold: float | None = None) -> Tagger:
        """The adapter of a run, a stage or a published one (a folder or a Hub id), merged into its base in memory.

        `base` and `threshold` replace those that it was trained with. Raises UserError.
        """
        folder = _adapter_in(given)
        model, stage, own = _settings(folder)
        if base is not None:
            model = model.model_copy(update={"base": base})
        quiet_libraries()
        prepare_cpu()
        found = base_model.resolve(model.base, model.revision)
        encoder = word_encoder(found, model, [stage], folder)
        loaded = merged(found, model, folder)
        if on_gpu():
            loaded = loaded.to(torch.accelerator.current_accelerator())
        return cls(loaded, encoder, threshold=own if threshold is None else threshold)

    def get_label(self, texts: Sequence[str], instruction: str) -> list[bool]:
        """Whether each text is what a topic or statement says."""
        return [score > self.threshold for score in self.label_scores(texts, instruction)]

    def label_scores(self, texts: Sequence[str], instruction: str) -> list[float]:
        """How likely that is, in [0, 1]; 0 for an empty text."""
        return self.scores([Question("label", instruction, text) for text in texts])

    def get_span(self, texts: Sequence[str], instruction: str) -> list[list[Span]]:
        """What a label name or a question finds in each text, in the text's order."""
        return self.spans([Question("span", instruction, text) for text in texts])

    def margins(self, texts: Sequence[str], kind: Kind, instruction: str) -> list[float]:
        """How sure each answer is: the difference of the two likeliest probabilities, the mean over words for spans.

        1 for a text without words.
        """
        questions = [Question(kind, instruction, text) for text in texts]
        if kind == "label":
            scores = self.scores(questions)
            return [abs(2 * s - 1) if t.strip() else 1.0 for s, t in zip(scores, texts, strict=True)]
        return [margin for _, margin in self.sure_spans(questions)]

    def spans(self, questions: Sequence[Question], batch_size: int | None = None) -> list[list[Span]]:
        """What each question about spans finds in its text."""
        return [spans for spans, _ in self.sure_spans(questions, batch_size)]

    def sure_spans(
        self, questions: Sequence[Question], batch_size: int | None = None
    ) -> list[tuple[list[Span], float]]:
        """What each question about spans finds in its text, and how sure that is; see `margins`."""
        out = []
        for read, of_words in self._words(questions, batch_size):
            best = of_words.topk(2, dim=-1).values
            margin = float((best[:, 0] - best[:, 1]).mean()) if read.words else 1.0
            out.append((spans_of(of_words.argmax(-1).tolist(), read.words, read.question.text), margin))
        return out

    def scores(self, questions: Sequence[Question], batch_size: int | None = None) -> list[float]:
        """The score of each question about a label: the mean over windows by their words, 0 for an empty text."""
        reads, of_pieces = self._asked(questions, batch_size)
        out = []
        for read in reads:
            found = [(piece, next(of_pieces)) for piece in read.pieces] if read.words else []
            weighed = [(p.end - p.first, label_score(float(of[0, BEGIN]), float(of[1, BEGIN]))) for p, of in found]
            total = sum(weight for weight, _ in weighed)
            out.append(sum(weight * score for weight, score in weighed) / total if total else 0.0)
        return out

    def _words(
        self, questions: Sequence[Question], batch_size: int | None = None
    ) -> Iterator[tuple[Read, torch.Tensor]]:
        """Each question with the probabilities of its words' tags: (words, 3), of the window that each is read in."""
        reads, of_pieces = self._asked(questions, batch_size)
        for read in reads:
            if not read.words:
                yield read, torch.empty(0, len(LABELS))
                continue
            found = [next(of_pieces) for _ in read.pieces]
            rows = [found[n][word - read.pieces[n].first] for word, n in enumerate(read.of_words)]
            yield read, torch.stack(rows)

    def _asked(self, questions: Sequence[Question], rows: int | None) -> tuple[list[Read], Iterator[torch.Tensor]]:
        reads = [self.encoder.read(question) for question in questions]
        pieces = [piece for read in reads if read.words for piece in read.pieces]
        return reads, iter(self._probabilities(pieces, rows))

    @torch.inference_mode()
    def _probabilities(self, pieces: Sequence[Piece], rows: int | None) -> list[torch.Tensor]:
        """The probabilities of the three tags at each window's places."""
        out: list[torch.Tensor] = [torch.empty(0)] * len(pieces)
        device, pad = next(self.model.parameters()).device, self.encoder.tokenizer.pad_token_id
        lengths = [len(piece.ids) for piece in pieces]
        for batch in _batches(lengths, rows, GPU_BUDGET if device.type != "cpu" else CPU_BUDGET):
            width = max(lengths[n] for n in batch)
            ids = torch.tensor([pieces[n].ids + [pad] * (width - lengths[n]) for n in batch])
            mask = torch.tensor([[1] * lengths[n] + [0] * (width - lengths[n]) for n in batch])
            logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
            found = logits.float().softmax(-1).cpu()
            for row, n in enumerate(batch):
                out[n] = found[row, pieces[n].places]
        return out


def _batches(lengths: Sequence[int], rows: int | None, budget: int) -> Iterator[list[int]]:
    """Windows sorted by length, the longest first, as many as the budget holds or `rows`."""
    batch: list[int] = []
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        width = lengths[batch[0]] if batch else 0
        if batch and (len(batch) == rows or (rows is None and width * (len(batch) + 1) > budget)):
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch


class TaggerSampler:
    """A tagger as `adapters.types.Sampler`: it answers the prompts of the task mine with their completions."""

    def __init__(self, tagger: Tagger, rank: int = 0, world: int = 1) -> None:
        self.tagger, self.rank, self.world = tagger, rank, world

    def __call__(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int, batch_size: int | None, progress: Progress
    ) -> list[Sample]:
        """Answers in the order of the prompts, on every process; `tokens` are the answers found."""
        questions = [question_of(prompt) for prompt in prompts]
        mine: list[tuple[int, Sample]] = []
        share = list(range(len(questions)))[self.rank :: self.world]
        for start in range(0, len(share), _AT_ONCE):
            numbers = share[start : start + _AT_ONCE]
            mine += zip(numbers, self.answers([questions[n] for n in numbers], batch_size), strict=True)
            progress(min(len(mine) * self.world, len(questions)), len(questions), {})
        everyone = gather_object(mine) if self.world > 1 else mine
        return [Sample(*sample) for _, sample in sorted(everyone)]

    def answers(self, questions: Sequence[Question], batch_size: int | None = None) -> list[Sample]:
        """The completion of each question."""
        labels = [n for n, question in enumerate(questions) if question.kind == "label"]
        others = [n for n, question in enumerate(questions) if question.kind != "label"]
        scores = self.tagger.scores([questions[n] for n in labels], batch_size)
        spans = self.tagger.spans([questions[n] for n in others], batch_size)
        out = dict(zip(labels, map(self._label, scores), strict=True))
        out |= zip(others, map(_spans, spans), strict=True)
        return [out[n] for n in range(len(questions))]

    def _label(self, score: float) -> Sample:
        return Sample(json.dumps({"label": score > self.tagger.threshold, "score": round(score, 6)}), 1, False)


def _spans(found: Sequence[Span]) -> Sample:
    text = json.dumps({"spans": [span._asdict() for span in found]}, ensure_ascii=False)
    return Sample(text, len(found), False)


def word_encoder(base: base_model.Base, model: Model, stages: Sequence[Any], folder: Path | None = None) -> WordEncoder:
    """The encoder of a base by its stages, with the tokenizer of an adapter's folder where that has one."""
    own = folder is not None and (folder / "tokenizer_config.json").is_file()
    tokenizer = word_tokenizer(base_model.Base(str(folder), base.hub_id) if own else base, model)
    return WordEncoder(tokenizer, architectures.window(base_model.load_config(base), stages), stages[-1].stride)


def merged(base: base_model.Base, model: Model, adapter: Path | None) -> Any:
    """The encoder in float32, alone or with an adapter merged in memory."""
    exact = model.model_copy(update={"dtype": "float32", "precision": "fp32"})
    return load_merged(base, exact, adapter, labels=LABELS)


def _adapter_in(given: str | Path) -> Path:
    """The folder of an adapter: the given one, the last stage of a run, or a copy of the Hub's. Raises UserError."""
    folder = adapter_folder.local(str(given))
    if not (folder / adapter_folder.CONFIG).is_file():
        stages = [p for p in folder.glob("[0-9]*-token_classification") if (p / adapter_folder.MANIFEST).is_file()]
        if not stages:
            raise UserError(f"{folder} holds no adapter and no finished stage of the kind token_classification.")
        folder = max(stages, key=lambda p: int(p.name.partition("-")[0]))
    if problems := adapter_folder.problems(folder):
        raise UserError(f"{problems[0]}.")
    if (kind := read_json(folder / adapter_folder.CONFIG).get("task_type")) != "TOKEN_CLS":
        raise UserError(f"the adapter in {folder} is of the type {kind}; a proxy is trained by token_classification.")
    return folder


def _settings(folder: Path) -> tuple[Model, TokenClassification, float]:
    """Base, stage and threshold of an adapter's training. Raises UserError."""
    manifest = adapter_folder.manifest(folder) or {}
    if list(manifest.get("labels") or LABELS) != list(LABELS):
        raise UserError(f"the adapter in {folder} tags with {manifest['labels']}, and this project with {LABELS}.")
    if (folder / "recipe.yaml").is_file():
        recipe = load_recipe(folder / "recipe.yaml").recipe
        model, stage, task = recipe.model, recipe.stages[-1], recipe.task.params
    else:
        about = manifest.get("model") or {}
        named = read_json(folder / adapter_folder.CONFIG).get("base_model_name_or_path")
        base = about.get("base")
        here = isinstance(base, str) and (not base.startswith((".", "/", "~")) or Path(base).expanduser().is_dir())
        model = Model(base=str(base if here else named), revision=about.get("revision"))
        kept = {k: v for k, v in (manifest.get("stage") or {}).items() if k in ("max_length", "stride")}
        stage = TokenClassification.model_construct(kind="token_classification", **kept)
        task = {k: v for k, v in (manifest.get("task") or {}).items() if k == "threshold"}
    if not isinstance(stage, TokenClassification):
        raise UserError(f"the recipe of {folder} trains no token_classification.")
    return model, stage, float(task.get("threshold", 0.5))
