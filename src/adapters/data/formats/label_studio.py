"""Label Studio: exported tasks (JSON and JSON-MIN) as sentences, and sentences as tasks with predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from adapters.data.formats.base import Format, LeftOut, Mention, document
from adapters.data.formats.source import Source
from adapters.data_aug.ie.sentences import Options, Sentence

_LABELS = ("labels", "hypertextlabels")
_ANNOTATIONS = ("annotations", "completions")  # before version 1.0 they were completions


def _is_export(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("data"), dict)
        and any(isinstance(record.get(key), list) for key in (*_ANNOTATIONS, "predictions"))
    )


def _is_minimal(record: Any) -> bool:
    if not isinstance(record, dict) or "data" in record:
        return False
    return any(map(_are_regions, record.values())) or {"annotator", "annotation_id"} <= record.keys()


def _are_regions(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) and "labels" in v for v in value)


def _is_label_studio(record: Any) -> bool:
    return _is_export(record) or _is_minimal(record)


def _read(source: Source, options: Options, left_out: LeftOut) -> Iterator[Sentence]:
    # The key of the text in other tasks is that of a task without mentions.
    keys = Counter(key for task in source.first for key in _fitting(*_parts(task, Counter())))
    usual = keys.most_common(1)[0][0] if keys else "text"
    for place, task in source.records():
        if not _is_label_studio(task):
            raise ValueError(f"{place}: no task with data and annotations")
        data, result = _parts(task, left_out)
        if result is not None:
            yield from _sentence(data, result, usual, place, options, left_out)


def _parts(task: Any, left_out: LeftOut) -> tuple[Mapping[str, Any], list[Any] | None]:
    """Data of a task and the result that counts; None for a task that nobody annotated."""
    if _is_export(task):
        annotation = _annotation(task, left_out)
        result = annotation.get("result") or [] if annotation is not None else None
        return task["data"], [result] if isinstance(result, dict | str | int | float) else result
    if not _is_minimal(task):
        return {}, None
    regions = [region for value in task.values() if _are_regions(value) for region in value]
    data = {key: value for key, value in task.items() if not _are_regions(value)}
    return data, [{"id": n, "type": "labels", "value": region} for n, region in enumerate(regions)]


def _fitting(data: Mapping[str, Any], result: Sequence[Any] | None) -> list[str]:
    """The keys of texts that hold the texts of all mentions; none where there are no mentions."""
    values = [r["value"] for r in result or () if isinstance(r, dict) and isinstance(r.get("value"), dict)]
    surfaces = [value["text"] for value in values if isinstance(value.get("text"), str)]
    return [k for k, v in data.items() if isinstance(v, str) and surfaces and all(s in v for s in surfaces)]


def _annotation(task: Mapping[str, Any], left_out: LeftOut) -> Mapping[str, Any] | None:
    """The annotation that counts: the ground truth, else the one changed last. The others are counted."""
    key = next((key for key in _ANNOTATIONS if isinstance(task.get(key), list)), "")
    whole = [a for a in task.get(key) or () if isinstance(a, dict)]
    kept = [a for a in whole if not (a.get("was_cancelled") or a.get("skipped"))]
    left_out["cancelled annotations"] += len(whole) - len(kept)
    if not kept:
        left_out["tasks that have only predictions" if task.get("predictions") else "tasks without annotations"] += 1
        return None
    left_out["further annotations of a task"] += len(kept) - 1
    return max(kept, key=lambda a: (bool(a.get("ground_truth")), str(a.get("updated_at") or a.get("created_at") or "")))


def _sentence(
    data: Mapping[str, Any], result: Sequence[Any], usual: str, place: str, options: Options, left_out: LeftOut
) -> Iterator[Sentence]:
    mentions: list[Mention] = []
    relations: list[tuple[str, Any, Any]] = []
    for region in result:
        kind = str(region.get("type", "")).lower() if isinstance(region, dict) else ""
        if kind in _LABELS:
            mentions += _mentions(region, place, left_out)
        elif kind == "relation":
            relations += _relations(region, left_out)
        else:
            left_out[f"results of the type {kind or 'none'}"] += 1
    text = _text(data, result, usual, place)
    yield from document(text, mentions, relations, place, options, left_out)


def _mentions(region: Mapping[str, Any], place: str, left_out: LeftOut) -> Iterator[Mention]:
    value = region["value"] if isinstance(region.get("value"), dict) else {}
    # In HTML, start and end are XPaths; the offsets in the text without tags do not fit the data.
    start, end = value.get("start"), value.get("end")
    if type(start) is not int or type(end) is not int:
        left_out["regions of HTML, which have no offsets in the text"] += 1
        return
    labels = value.get("labels") or value.get("hypertextlabels") or []
    if not isinstance(labels, list):
        raise ValueError(f"{place}: {labels!r:.60} is no list of labels")
    if not labels:
        left_out["regions without a label"] += 1
    for n, label in enumerate(labels):
        if not isinstance(label, str):
            raise ValueError(f"{place}: the label {label!r:.60} is no text")
        # Relations are of regions: they join the first labels.
        name = region.get("id") if isinstance(region.get("id"), str | int) else None
        surface = value.get("text")
        yield Mention(
            start,
            end,
            label,
            name if n == 0 or name is None else (name, n),
            surface if isinstance(surface, str) else None,
        )


def _relations(region: Mapping[str, Any], left_out: LeftOut) -> Iterator[tuple[str, Any, Any]]:
    head, tail = region.get("from_id"), region.get("to_id")
    if region.get("direction") == "left":
        head, tail = tail, head
    labels = region.get("labels") or []
    left_out["relations without a label"] += not labels
    for label in labels if isinstance(labels, list) else [labels]:
        yield str(label), head, tail
        if region.get("direction") == "bi":
            yield str(label), tail, head


def _text(data: Mapping[str, Any], result: Sequence[Any], usual: str, place: str) -> str:
    """The annotated text: the only one, else the one that fits. Raises ValueError."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    fitting = _fitting(data, result)
    for keys in (list(texts), fitting):
        if len(keys) == 1:
            return texts[keys[0]]
    for key in (usual, "text"):
        if key in (fitting or texts):
            return texts[key]
    raise ValueError(f"{place}: which key of data is the text? It has {', '.join(data) or 'none'}; name it text")


