"""Shared fixtures: no network, a tiny random model with a real tokenizer, rows and recipes made on the spot."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from hypothesis import settings
from tiny import chain_recipe, save_tiny_model

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tests share the cores with each other; spinning threads would slow all of them many times over.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# What the imports of a collection leave behind stays alive: to look for garbage in it costs a tenth of all the time.
gc.disable()
# CliRunner builds the whole command line anew for each call, which costs more than most calls do.
typer.testing._get_command = functools.cache(typer.testing._get_command)

# A first look by default; `pytest --hypothesis-profile=thorough` looks for hours' worth of mistakes in minutes.
settings.register_profile("quick", max_examples=40, deadline=None)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile("quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of the longest tests come first."""
    first = {item.path for item in items if item.get_closest_marker("first")}
    items.sort(key=lambda item: item.path not in first)


def pytest_collection_finish() -> None:
    """Leave the imported modules out of garbage collection, and start it for what the tests make."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _search_path() -> Iterator[None]:
    """A plug-in file's folder stays on the search path of its process; here one process runs many tests."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(autouse=True)
def _safe_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command sets when it reads a folder of elsewhere, for the rest of its process."""
    monkeypatch.setenv("PYTHONSAFEPATH", "")


@pytest.fixture(autouse=True, scope="session")
def _state_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What `run` records for the user must not reach the user's own folder."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `tiny.save_tiny_model`."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture
def recipe_text(tmp_path: Path, tiny_model: Path) -> str:
    """A full SFT -> GRPO -> evaluate recipe over the tiny model, with its data beside it."""
    return chain_recipe(tmp_path, tiny_model)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every forward pass of a Llama, padding too."""
    from transformers.models.llama.modeling_llama import LlamaModel

    passes: list[int] = []
    forward = LlamaModel.forward

    @functools.wraps(forward)
    def counted(self: Any, input_ids: Any = None, **kwargs: Any) -> Any:
        passes.append(input_ids.numel())
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", counted)
    return passes
