"""A reward as verl calls it: its file loaded as verl loads it, its calls in the threads of an event loop."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from docs_blocks import ROOT, blocks
from tiny import funding_rows

from adapters.errors import UserError
from adapters.integrations import verl_score
from adapters.tasks.funding import FundingTask

PAGE = ROOT / "docs/rewards.md"


def load(path: Path, name: str, reward_kwargs: dict[str, Any] | None = None) -> Callable[..., Any]:
    """verl's `get_custom_reward_fn`: verl/trainer/ppo/reward.py and, later, verl/utils/import_utils.py."""
    spec = importlib.util.spec_from_file_location("custom_module", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_module"] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["custom_module"]
    function = getattr(module, name)
    assert not asyncio.iscoroutinefunction(function), "verl would await it"

    def with_kwargs(extra: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **{**kwargs, **extra})

    return partial(with_kwargs, reward_kwargs or {})


async def reward_loop(score: Callable[..., Any], batch: list[dict[str, Any]]) -> list[Any]:
    """As verl's reward managers call it: verl/experimental/reward_loop/reward_manager/naive.py, `run_single`."""
    loop = asyncio.get_running_loop()
    calls = [loop.run_in_executor(None, partial(score, **row)) for row in batch]
    return await asyncio.gather(*calls)


def rows_of(task: FundingTask, rows: list[dict], answers: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "data_source": "funding",
            "solution_str": answer,
            "ground_truth": json.dumps(task.gold(row)),
            "extra_info": {"index": n, "split": "train", "num_turns": 2, "rollout_reward_scores": {}},
            "reward_router_address": "10.0.0.1:8000",
            "reward_model_tokenizer": None,
        }
        for n, (row, answer) in enumerate(zip(rows, answers, strict=True))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [None, 20.0])
def test_the_documented_file_in_verls_reward_loop(tmp_path: Path, timeout: float | None) -> None:
    [code] = [block.text for block in blocks(PAGE) if "compute_score = verl_score" in block.text]
    (tmp_path / "verl_reward.py").write_text(code.replace("timeout=5.0", f"timeout={timeout}"))
    score = load(tmp_path / "verl_reward.py", "compute_score")
    task, rows = FundingTask(), funding_rows(12)
    golds = [task.example(row).completion or "" for row in rows]
    answers = [gold if n % 2 else "no JSON" for n, gold in enumerate(golds)]
    batch = rows_of(task, rows, answers) * 4
    infos = asyncio.run(reward_loop(score, batch))
    assert [info["score"] for info in infos[:12]] == [float(n % 2) for n in range(12)]
    assert infos[12:24] == infos[:12]
    assert {tuple(info) for info in infos} == {("score", *verl_score("funding").parts)}, "verl reads the first's keys"
    numpy = pytest.importorskip("numpy")
    arrays = {key: numpy.array([info[key] for info in infos]) for key in infos[0]}
    assert {array.dtype for array in arrays.values()} == {numpy.dtype(float)}
    assert all(numpy.isfinite(array).all() for array in arrays.values())


PARTS = """
from adapters.types import Scored

class Parts:
    part_names = ("readable", "exact")
    def __call__(self, completion, example):
        if completion == "crash":
            raise KeyError("x")
        if completion == "none":
            return None
        return Scored(0.5, {"readable": 1} | ({"exact": True} if completion == "exact" else {}) | {"other": 3})
"""


def test_parts_without_names_are_pointed_out_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "parts.py").write_text(PARTS.replace("part_names", "others"))
    score = verl_score(f"{tmp_path}/parts.py:Parts")
    assert [score("d", text, "{}") for text in ("none", "exact", "x")] == [0.0, 0.5, 0.5]
    [said] = [record.message for record in caplog.records]
    assert said.endswith("name them, verl_score(…, parts=['readable', 'exact', 'other'])")


def test_every_call_has_the_same_parts(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    score = verl_score(f"{tmp_path}/parts.py:Parts", on_error="zero")
    assert score("d", "exact", "{}") == {"score": 0.5, "readable": 1.0, "exact": 1.0}
    assert score("d", "unread", "{}") == {"score": 0.5, "readable": 1.0, "exact": 0.0}
    assert score("d", "none", "{}") == score("d", "crash", "{}") == {"score": 0.0, "readable": 0.0, "exact": 0.0}
    assert verl_score(f"{tmp_path}/parts.py:Parts", parts=["other"])("d", "x", "{}") == {"score": 0.5, "other": 3.0}
    assert verl_score(f"{tmp_path}/parts.py:Parts", parts=[])("d", "x", "{}") == 0.5, "verl takes plain numbers too"
    for name in ("score", "reward"):
        with pytest.raises(UserError, match=f"verl has a figure '{name}' of its own"):
            verl_score(f"{tmp_path}/parts.py:Parts", parts=[name])


@pytest.mark.parametrize("name", ["funding", "ie", "agent"])
def test_the_shipped_rewards_give_the_parts_that_they_name(name: str) -> None:
    from adapters.testing import examples

    score = verl_score(name)
    assert score.parts
    for example in examples(name, n=8):
        for text in (example.completion or "", "", "garbage", "[]"):
            assert set(score.parts) <= score.grader(text, example).parts.keys()


def test_keys_that_would_have_no_effect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="verl takes no completion without a score; use zero or raise"):
        verl_score("funding", on_error="skip")
    with pytest.raises(UserError, match="weight: one reward alone has none"):
        verl_score("funding", weight=0.5)
    (tmp_path / "f.py").write_text("from adapters.integrations import verl_score\nscore = verl_score('funding')\n")
    [row] = rows_of(FundingTask(), funding_rows(1), ["[]"])
    for key in ("scorer", "timeout"):
        with pytest.raises(UserError, match=rf"{key}: .* write verl_score\(…, {key}=…\)"):
            load(tmp_path / "f.py", "score", {key: "corrected"})(**row)
    assert load(tmp_path / "f.py", "score", {"unknown": 1})(**row)["score"] == 0


def test_both_places_of_verls_configuration_are_documented() -> None:
    text = PAGE.read_text()
    for place in ("reward.custom_reward_function", "custom_reward_function"):
        for key in ("path", "name"):
            assert re.search(rf"(?<![\w.]){re.escape(place)}\.{key}=", text), f"{place}.{key}"
