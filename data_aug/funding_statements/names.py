"""Funders: a table of well-known ones, the Crossref registry, composed bodies."""

from __future__ import annotations

import gzip
import re
from bisect import bisect
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random

from adapters.data_aug.data_files import FOLDER, read_lines
from adapters.data_aug.funding_statements.grammar import Grammar, read_rules
from adapters.data_aug.funding_statements.people import surname
from adapters.data_aug.funding_statements.programmes import is_programme


@dataclass(frozen=True, slots=True)
class Known:
    """One line of known_funders.txt. A scheme's form "f" takes "a", "p" takes "the"."""

    weight: int
    shape: str
    acronym: str
    names: tuple[str, ...]
    local: str
    schemes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Funder:
    """A funder as one statement names it: exact `label`, and its `article`. `name` and `acronym` may not be shown."""

    key: str
    label: str
    article: str
    shape: str
    acronym: str
    schemes: tuple[tuple[str, str], ...]
    known: bool
    name: str = ""

    @property
    def the(self) -> str:
        """The name with its article."""
        return self.article + self.label

    @property
    def keys(self) -> set[str]:
        """All that the funder may be called; two funders of a statement share none."""
        return {self.key, self.label, self.name, self.acronym} - {""}

    def called(self, label: str) -> Funder:
        """The same funder under another name."""
        return replace(self, label=label, article="the " if " " in label and self.article else "")


def _read_known() -> list[Known]:
    known = []
    for line in read_lines("funding_statements/known_funders.txt"):
        weight, shape, acronym, names, local, schemes = (field.strip() for field in line.split("|"))
        forms = tuple((s[0], s[2:]) for s in schemes.split(" ; ") if s)
        known.append(Known(int(weight), shape, acronym, tuple(names.split(" ; ")), local, forms))
    return known


def _read_registry() -> list[list[str]]:
    with gzip.open(FOLDER / "funding_statements/funders.tsv.gz", "rt", encoding="utf-8") as lines:
        return [line.rstrip("\n").split("\t") for line in lines]


KNOWN = _read_known()
REGISTRY = _read_registry()
BODIES = frozenset(name for known in KNOWN for name in (*known.names, known.acronym, known.local) if name)
_PAYING = [line for line in REGISTRY if not any(is_programme(name, BODIES) for name in (line[0], line[2]))]
_KNOWN_SUMS = list(accumulate(known.weight for known in KNOWN))
_GRAMMAR = Grammar({**read_rules("wording.txt"), "surname": surname})

_NO_ARTICLE = re.compile(
    r"(The|A\*STAR|Cancer|Wellcome$|Alzheimer|Arthritis|Parkinson|Diabetes|Kidney|Breast|Blood|Asthma|Action|Worldwide|"
    r"Innovate|Research to|Google|Vinnova|Tekes|Business|Science Foundation I|EMBO|COST|UNICEF|UNESCO|USAID|NASA|DARPA|"
    r"Health Research|March of|Autism|Genome C)"
)
_FOREIGN = re.compile(
    r"Fondation|Deutsche|Agence|Institut |Generalitat|Junta|Xunta|Comunidad|Narodowe|Vetenskaps|Norges|Région|Region|"
    r"Knut och|Suomen|Fundaç|Fundación|Conselho|Coordena|Minister(?:io|o)|Consejo|Fondo|Fondazione|Associazione|"
    r"Universi(?!ty)|École|Ente|Gobierno|Schweiz|Studien|Volkswagen|Fritz|Wilhelm|Else|Boehringer|Max-Planck-G|Bundes|"
    r"Centre National|Centro|Türkiye|Stiftung|Canadian Institutes"
)
_ARTICLE = re.compile(
    r"Foundation|Council|Institute|Agency|Ministry|Department|Fund\b|Trust|Society|Association|Union|Commission|Office|"
    r"Academy|Administration|University of|Bank|Organi[sz]ation|Program|Cent(?:re|er)|Government|Board|Academies|"
    r"Service|Community|State of|Division|School|Faculty|Laboratory|Charit|Found\b|Deanship|Bureau|Authority|Survey|"
    r"League|Alliance"
)


def article(rng: Random, label: str, kind: str = "") -> str:
    """Draw "the " or "" for a name; authors waver, so the result does."""
    roll = rng.random()
    if " " not in label:
        return "the " if roll < 0.3 and kind != "company" else ""
    if _NO_ARTICLE.match(label):
        return ""
    if _FOREIGN.match(label):
        return "the " if roll < 0.4 else ""
    if kind == "company" or (kind == "university" and "University of" not in label):
        return "the " if roll < 0.06 else ""
    return "the " if _ARTICLE.search(label) and roll < 0.93 else ""


def _fits(acronym: str, name: str) -> bool:
    """Whether the letters of an acronym occur in the name in order."""
    letters = iter(name.casefold())
    return all(char in letters for char in acronym.casefold() if char.isalpha())


def _surface(rng: Random, name: str, acronym: str, other: str) -> str:
    """The name as a text writes it: long form, acronym, both, or bilingual."""
    roll = rng.random()
    if acronym and roll < 0.24:
        return acronym
    if acronym and acronym not in name and "(" not in name and (other or _fits(acronym, name)):
        if roll < 0.45:
            return f"{name} ({acronym})"
        if other and other != name and roll < 0.52:
            return rng.choice((f"{other} ({acronym}, {name})", f"{name} ({other}, {acronym})", f"{name} ({other})"))
        if roll < 0.535:
            return f"{acronym} ({name})"
        if roll < 0.545:
            return f"{name}, {acronym}"
    elif other and other != name and roll < 0.12:
        return f"{name} ({other})" if len(name) + len(other) < 90 else other
    return name


def known_funder(rng: Random) -> Funder:
    """A funder of the table, by weight."""
    known = KNOWN[bisect(_KNOWN_SUMS, rng.random() * _KNOWN_SUMS[-1])]
    name = known.names[int(rng.random() * len(known.names))]
    label = _surface(rng, name, known.acronym, known.local)
    kind = "company" if "Google" in known.names else ""
    acronym = known.acronym if _fits(known.acronym, name) else ""
    key = known.acronym or name
    return Funder(key, label, article(rng, label, kind), known.shape, acronym, known.schemes, True, name)


def registry_funder(rng: Random) -> Funder:
    """Any funder of the registry, with a name of its own length and language."""
    name, acronym, other, kind = _PAYING[int(rng.random() * len(_PAYING))]
    label = _surface(rng, name if rng.random() < 0.9 or not other else other, acronym, other)
    shape = "uni" if kind == "university" else "misc"
    return Funder(name, label, article(rng, label, kind), shape, acronym, (), False, name)


def composed_funder(rng: Random) -> Funder:
    """An invented department, provincial fund or laboratory."""
    roll = rng.random()
    rule, shape = (
        ("provincial", "province") if roll < 0.34 else ("open_lab", "openlab") if roll < 0.42 else ("nested", "uni")
    )
    if roll > 0.7:
        rule, shape = ("family", "misc") if roll < 0.8 else ("national", "misc")
    label = _GRAMMAR.say(rng, rule)
    return Funder(label, label, article(rng, label), shape, "", (), False)


def draw_funder(rng: Random) -> Funder:
    """A funder from one of the three sources."""
    roll = rng.random()
    if roll < 0.64:
        return known_funder(rng)
    return registry_funder(rng) if roll < 0.85 else composed_funder(rng)
