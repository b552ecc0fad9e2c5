"""A recipe that distills two teachers, planned and run without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import save_adapter
from typer.testing import CliRunner

from adapters.backends.echo import EchoBackend
from adapters.cli.main import app
from adapters.pipeline.plan import Plan, make_plan
from adapters.recipe.load import load_recipe

RECIPE = """name: student
task: {use: ie, target: compact, missing_answer: whole}
model: {base: SOME/base}
lora: {rank: 4, alpha: 8}
run_dir: RUNS
stages:
  - kind: distill
    data:
      - {path: bio.jsonl, domain: bio}
      - {path: news.jsonl, domain: news}
    teachers: {bio: teachers/bio, news: teachers/news}
    batch_size: 4
    max_steps: 3
    learning_rate: 1e-3
"""


def teacher(folder: Path, **config: Any) -> Path:
    return save_adapter(folder, **{"base": "SOME/base", **config})


def plan(path: Path, *overrides: str) -> Plan:
    file = load_recipe(path, overrides)
    return make_plan(file, EchoBackend(file.recipe))


ECHO = [
    "trainer=echo",
    "evaluate=[{name: bio, data: [bio.jsonl]}, {name: news, data: [news.jsonl]}]",
    "stages.0.teachers={bio: runs/bio, news: runs/news}",
]

COMPARED = [("base", "1-distill"), ("teacher-bio", "1-distill"), ("teacher-news", "1-distill")]


def run_all(recipe: Path, *more: str) -> Path:
    """Two teachers by SFT, each on its own rows, then the student of both; no model."""
    for name in ("bio", "news"):
        data = f"[{{path: {name}.jsonl, license: cc-by-nc-4.0}}]"
        sft = f"stages=[{{kind: sft, data: {data}, learning_rate: 1e-4, validation: 0}}]"
        done = CliRunner().invoke(app, ["run", str(recipe), f"name={name}", sft, *ECHO[:2]])
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["run", str(recipe), *ECHO, *more])
    assert done.exit_code == 0, done.output
    return recipe.parent / "runs" / "student"
