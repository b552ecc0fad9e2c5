"""The facts of one document as edges, each with the places that it speaks of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from adapters.errors import UserError
from adapters.graph.elements import MENTIONS, UNTYPED, Edge, Key, clean, digest, normalised
from adapters.graph.locate import Sentences, pair
from adapters.rewards.grounding import Place, free_places
from adapters.types import Attribute, Entity, Fact, Relation

_NOWHERE: Final[tuple[None, None]] = (None, None)


class Text(NamedTuple):
    """A document: number in the corpus, id, text, given sentences, and what all records say about it, in order."""

    row: int
    id: str
    text: str
    facts: Sequence[Fact] = ()
    sentences: Any = None


class Name(NamedTuple):
    """A named thing with its node."""

    key: Key
    type: str
    text: str
    places: Sequence[Place]


class Registry:
    """Ids by name: `entries` are (id, type or None, names). A name that several ids fit has none."""

    def __init__(self, entries: Iterator[tuple[str, str | None, Sequence[str]]]) -> None:
        self._by_name: dict[str, set[tuple[str, str | None]]] = {}
        for identity, kind, names in entries:
            for name in map(normalised, names):
                self._by_name.setdefault(name, set()).add((identity, kind))
        self._by_name.pop("", None)

    def find(self, kind: str, name: str) -> str | None:
        """The id of a normalised name of a type."""
        found = {identity for identity, of in self._by_name.get(name, ()) if of is None or of == kind}
        return found.pop() if len(found) == 1 else None


class Reader:
    """Turns documents into edges. `edges` fills the counts of one document, which the caller then stores."""

    def __init__(self, registry: Registry | None, *, found_only: bool, mentions: bool) -> None:
        self._registry = registry
        self._found_only = found_only
        self._with_mentions = mentions
        self.counts: Counter[str] = Counter()
        """Over all documents: edges by whether they were found, names that are empty."""

    def edges(self, document: Text, identity: str, name: str) -> Iterator[Edge]:
        """The edges of a document with an id and a name, in the order of its facts. Raises UserError."""
        self.spellings: Counter[tuple[Key, str, str]] = Counter()
        self.mentions = 0
        self.attributes: dict[str, bool | float | str] = {}
        try:
            self._sentences = Sentences(document.text, document.sentences)
        except (ValueError, TypeError) as error:
            raise UserError(f"row {document.row} of the corpus: its column sentences: {error}.") from None
        self._text, self._id, self._name = document.text, identity, name
        self._places: dict[str, list[Place]] = {}
        self._seen: set[str] = set()
        typed = self._typed(document.facts)
        for fact in document.facts:
            if isinstance(fact, Attribute):
                value = fact.value
                self.attributes.setdefault(clean(fact.name), clean(value) if isinstance(value, str) else value)
            elif isinstance(fact, Relation):
                yield from self._relation(fact, typed)
            elif (entity := self._entity(fact)) is None:
                self.counts["empty_names"] += 1
            else:
                yield from self._mentions(entity, needed=True)

    def _typed(self, facts: Sequence[Fact]) -> Mapping[str, set[tuple[Key, str]]]:
        """The nodes and types of the document's entities, by normalised name."""
        typed: dict[str, set[tuple[Key, str]]] = {}
        for fact in facts:
            ends = (fact.head, fact.tail) if isinstance(fact, Relation) else (fact,)
            for end in ends:
                if isinstance(end, Entity) and (name := normalised(clean(end.text))):
                    typed.setdefault(name, set()).add((self._key(end, name), clean(end.type)))
        return typed

    def _key(self, entity: Entity, name: str) -> Key:
        kind = clean(entity.type)
        found = entity.registry_id or (self._registry.find(kind, name) if self._registry else None)
        return Key(None, clean(found)) if found else Key(kind, name)

    def _entity(self, entity: Entity) -> Name | None:
        """An entity with its node and places; None for one whose name is empty."""
        name = normalised(clean(entity.text))
        if not name:
            return None
        places = [entity.at] if self._is_at(entity) and entity.at else self._find(entity.text)
        return Name(self._key(entity, name), clean(entity.type), clean(entity.text), places)

    def _is_at(self, entity: Entity) -> bool:
        return entity.at is not None and self._text[slice(*entity.at)].split() == entity.text.split()

    def _find(self, text: str) -> list[Place]:
        if text not in self._places:
            self._places[text] = free_places(self._text, text.split())
        return self._places[text]

    def _end(self, end: Entity | str, typed: Mapping[str, set[tuple[Key, str]]]) -> Name | None:
        """A relation's end: the one typed entity of its name, else one without a type."""
        if isinstance(end, Entity):
            return self._entity(end)
        known = typed.get(normalised(clean(end)), set())
        if len({key for key, _ in known}) != 1:
            return self._entity(Entity(UNTYPED, end))
        key, kind = min(known, key=lambda pair: pair[1])
        return Name(key, kind, clean(end), self._find(end))

    def _mentions(self, name: Name, *, needed: bool) -> Iterator[Edge]:
        """The edges from the document to a name: one for each place, or, where one is needed, one without a place."""
        node = name.key.id
        places: Sequence[Place | None] = name.places or ([None] if needed else [])
        for place in places:
            edge = self._edge(self._id, MENTIONS, node, mention=place)
            if self._found_only and place is None:
                continue
            is_new = edge is not None and place is not None
            self.spellings[name.key, name.type, name.text] += is_new  # also 0, which names the spelling
            self.mentions += is_new and self._with_mentions
            if edge is not None and self._with_mentions:
                yield edge

    def _relation(self, fact: Relation, typed: Mapping[str, set[tuple[Key, str]]]) -> Iterator[Edge]:
        head, tail = self._end(fact.head, typed), self._end(fact.tail, typed)
        if head is None or tail is None:
            self.counts["empty_names"] += 1
            return
        places = pair(head.places, tail.places, self._sentences)
        for name in (head, tail):
            yield from self._mentions(name, needed=False)
        edge = self._edge(head.key.id, clean(fact.label), tail.key.id, ends=places)
        if edge is None or (self._found_only and not edge.found):
            return
        for name in (head, tail):
            self.spellings[name.key, name.type, name.text] += 0
        yield edge

    def _edge(
        self,
        source: str,
        relation: str,
        target: str,
        mention: Place | None = None,
        ends: tuple[Place | None, Place | None] | None = None,
    ) -> Edge | None:
        """An edge of the document, counted; None for one that it has already."""
        offsets = (*(mention or _NOWHERE),) if ends is None else (*(ends[0] or _NOWHERE), *(ends[1] or _NOWHERE))
        nodes = (target,) if ends is None else (source, target)
        identity = "e" + digest(self._name, relation, *nodes, *offsets)
        if identity in self._seen:
            return None
        self._seen.add(identity)
        places = [mention] if ends is None else list(ends)
        found = all(place is not None for place in places)
        numbers = {self._sentences.number(place) for place in places}
        sentence = numbers.pop() if found and len(numbers) == 1 else None
        if ends is not None or self._with_mentions:
            self.counts["found" if found else "not_found"] += 1
        text = self._sentences.text_of(sentence)
        stored = (*offsets, *_NOWHERE, *_NOWHERE) if ends is None else (*_NOWHERE, *offsets)
        written = None if text is None else clean(text)
        start = identity, source, relation, target, self._name
        return Edge._make((*start, *stored, sentence, written, found, 1, True))
