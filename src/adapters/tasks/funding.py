"""The `funding` task: funders and their awards from the funding statement of a paper."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from adapters.data.json_text import from_text
from adapters.data.row_forms import asked_text, row_text
from adapters.data_aug.noise import Label, funding_labels
from adapters.rewards.funding_alignment import align
from adapters.rewards.funding_grounded import marked
from adapters.rewards.funding_matching import MODES, Funder, Scorer, counts_in, parse, read_funders
from adapters.rewards.funding_records import OLD_PARAMETERS
from adapters.rewards.funding_uncertain import compared
from adapters.rewards.grounding import needed
from adapters.tasks import funding_answer, funding_gold, funding_graph, funding_merge, funding_uncertain
from adapters.types import Aligned, Counts, Example, Message, Normaliser, OldParameters, Row

# The prompt of the published adapter; it must match to the letter for its weights to be of use.
SYSTEM = (
    "You are an expert at extracting structured funding metadata from academic papers. "
    "Given a funding statement, extract all funders and their associated awards. "
    "Return a JSON array of funder objects. Each funder has:\n"
    '- "funder_name": string or null\n'
    '- "awards": array of objects with "award_ids" (array of strings), "funding_scheme" (array of strings), '
    'and "award_title" (array of strings)\n'
    "Return ONLY the JSON array, no other text."
)
USER = "Extract funding information from the following statement:\n\n{statement}"
# A made-up row, for the usage section of a model card.
EXAMPLE = {
    "funding_statement": "This work was supported by the Example Science Foundation under grant ESF-2041-77 and by the "
    "Institute for Sample Studies (S 17/302).",
    "funders": [
        {"funder_name": "Example Science Foundation", "awards": [{"award_ids": ["ESF-2041-77"]}]},
        {"funder_name": "Institute for Sample Studies", "awards": [{"award_ids": ["S 17/302"]}]},
    ],
}
WHAT_MODES_MEAN = {
    "every mode": "award ids match when they are equal without white space, hyphens, slashes and case, under a funder "
    "that matches; schemes and titles match as names do",
    "permissive": "names match if the best of partial, token-sort and token-set ratio is 0.80 or more",
    "balanced": "names match from a token-sort ratio of 0.80 on, or as an acronym in parentheses, or if one holds all "
    "words of the other and is not under 0.45 of its length",
    "strict": "names match from a token-sort ratio of 0.80 on",
}
WHAT_FIELDS_MEAN = {
    "funder": "the name of an organisation that paid, as the text writes it",
    "award_id": "the number of a grant, contract or award; it counts only under the funder that it belongs to",
    "scheme": "the name of a funding programme; it counts only under its funder",
    "title": "the title of an award; it counts only under its funder",
}
AWARD_FIELDS = ("funding_scheme", "award_ids", "award_title")


@dataclass(frozen=True)
class FundingTask:
    """Rows have a statement and its `funders`; the answer is a JSON array of funders.

    `target` is the form of the answer: `nested` is the published one (indented, every field present), `compact` says
    the same in about a third of the tokens, for small models: no white space, empty fields left out, a funder's
    awards in one. Both scorers read both forms. `scorer`: `published` counts as the published harness, `corrected`
    repairs its defects (see `adapters.rewards.funding_matching`). `grounded`: a predicted value that is not in the text
    counts as a false positive, whatever the gold says.

    A row may say in `uncertain` which of its labels may be wrong, as paths: `funders.0.awards.0.award_ids.1`. Rewards
    and metrics leave them out on both sides. SFT does not learn their part of the target (`Example.masked`).
    """

    target: Literal["nested", "compact"] = "nested"
    system: str = SYSTEM
    user: str = USER
    scorer: Scorer = "published"
    text_field: str = "funding_statement"
    grounded: bool = False
    old_parameters: ClassVar[OldParameters] = OLD_PARAMETERS
    example_row: ClassVar[Row] = EXAMPLE
    modes: ClassVar[dict[str, str]] = WHAT_MODES_MEAN
    field_meanings: ClassVar[dict[str, str]] = WHAT_FIELDS_MEAN
    structures: ClassVar[tuple[str, ...]] = ("funders", "uncertain")
    graph = staticmethod(funding_graph.graph)

    def __post_init__(self) -> None:
        if "{statement}" not in self.user:
            raise ValueError("user must contain {statement}, where the text goes")

    def example(self, row: Row, *, source: str = "", id: str = "") -> Example:
        """One row with its gold funders. Raises ValueError for a row without text or with unreadable labels."""
        text = row_text(row, self.text_field)
        gold = self.gold(row)
        answer = self.answer(gold)
        uncertain = funding_uncertain.read(row, _labelled(row))
        masked = tuple(funding_uncertain.masked(answer, uncertain, self.target == "compact"))
        return Example(id, source, self.prompt(text), answer, gold=gold, meta={"text": text}, masked=masked)

    def gold(self, row: Row) -> list[dict[str, Any]]:
        """The labels of a row, with or without its text. Raises ValueError when they cannot be read."""
        labelled = _labelled(row)
        gold = [_record(funder) for funder in read_funders(labelled)]
        for number, (values, _) in funding_uncertain.read(row, labelled).items():
            gold[number] |= {"uncertain": values} if values else {}
        return gold

    def labels(self, row: Row) -> Iterator[Label]:
        """Names, ids, schemes and titles, for noise to respect. Those of JSON text, which cannot follow it, stay."""
        if not isinstance(row.get("funders"), str):
            return funding_labels(row)
        return (Label((), "fixed", label.value) for label in funding_labels({"funders": self.gold(row)}))

    def vary(self, row: Row, rng: random.Random) -> Row:
        """The row with other funders and ids in its sentences; as it is where its labels are not in the nested form."""
        # They read a registry of funders, which most commands do not need.
        from adapters.data_aug.funding_links import is_nested
        from adapters.data_aug.funding_statements import redrawn

        if not is_nested(row.get("funders")):
            return row
        return redrawn.with_other_funders(redrawn.with_other_ids(row, rng, self.text_field), rng, self.text_field)

    def prompt(self, text: str) -> tuple[Message, ...]:
        """The messages that ask for the funders of a text."""
        user: Message = {"role": "user", "content": self.user.replace("{statement}", text)}
        return ({"role": "system", "content": self.system}, user) if self.system else (user,)

    def answer(self, gold: list[dict[str, Any]]) -> str:
        """The target text for gold funders."""
        if self.target == "nested":
            plain = [{key: value for key, value in funder.items() if key != "uncertain"} for funder in gold]
            return json.dumps(plain, indent=2, ensure_ascii=False)
        return json.dumps([_compact(funder) for funder in gold], ensure_ascii=False, separators=(",", ":"))

    def empty_answer(self, example: Example) -> str:
        """The answer that finds nothing: the baseline of every reward."""
        return self.answer([])

    def adversarial(self, example: Example) -> dict[str, str]:
        """Plausible wrong answers, for testing rewards."""
        gold: list[dict[str, Any]] = example.gold
        invented = {"funder_name": "Agency for Unfounded Claims"}
        out = {"invented funder": [*gold, {**invented, "awards": []}]}
        if any(_ids(funder) for funder in gold):
            out["right id, wrong funder"] = [{**f, **invented} if _ids(f) else f for f in gold]
            out["right funder, wrong id"] = [
                {**f, "awards": [{**a, "award_ids": [f"ZZ {i[::-1]} 00" for i in a["award_ids"]]} for a in f["awards"]]}
                for f in gold
            ]
        if len(gold) > 1:
            out["one funder missing"] = gold[1:]
        return {name: self.answer(funders) for name, funders in out.items()}

    def counts(self, gold: Any, completion: str, text: str | None = None) -> dict[str, Mapping[str, Counts]]:
        """Counts of funders, award ids, schemes and titles, in the three matching modes."""
        labelled, predicted, _ = self._sides(gold, completion, text)
        return counts_in(MODES, labelled, predicted, self.scorer)

    def align(self, gold: Any, completion: str, text: str | None = None) -> list[Aligned]:
        """Funders, and below each its ids, schemes and titles, paired as in the balanced mode."""
        labelled, predicted, marks = self._sides(gold, completion, text)
        rows = align(labelled, predicted, "balanced", self.scorer)
        return [row._replace(pred=marks.get(row.pred or "", row.pred)) for row in rows] if marks else rows

    def _sides(
        self, gold: Any, completion: str, text: str | None
    ) -> tuple[Sequence[Funder], Sequence[Funder], Mapping[str, str]]:
        """What is compared, and the values that marks stand for."""
        labelled, predicted = compared(gold, parse(completion).funders, self.scorer)
        return labelled, *(marked(predicted, needed(text)) if self.grounded else (predicted, {}))

    def is_well_formed(self, completion: str) -> bool:
        """Whether the text is JSON of an accepted shape."""
        return parse(completion).valid

    def request(self, row: Row) -> tuple[Message, ...]:
        """The prompt for a row without labels. Raises ValueError for a row without text."""
        text = asked_text(row, self.text_field)
        return self.prompt(text)

    def record(self, answer: Any) -> list[dict[str, Any]]:
        """Funders in the nested form from a decoded answer. Raises ValueError when it has another shape."""
        return funding_answer.read(answer)

    def merge(self, records: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """One record of those of a text's overlapping parts: each funder once, with all its awards."""
        return funding_merge.merge(records, one_award=self.target == "compact")

    def answer_schema(self) -> dict[str, Any]:
        """JSON schema of an answer."""
        return funding_answer.schema(self.target)

    def record_schema(self) -> dict[str, Any]:
        """JSON schema of what `record` returns."""
        return funding_answer.RECORD

    def normaliser(self, registry: Path | None) -> Normaliser:
        """Clean-up of names and ids, with a match in a funder registry."""
        from adapters.tasks.funding_registry import FundingNormaliser

        return FundingNormaliser(registry)


def _labelled(row: Row) -> list[dict[str, Any]]:
    funders = row.get("funders")
    if isinstance(funders, str):
        funders = from_text("funders", funders)
    if not isinstance(funders, list) or not all(isinstance(f, dict) for f in funders):
        raise ValueError("funders must be a list of objects (an empty list when there are none)")
    return [funding_gold.as_text(funder) for funder in funders]


def _record(funder: Funder) -> dict[str, Any]:
    # A funder without awards still carries one empty award, as in the published data. Key order is the data's.
    awards = [{name: list(getattr(award, name)) for name in AWARD_FIELDS} for award in funder.awards]
    return {"funder_name": funder.funder_name, "awards": awards or [{name: [] for name in AWARD_FIELDS}]}


def _ids(funder: dict[str, Any]) -> list[str]:
    return [i for award in funder["awards"] for i in award["award_ids"]]


def _compact(funder: dict[str, Any]) -> dict[str, Any]:
    fields = {name: [value for award in funder["awards"] for value in award[name]] for name in AWARD_FIELDS}
    return {"funder_name": funder["funder_name"]} | {name: values for name, values in fields.items() if values}
