"""The task `chat` through all three trainers, and a resumed one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.data_aug import desk
from adapters.files import read_jsonl

pytest.importorskip("torch")

RECIPE = """\
name: r
task: {{use: chat, system: You are a desk.}}
model: {{base: {base}}}
lora: {{rank: 4, alpha: 8}}
stages:
  - {{kind: sft, data: [{{synthesize: desk, n: 12, seed: 1}}], batch_size: 4, learning_rate: 1e-3, validation: 0.2}}
  - {{kind: dpo, data: [{{path: pairs.jsonl}}], batch_size: 2, max_steps: 2, learning_rate: 1e-4, validation: 0}}
  - {{kind: grpo, data: [{{synthesize: desk, n: 8, seed: 2}}], batch_size: 2, group_size: 2, max_steps: 1,
      flat_groups: leave_out, learning_rate: 1e-4, rewards: [{{use: chat, json: 1}}], max_completion_length: 64,
      max_too_long: 1}}
evaluate:
  - {{name: unseen, data: [{{synthesize: desk, n: 4, seed: 3}}], max_new_tokens: 16}}
"""


@pytest.mark.slow
def test_from_conversations_through_all_stages(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = [
        {"id": row["id"], "prompt": row["messages"][:1], "chosen": row["messages"][1], "rejected": "Sure!"}
        for row in desk.synthesize(4, 5)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    (tmp_path / "r.yaml").write_text(RECIPE.format(base=tiny_model))
    checked = json.loads(CliRunner().invoke(app, ["check", "r.yaml", "--json"]).stdout)
    assert checked["errors"] == []
    shown = checked["prompts"]["shown"][0]
    done = CliRunner().invoke(app, ["run", "r.yaml"])
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(app, ["run", "r.yaml"])
    assert again.exit_code == 0, again.output
    report = json.loads((tmp_path / "runs/r/report.json").read_text())
    assert list(report["sets"]["unseen"]) == ["base", "1-sft", "2-dpo", "3-grpo"]
    answers = list(read_jsonl(tmp_path / "runs/r/3-grpo/rollouts-0.jsonl"))
    assert {part for answer in answers for part in answer["parts"]} >= {"exact", "tokens"}
    figures = json.loads((tmp_path / "runs/r/1-sft/manifest.json").read_text())["figures"]
    assert figures["nll_after"] < figures["nll_before"]
    assert shown["earlier"] == [] or len(shown["earlier"]) > 2
