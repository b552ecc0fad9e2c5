"""The recipe's `publish:` section."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Final

from pydantic import Field, field_validator

from adapters.recipe.fields import Seq, Share, Strict

# What huggingface_hub's `validate_repo_id` lets through and the Hub does not take as a model: no owner, and an owner
# that is the prefix of another kind of repository.
REPO: Final = (
    r"^(?!(?:datasets|spaces|models|buckets)/)(?!.*(?:--|\.\.))(?!.*\.git$)(?=[^/]{1,96}/[^/]{1,96}$)"
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?/[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?$"
)
TAG: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

# The Hub's licence ids that people mistype; any other id is left to the Hub's own check of the card.
LICENSES: Final = (
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc",
    "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0",
    "cdla-permissive-2.0", "etalab-2.0", "eupl-1.2", "gemma", "gpl-2.0", "gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0",
    "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "mit", "mpl-2.0", "odbl", "odc-by", "openrail",
    "other", "pddl", "unknown", "unlicense",
)  # fmt: skip


_HubId = Annotated[str | None, Field(json_schema_extra={"pattern": REPO})]
_Tag = Annotated[str | None, Field(json_schema_extra={"pattern": TAG})]


def license_fault(value: str) -> str:
    """What is wrong with a licence id that looks like one of the Hub's; "" for one of them, and for any other text."""
    near = difflib.get_close_matches(value.lower().replace(" ", "-"), LICENSES, 1, 0.75)
    return f"{value!r} is no licence id of the Hub. Did you mean {near[0]}?" if near and value not in LICENSES else ""


def _check_hub_id(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(REPO, value):
        raise ValueError(
            f"{value!r} is no Hub id; write owner/name, each of up to 96 letters, digits, '-', '_' and '.', with "
            "neither '--' nor '..' in it, neither '-' nor '.' at an end, and without .git"
        )
    return value


class Benchmark(Strict):
    """The Hub's benchmark that a test set is, so that its figure stands on the leaderboard of that dataset."""

    dataset_id: str = Field(json_schema_extra={"pattern": REPO}, description="Hub id of the benchmark's dataset.")
    task_id: str = Field(min_length=1, description="Its task, as the dataset's eval.yaml names it.")
    revision: str | None = Field(default=None, pattern="^[0-9a-f]{40}$", description="Commit of the dataset.")

    _hub_id = field_validator("dataset_id")(_check_hub_id)


class Publish(Strict):
    """Where the adapter goes, and what its model card says that a run cannot know."""

    repo: _HubId = Field(default=None, description="The Hub repository: owner/name.")
    private: bool = Field(default=True, description="Create the repository private; off, everyone can see it.")
    base_model: _HubId = Field(default=None, description="Hub id of the base model, if model.base is a local folder.")
    title: str | None = Field(default=None, description="Title of the model card; default: the repository's name.")
    description: str | None = Field(default=None, description="What the adapter does, in a sentence or two.")
    license: str | None = Field(default=None, description="Licence as the Hub writes it: apache-2.0, cc-by-4.0 …")
    language: Seq[str] = Field(default=("en",), description="ISO 639 codes of the languages of the training data.")
    tags: Seq[str] = Field(default=(), description="Tags beside those that the stages give: lora, sft, grpo …")
    datasets: Seq[str] = Field(default=(), description="Hub ids of datasets, beside those that the recipe reads.")
    limitations: Seq[str] = Field(default=(), description="What users should know, a point each.")
    intended_use: str | None = Field(default=None, description="What the adapter is for, and what it is not for.")
    base_license: str | None = Field(
        default=None, description="Licence of the base model; default: as the base's own card names it."
    )
    contact: str | None = Field(default=None, description="Whom to ask: an address, a web page, a forum.")
    citation: str | None = Field(default=None, description="How to cite the adapter, in BibTeX.")
    example: dict[str, Any] | None = Field(
        default=None, description="A made-up row for the card's usage, as the task reads it; default: the task's."
    )
    code: bool = Field(
        default=True, description="Put the local files of the task, the rewards and the noise into the bundle."
    )
    minimum: dict[str, Share] | None = Field(
        default=None,
        description="Least figures of every test set, or of one: {funder_f1: 0.6, test/valid: 0.9}, beside those of "
        "the base model; {} asks for nothing, and the card says so.",
    )
    tag: _Tag = Field(default=None, description="Git tag of the commit; default: run name and bundle hash.")

    _hub_id = field_validator("repo", "base_model")(_check_hub_id)

    @field_validator("tag")
    @classmethod
    def _git_tag(cls, value: str | None) -> str | None:
        if value is not None and not re.match(TAG, value):
            raise ValueError(f"{value!r} is no tag; use letters, digits, '-', '_' and '.', such as v1.0")
        return value

    @field_validator("citation")
    @classmethod
    def _bibtex(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"\s*@\w+\s*\{", value):
            raise ValueError("a citation is a BibTeX entry, such as @misc{key, title = {…}}")
        return value

    @field_validator("license")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if fault := license_fault(value or ""):
            raise ValueError(fault)
        return value

    @field_validator("language")
    @classmethod
    def _codes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for code in value:
            if not (code.isalpha() and code.islower() and len(code) in (2, 3)) and code not in ("code", "multilingual"):
                raise ValueError(f"{code!r} is no ISO 639 code such as en, de or fra, nor code or multilingual")
        return value