LABEL_STUDIO = Format(
    "Label Studio JSON",
    "tasks",
    {"ie": _read},
    '[{"data": {"text": "Mira Holt flew ."}, "annotations": [{"result": [{"type": "labels", "value": '
    '{"start": 0, "end": 9, "labels": ["person"]}}]}]}]',
    ("data", "annotations", "predictions", "completions"),
    _is_label_studio,
)


def tasks(sentences: Iterable[Sentence], left_out: LeftOut, model: str) -> Iterator[dict[str, Any]]:
    """Sentences as tasks whose predictions people correct. Offsets are code points, as Label Studio's since 2022."""
    for sentence in sentences:
        result: list[dict[str, Any]] = []
        names = {}
        for n, entity in enumerate(dict.fromkeys(sentence.entities)):
            if len(entity.ranges) > 1:
                left_out["mentions in several pieces"] += 1
                continue
            (start, end), names[entity] = entity.ranges[0], f"m{n}"
            value = {"start": start, "end": end, "text": sentence.text[start:end], "labels": [entity.label]}
            result.append(
                {"id": names[entity], "from_name": "label", "to_name": "text", "type": "labels", "value": value}
            )
        for relation in sentence.relations:
            if relation.head not in names or relation.tail not in names:
                left_out["relations without their mentions"] += 1
                continue
            ends = {"from_id": names[relation.head], "to_id": names[relation.tail]}
            result.append({**ends, "type": "relation", "direction": "right", "labels": [relation.label]})
        yield {"data": {"text": sentence.text}, "predictions": [{"model_version": model, "result": result}]}


def labeling_config(schema: Iterable[str], sentences: Sequence[Sentence]) -> str:
    """The labelling interface for a schema and the labels found, as Label Studio's settings take it."""
    labels = dict.fromkeys([*schema, *(e.label for s in sentences for e in s.entities)])
    relations = dict.fromkeys(r.label for s in sentences for r in s.relations)
    parts = [f"<Label value={quoteattr(label)}/>" for label in labels]
    joined = [f"<Relation value={quoteattr(label)}/>" for label in relations]
    return "".join(
        [
            "<View>",
            *(["<Relations>", *joined, "</Relations>"] if joined else []),
            '<Labels name="label" toName="text">', *parts, "</Labels>",
            '<Text name="text" value="$text"/></View>',
        ]
    )  # fmt: skip
