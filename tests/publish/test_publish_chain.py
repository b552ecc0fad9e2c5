"""A tiny run through the command line, published to a Hub on loopback, loaded from there by its card's own words."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_blocks import blocks
from hub_server import HubServer

pytest.importorskip("torch")
pytestmark = pytest.mark.slow
REPO, BASE = "me/funding-tiny", "tests/tiny-llama"


def call(arguments: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess:
    base = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    known = {"COLUMNS": "200", "ACCELERATE_USE_CPU": "true", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**base, **known, **env}, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.first
def test_from_the_run_to_a_strangers_process(tmp_path: Path, recipe_text: str, tiny_model: Path) -> None:
    (tmp_path / "chain.yaml").write_text(recipe_text)
    offline = {"HF_HUB_OFFLINE": "1"}
    done = call(["chain.yaml", "model.precision=fp32"], tmp_path, **offline)
    assert done.returncode == 0, done.stderr[-3000:]
    publish = [
        "-m",
        "adapters",
        "publish",
        "runs/chain",
        f"publish.base_model={BASE}",
        "publish.license=mit",
        "--repo",
        REPO,
    ]

    refused = call([*publish, "--dry-run"], tmp_path, **offline)
    assert refused.returncode == 3, refused.stdout + refused.stderr
    assert "figures: test: every F1 is 0; publish.minimum={} publishes it all the same" in refused.stderr
    publish.append("publish.minimum={}")
    dry = call([*publish, "--dry-run"], tmp_path, **offline)
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert "4 of 4 greedy answers are the training process's to the letter" in dry.stdout
    assert "the card's code runs" in dry.stdout
    assert "Nothing was pushed" in dry.stdout
    bundle = tmp_path / "runs" / "chain" / "publish" / "bundle"
    card = (bundle / "README.md").read_text()
    assert "- test: every F1 is 0. The publisher asked nothing of the figures" in card
    assert "with the data files beside them, and ends without an error" in card

    with HubServer() as server:
        online = {"HF_ENDPOINT": server.url, "HF_TOKEN": server.token, "HF_HOME": str(tmp_path / "home")}
        server.fail("POST", "/commit/", 403)
        refused = call(publish, tmp_path, **online)
        assert refused.returncode == 2
        assert "refuses the push" in refused.stderr
        pushed = call([*publish, "--json"], tmp_path, **online)
        assert pushed.returncode == 0, pushed.stdout + pushed.stderr
        assert "verified before" in pushed.stderr, "the second call only pushes"
        assert "loading it once more, from the Hub's files" in pushed.stderr
        held = json.loads(pushed.stdout)
        assert held["pushed"]["new"] is True
        repo = server.repos[REPO]
        assert repo.private
        assert len(repo.commits) == 2
        assert list(repo.tags) == [held["pushed"]["tag"]]
        assert repo.files["README.md"] == (bundle / "README.md").read_bytes()
        again = call([*publish, "--json"], tmp_path, **online)
        assert json.loads(again.stdout)["pushed"]["new"] is False
        assert len(repo.commits) == 2
        opened = call([*publish, "--pr", "publish.title=Another", "--json"], tmp_path, **online)
        assert opened.returncode == 0, opened.stdout + opened.stderr
        found = json.loads(opened.stdout)["pushed"]
        assert (found["pull_request"], found["tag"]) == (f"{server.url}/{REPO}/discussions/1", None)
        assert json.loads((bundle.parent / "pushed.json").read_text())["pull_request"] == found["pull_request"]
        assert (len(repo.commits), len(repo.pulls)) == (2, 1)
        for part in (refused, pushed, again, opened):
            assert server.token not in part.stdout + part.stderr

        # Somebody else: no run folder, an empty cache, nothing but the card's code and the Hub.
        server.add(BASE, tiny_model)
        (tmp_path / "stranger").mkdir()
        (tmp_path / "stranger" / "card.md").write_text(card)
        code = next(b.text for b in blocks(tmp_path / "stranger" / "card.md") if b.language == "python")
        assert f'revision="{held["pushed"]["tag"]}"' in code
        (tmp_path / "stranger" / "usage.py").write_text(code + "print('CHANGED', any(p.abs().max() > 0 for n, p in model.named_parameters() if 'lora_B' in n))\n")  # fmt: skip # noqa: E501
        home = {**online, "HF_HOME": str(tmp_path / "stranger" / "home")}
        used = call(["usage.py"], tmp_path / "stranger", **home)
        assert used.returncode == 0, used.stderr[-3000:]
        assert "CHANGED True" in used.stdout
        assert "missing adapter keys" not in used.stderr
        merge = re.search(r"^python -c '\n(.*?)^'$", card, re.DOTALL | re.MULTILINE)
        assert merge
        written = call(["-c", merge[1]], tmp_path / "stranger", **home)
        assert written.returncode == 0, written.stderr[-3000:]
        assert (tmp_path / "stranger" / "merged" / "model.safetensors").is_file()

    merged = call(["-m", "adapters", "merge", "runs/chain", "-o", "merged", "--json"], tmp_path, **offline)
    assert merged.returncode == 0, merged.stdout + merged.stderr
    result = json.loads(merged.stdout)
    assert result["difference"] <= result["tolerance"]
    assert str(tmp_path) not in (tmp_path / "merged" / "config.json").read_text()
    check = (
        "import torch; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T\n"
        f"a, b = M.from_pretrained('merged'), M.from_pretrained({str(tiny_model)!r})\n"
        "assert a.config.tie_word_embeddings and a.lm_head.weight is a.model.embed_tokens.weight\n"
        "ids = T.from_pretrained('merged')('National Science Foundation', return_tensors='pt').input_ids\n"
        "assert (a(ids).logits - b(ids).logits).abs().max() > 1e-4\n"
    )
    compared = call(["-c", check], tmp_path, **offline)
    assert compared.returncode == 0, compared.stderr[-2000:]
    refused = call(["-m", "adapters", "merge", "runs/chain", "-o", "merged"], tmp_path, **offline)
    assert refused.returncode == 2
    assert "exists already" in refused.stderr
