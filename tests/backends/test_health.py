"""Trainings that go wrong without failing are stopped; checkpoints are believed only when they are whole."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from adapters.backends.health import HealthError
from adapters.backends.local.checkpoints import Checkpoints, last_good, rewind
from adapters.backends.local.health_callback import HealthWatch
from adapters.recipe.stages import Health


def log(watch: HealthWatch, folder: Path, step: int, **figures: float) -> None:
    state = TrainerState(global_step=step, is_world_process_zero=True)
    logs = {name.replace("__", "/"): value for name, value in figures.items()}
    watch.on_log(SimpleNamespace(output_dir=str(folder)), state, TrainerControl(), logs=logs)


def save(folder: Path, step: int) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "adapter_model.safetensors").write_bytes(b"weights of %d" % step)
    (checkpoint / "trainer_state.json").write_text("{}")
    state = TrainerState(global_step=step, is_world_process_zero=True)
    Checkpoints().on_save(SimpleNamespace(output_dir=str(folder)), state, TrainerControl())
    return checkpoint


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"loss": float("nan")}, "loss is nan"),
        ({"loss": 1.0, "grad_norm": float("inf")}, "grad_norm is inf"),
        ({"kl": 11.0}, "the KL to the reference is 11, above 10"),
        ({"kl": float("nan")}, "the KL to the reference is nan"),
        ({"sampling__sampling_logp_difference__mean": 0.3}, "vLLM does not sample from the trained weights: .* 0.3"),
    ],
)
def test_what_stops_at_once(tmp_path: Path, figures: dict, said: str) -> None:
    save(tmp_path, 2)
    with pytest.raises(HealthError, match=said) as raised:
        log(HealthWatch(Health()), tmp_path, 3, **figures)
    assert "checkpoint-2" in str(raised.value), "the last good adapter is named"


@pytest.mark.parametrize("name", ["frac_reward_zero_std", "completions__clipped_ratio"])
def test_what_stops_after_a_while(tmp_path: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    watch = HealthWatch(Health(no_signal_steps=4))
    for step in (1, 2, 3):
        log(watch, tmp_path, step, **{name: 1.0})
    assert capsys.readouterr().err.count("warning: for 2 steps") == 1
    log(watch, tmp_path, 4, **{name: 0.9})
    for step in (5, 6, 7):
        log(watch, tmp_path, step, **{name: 1.0})
    with pytest.raises(HealthError, match="for 4 steps"):
        log(watch, tmp_path, 8, **{name: 1.0})


def test_flat_groups_that_are_replaced_are_no_lack_of_signal(tmp_path: Path) -> None:
    watch = HealthWatch(Health(no_signal_steps=2))
    for step in range(1, 5):
        log(watch, tmp_path, step, frac_reward_zero_std=1.0, flat_groups__left=0.5)
    log(watch, tmp_path, 5, frac_reward_zero_std=1.0, flat_groups__left=1.0)
    with pytest.raises(HealthError, match="for 2 steps no group of completions differs in reward"):
        log(watch, tmp_path, 6, frac_reward_zero_std=1.0, flat_groups__left=1.0)


def test_limits_can_be_lifted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    watch = HealthWatch(Health(max_kl=None, no_signal_steps=None))
    for step in range(100):
        log(watch, tmp_path, step, kl=1e9, frac_reward_zero_std=1.0, loss=0.1)
    assert capsys.readouterr().err == ""


def test_the_last_two_checkpoints_stay_whatever_the_clock_says(tmp_path: Path) -> None:
    import os

    for step in (1, 2, 3):
        os.utime(save(tmp_path, step), (1e9 - step, 1e9 - step))  # the clock runs backwards
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    assert last_good(tmp_path) is None
    two, ten = save(tmp_path, 2), save(tmp_path, 10)
    assert last_good(tmp_path) == ten
    (ten / "adapter_model.safetensors").write_bytes(b"half")
    assert last_good(tmp_path) == two
    (two / "seal.json").write_text("[]")
    assert last_good(tmp_path) is None
    (two / "seal.json").unlink()
    assert last_good(tmp_path) is None, "a checkpoint that was not written to its end"


def test_records_are_rewound(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    rewind(path, 3)
    assert [json.loads(x)["step"] for x in path.read_text().splitlines()] == [1, 2]
    rewind(tmp_path / "none.jsonl", 3)
