"""The types that every package uses; read this file first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, NotRequired, Protocol, TypedDict, runtime_checkable

if TYPE_CHECKING:
    from adapters.data_aug.noise import Label

Row = Mapping[str, Any]
"""One record of a data source, as read: column name -> JSON value."""

OldParameters = Mapping[str, tuple[str, Mapping[str, str]]]
"""Renamed parameters of a plug-in, its `old_parameters`: old name -> (new name, {old value: new value})."""


JSON_SCHEMA: Final = "JSON Schema"
SchemaParameter = Annotated[Mapping[str, Any], JSON_SCHEMA]
"""Type of a plug-in's parameter that is a JSON Schema. In a recipe it may be a file or a class; see `registry`."""


ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
"""Roles of messages that chat templates know."""


class Message(TypedDict):
    """One turn of a chat prompt, in OpenAI's form; `arguments` of a tool call are an object.

    `tools`, on the first message only, are the functions that the whole conversation may call.
    """

    role: str
    content: str
    tool_calls: NotRequired[list[dict[str, Any]]]
    name: NotRequired[str]
    tool_call_id: NotRequired[str]
    reasoning_content: NotRequired[str]
    thinking: NotRequired[str]
    tools: NotRequired[list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Example:
    """One row ready for a trainer.

    Only `prompt` is shown to a model. `completion` is the target text of SFT (and the chosen text of DPO), `rejected`
    the other side of a DPO pair, `gold` what the task's scorer compares a prediction with.

    `answer` and `rejected_answer` are the two sides as messages where they are more than text: a model is then trained
    on what its chat template writes for them. `learned` are the indexes of earlier turns, in `prompt`, that SFT learns
    as well; `masked` are spans of `completion`, in code points, that it does not learn.
    """

    id: str
    source: str
    prompt: tuple[Message, ...]
    completion: str | None = None
    rejected: str | None = None
    gold: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    answer: Message | None = None
    rejected_answer: Message | None = None
    learned: tuple[int, ...] = ()
    masked: tuple[tuple[int, int], ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its fields, four times as fast as by the state of a frozen dataclass."""
        return type(self), tuple(getattr(self, name) for name in self.__match_args__)


QUESTION: Final = "question"
"""Key of `Example.meta`: what is asked about a text, where the rows of several questions share the text's id."""
COPY_OF: Final = "copy of"
"""Key of `Example.meta`: a hash of the example that a noisy or varied copy was made of."""
ROW: Final = "row"
"""Key of `Example.meta`: the row itself, where an environment reads it."""


class Scored(NamedTuple):
    """A reward with its named parts. `score` is in [0, 1], or None where the reward does not apply."""

    score: float | None
    parts: Mapping[str, float] = {}


class Counts(NamedTuple):
    """Labelled, predicted and matched values of a field, in one example or summed over a corpus.

    `matched` is fractional where partial credit is given. Counts add up: micro averages and bootstrap resampling are
    one matrix product.
    """

    gold: float
    pred: float
    matched: float

    def __add__(self, other: object) -> Counts:
        """Sum of two counts, field by field."""
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(self.gold + other.gold, self.pred + other.pred, self.matched + other.matched)

    @property
    def precision(self) -> float:
        """Matched / pred, 0 when nothing was predicted."""
        return self.matched / self.pred if self.pred else 0.0

    @property
    def recall(self) -> float:
        """Matched / gold, 0 when there is nothing to find."""
        return self.matched / self.gold if self.gold else 0.0

    def f(self, beta: float = 1.0) -> float:
        """F-beta: (1 + b^2) P R / (b^2 P + R), 0 when both are 0 (van Rijsbergen 1979)."""
        p, r, b2 = self.precision, self.recall, beta * beta
        return (1 + b2) * p * r / (b2 * p + r) if p or r else 0.0


class Aligned(NamedTuple):
    """A labelled value beside the predicted one it was compared with, for people to look at.

    `gold` None: predicted, not labelled. `pred` None: labelled, not predicted. Both without `matched`: similar, but no
    match to the scorer. `depth` indents what belongs to the value above it.
    """

    field: str
    gold: str | None
    pred: str | None
    matched: bool = False
    depth: int = 0


ModeCounts = Mapping[str, Mapping[str, Counts]]
"""matching mode -> field -> counts."""


def total(counts: ModeCounts) -> Counts:
    """Counts of one example over all fields, in its first mode."""
    return sum(next(iter(counts.values())).values(), Counts(0, 0, 0))


def grounding_text(task: Any, text: Any) -> dict[str, Any]:
    """The keyword `text` of a task's `counts` and `align`, where its `grounded` is true."""
    return {"text": text} if getattr(task, "grounded", False) else {}


def counts_of(task: Task, example: Example, completion: str) -> ModeCounts:
    """Counts of one completion to an example."""
    return task.counts(example.gold, completion, **grounding_text(task, example.meta.get("text")))


@runtime_checkable
class Task(Protocol):
    """A domain: how its rows become prompts and targets, how text becomes a prediction, how a prediction is counted.

    An implementation is a frozen dataclass whose fields are its YAML parameters. `text_field` is the column whose text
    noise may change. Optional:

    - `empty_answer(example) -> str`: the answer that finds nothing, whose reward stands beside the models';
    - `rephrase(n) -> Task`: the same task with the n-th other prompt, for test sets with `prompt_variants`;
    - `vary(row, rng) -> Row`: the row asked for in another way, for stages with `vary`; a function of row and `rng`;
    - `moved(row, noisy, place) -> Row`: the noisy row with the offsets of `row`'s labels where noise has put them, for
      tasks whose labels are places: `place(start, end)` gives those in the noisy text;
    - `align(gold, completion) -> list[Aligned]`: shows people what its scorer compared with what (the labelled values
      in one order, whatever the completion); without it reports compare JSON values by their keys;
    - `adversarial(example) -> {name: text}`: wrong answers that a reward must tell from gold;
    - `example_row`, `example_rows`: made-up rows, for the card's usage and for trying rewards without data;
    - `reads_prompt`: whether `example` reads rows of `prompt`, `chosen` and `rejected`; without it they need no task;
    - `structures`: columns that hold lists or objects, decoded before use where a table has them as JSON text;
    - `grounded`: where it is true, `counts` and `align` get the row's text (`Example.meta["text"]`) as `text`: a value
      that is not in it never counts as found;
    - `modes`: {matching mode: what it means}, for people who read the figures;
    - `as_gold(completion)`: an answer in the form of gold (raises ValueError), where that is not what `record` makes of
      it; with either, answers can be compared with each other (`pick: vote`);
    - `form_fields`: names of fields of `counts` that are checks of an answer's form, which a gold answer may fail;
    - `field_meanings`: {field of the figures: what it is, and when it counts as found}, likewise;
    - `findings(golds) -> [(sentence, key path)]`: what is odd about the training labels, for `adapters check`; the
      path begins with the task's parameter that it is about, and may be empty.
    """

    text_field: str

    def labels(self, row: Row) -> Iterable[Label]:
        """The labelled values of a row, with their paths and kinds, that noise must respect."""

    def example(self, row: Row, *, source: str = "", id: str = "") -> Example:
        """Turn one row into an example. Raises ValueError, which says what to correct, for a bad row."""

    def gold(self, row: Row) -> Any:
        """The labels as `Example.gold` holds them; the row may lack the text. Raises ValueError for a bad row."""

    def counts(self, gold: Any, completion: str) -> ModeCounts:
        """Count one completion against one gold, per matching mode and field. Never raises, whatever the text."""

    def is_well_formed(self, completion: str) -> bool:
        """Whether the text has the form that the task asks for, such as JSON of the right shape."""


class Normaliser(Protocol):
    """Normalises records after extraction. `schema` is the JSON schema of its results."""

    schema: Mapping[str, Any]

    def __call__(self, records: Sequence[Any]) -> list[Any]:
        """Normalised copies, in order."""
        ...


class Entity(NamedTuple):
    """A thing that a record names: its type, the name as the record has it, and where it stands, if that is known.

    `at` is in code points of the row's text, end exclusive. Entities with one `registry_id` are one node of a graph.
    """

    type: str
    text: str
    at: tuple[int, int] | None = None
    registry_id: str | None = None


class Relation(NamedTuple):
    """A labelled relation of a record. An end that is a text is the typed entity of that name in the same document."""

    label: str
    head: Entity | str
    tail: Entity | str


class Attribute(NamedTuple):
    """What a record says about the whole document."""

    name: str
    value: bool | float | str


Fact = Entity | Relation | Attribute


@runtime_checkable
class Extracting(Protocol):
    """A task that can also be run over a corpus without labels (`adapters extract`).

    Optional: `normaliser(registry)`; `decode(completion)`, the answer in a completion that is not JSON alone (raises
    ValueError as `record` does); `request_fields`, the columns besides the text that a prompt depends on, and
    `check_columns(columns)`, which raises ValueError when a corpus lacks one; `merge(records)`, one record of those of
    a text's overlapping parts, in the order of the text (default: `adapters.tasks.merging.merge`); `graph(record, row)
    -> Iterable[Fact]`, what a record means (`adapters graph`), where `row` has the columns of corpus and output.
    """

    text_field: str

    def request(self, row: Row) -> tuple[Message, ...]:
        """The prompt for a row without labels. Raises ValueError ("kind: reason") for a bad row."""

    def record(self, answer: Any) -> Any:
        """The decoded JSON of an answer as a record of the task's schema. Raises ValueError likewise."""

    def answer_schema(self) -> dict[str, Any] | None:
        """JSON schema of an answer, for engines that constrain their output; None: not JSON alone."""

    def record_schema(self) -> dict[str, Any]:
        """JSON schema of a record; decides the column types of Parquet files, and which strings quote the text.

        A string with `enum`, `const`, `format` or `x-grounded: false` need not stand there.
        """


@runtime_checkable
class Reward(Protocol):
    """Grades one completion. Picklable, pure, never raises on any text. `async def __call__` is a reward too."""

    def __call__(self, completion: str, example: Example) -> float | Scored | Awaitable[float | Scored | None] | None:
        """A score in [0, 1], or None where the reward does not apply."""
        ...


class Environment(Protocol):
    """What a model acts in for several turns. Each episode plays a deep copy of the configured plug-in.

    What it answers must follow from the row, the seed and the texts alone: the answers to one prompt are compared with
    each other, and a run that is resumed plays on. Optional: `success`, whether the goal was reached, read when the
    episode has ended; without it an episode whose rewards sum to 1 is one that succeeded.
    """

    def reset(self, row: Row, seed: int) -> str:
        """Begin an episode from a row of the data; the first observation, shown behind the row's prompt."""

    def step(self, text: str) -> tuple[str | None, float | None]:
        """What the model's turn leads to: the next observation, None when the episode ends, and the turn's reward.

        The sum of an episode's rewards is in [0, 1].
        """


class TokenScores(NamedTuple):
    """The tokens of an answer: where each ends in its text, in code points, and its log-probability.

    In nats, at temperature 1. A token that ends within a character ends before it.
    """

    ends: tuple[int, ...]
    logprobs: tuple[float, ...]


class Sample(NamedTuple):
    """One greedy completion; `truncated` at `max_new_tokens`, or where it repeats itself, which is `looped`.

    `scores` are given where they were asked for.
    """

    text: str
    tokens: int
    truncated: bool
    scores: TokenScores | None = None
    looped: bool = False


class Drawn(NamedTuple):
    """One of several answers to a prompt. `logprob`: mean over its tokens, in nats, at temperature 1; None: unknown."""

    text: str
    tokens: int
    truncated: bool
    logprob: float | None = None
    looped: bool = False


class Lengths(NamedTuple):
    """Tokens of an example for the trainer and inference; both completions include their end token."""

    prompt: int
    completion: int
    rejected: int = 0


Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called with (done, total, figures) as work goes on. `figures["resumed"]` is what was done before this start."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A property of a recipe's training: locally, on a hosted trainer, and whether both are the same."""

    what: str
    local: str
    hosted: str
    same: bool


class Sampler(Protocol):
    """A loaded model."""

    def __call__(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int, batch_size: int | None, progress: Progress
    ) -> list[Sample]:
        """Greedy completions in the order of the prompts, complete on every process."""
        ...
