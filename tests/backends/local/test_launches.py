"""Launches: machines find each other or stop, as many processes run as were asked for, and whole copies are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from launching import (
    AS_ON_A_GPU,
    FSDP_ON_CPU,
    LAUNCH_FILES,
    accelerate,
    ended,
    figures,
    lines,
    start,
    two_processes,
    weights,
)
from tiny import chain_recipe, save_tiny_model

from adapters.backends.local import sharding
from adapters.environment import LATER, PROCESSES
from adapters.errors import UserError
from adapters.pipeline.check import Hardware, hardware_of

ONE_STEP = [*AS_ON_A_GPU, "stages.0.max_steps=1", "stages.1.max_steps=1", "evaluate=[]"]
LAUNCHED = ("ACCELERATE_DYNAMO_MODE", "ACCELERATE_USE_DEEPSPEED", "CROSS_SIZE", "MASTER_ADDR", "RANK", "WORLD_SIZE")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launches")
    (folder / "chain.yaml").write_text(chain_recipe(folder, save_tiny_model(folder / "tiny-llama")))
    return folder


def machine(number: int, port: int, seconds: int) -> list[str]:
    """The options of machine `number` of two, which here are one."""
    options = f"--num_machines 2 --num_processes 2 --machine_rank {number} --main_process_ip 127.0.0.1"
    return f"{options} --main_process_port {port} --rdzv_conf timeout={seconds}".split()


def launched(kind: str, options: list[str], *overrides: str) -> list[str]:
    config = str(LAUNCH_FILES / f"{kind}.yaml")
    command = [sys.executable, "-m", "adapters", "run", "chain.yaml", "--launch", config]
    return [*command, "--launch-args", " ".join(options), *overrides]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "port"), [("ddp", 29611), ("zero2", 29612), ("zero3", 29613), ("fsdp2", 29614)])
def test_two_machines_train_one_adapter(place: Path, kind: str, port: int) -> None:
    """With a GPU's defaults: 16-bit weights, gradient checkpointing and padded passes."""
    if "zero" in kind:
        pytest.importorskip("deepspeed")
    name = f"name={kind}"
    recipe = [str(FSDP_ON_CPU)] if kind == "fsdp2" else []
    direct = accelerate(str(LAUNCH_FILES / f"{kind}.yaml"), *machine(1, port, 120), *recipe, "chain.yaml")
    command = launched(kind, machine(0, port, 120), *ONE_STEP, name)
    if kind == "fsdp2":  # the command cannot say that this CPU is to be taken for GPUs
        command = accelerate(str(LAUNCH_FILES / "fsdp2.yaml"), *machine(0, port, 120), *recipe, "chain.yaml")
        command += [*ONE_STEP, name]
    machines = [start(c, place, SHARDS=str(place)) for c in (command, [*direct, *ONE_STEP, name])]
    first, second = (ended(m) for m in machines)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr[-2000:] + second.stderr[-2000:]
    assert "2 processes on cpu" in first.stdout
    assert "1-sft" not in second.stdout, "only the first machine speaks"
    if kind == "fsdp2":
        records = [r for rank in (0, 1) for r in lines(place / f"shards-{rank}.jsonl")]
        assert [(r["sharded"], r["share"]) for r in records] == [(28, 0.5)] * 4
    folder = place / "runs" / kind
    rollouts = [lines(folder / "2-grpo" / f"rollouts-{rank}.jsonl") for rank in (0, 1)]
    assert [len(r) for r in rollouts] == [8, 8], "each machine answered half of the step"
    assert not {r["completion"] for r in rollouts[0]} & {r["completion"] for r in rollouts[1]}
    assert figures(folder, "1-sft")["nll_after"] < figures(folder, "1-sft")["nll_before"]
    assert abs(figures(folder, "2-grpo")["first_kl"]) < 0.02
    assert all(bool(tensor.isfinite().all()) for tensor in weights(folder / "2-grpo").values())


@pytest.mark.slow
def test_a_machine_alone_never_trains(place: Path) -> None:
    pytest.importorskip("deepspeed")
    kinds = {"ddp": (0, 29621), "zero3": (1, 29622)}
    alone = [start(launched(k, machine(n, port, 3), f"name={k}-{n}"), place) for k, (n, port) in kinds.items()]
    pdsh = place / "pdsh.yaml"
    pdsh.write_text(Path(two_processes(place, "zero2")).read_text().replace("launcher: standard", "launcher: pdsh"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    alone.append(start(accelerate(str(pdsh), *machine(0, 29623, 3), "chain.yaml", "name=pdsh"), place, PATH=path))
    first, second, third = (ended(a) for a in alone)
    for done, port in ((first, 29621), (second, 29622)):
        assert done.returncode == 2
        assert f"the 2 machines did not find each other at 127.0.0.1:{port}, and nothing was trained" in done.stderr
        assert "Traceback" not in done.stderr
    assert third.returncode != 0
    assert "started this machine alone: set deepspeed_multinode_launcher: standard" in third.stderr
    assert not any((place / "runs" / name).exists() for name in ("ddp-0", "zero3-1", "pdsh"))


@pytest.mark.slow
def test_one_process_instead_of_two_and_whole_copies_are_refused(place: Path) -> None:
    old = place / "old.yaml"
    old.write_text(Path(two_processes(place, "cpu")).read_text().replace("MULTI_GPU", "MULTI_CPU\nuse_cpu: true"))
    one = start(accelerate(str(old), "chain.yaml", "--dry-run"), place)
    whole = start(launched("fsdp2", ["--num_processes", "2"], "name=whole", *ONE_STEP), place)
    refused = ended(one)
    assert refused.returncode != 0
    assert "accelerate launch was asked for several processes and started one" in refused.stderr
    copies = ended(whole)
    assert copies.returncode == 2, copies.stderr
    assert "the launch asks for FSDP, and accelerate trains whole copies on this device (cpu)" in copies.stderr
    assert not list((place / "runs" / "whole").glob("1-sft*/trainer/checkpoint-*"))


def state(processes: int) -> SimpleNamespace:
    return SimpleNamespace(num_processes=processes)


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({PROCESSES: "4"}, "asked for 4 processes, and 2 run together"),
        ({"WORLD_SIZE": "8"}, "asked for 8 processes, and 2 run together"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "CROSS_SIZE": "1"}, "started this machine alone"),
    ],
)
def test_missing_processes_are_counted(env: dict, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (PROCESSES, *LAUNCHED):
        monkeypatch.delenv(name, raising=False)
    sharding.check_processes(state(1))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=text):
        sharding.check_processes(state(2))
    monkeypatch.delenv("CROSS_SIZE", raising=False)
    sharding.check_processes(state(8))


def test_one_process_that_sees_several_gpus_is_refused_before_anything_is_read(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters.backends import backend
    from adapters.pipeline.plan import make_plan
    from adapters.recipe.load import load_recipe

    path = tmp_path / "chain.yaml"
    path.write_text(chain_recipe(tmp_path, tiny_model))
    (tmp_path / "train.jsonl").unlink()
    file = load_recipe(path)
    local = backend(file.recipe)
    monkeypatch.setattr(sharding, "on_gpu", lambda: True)
    monkeypatch.setattr(sharding.torch.accelerator, "device_count", lambda: 4)
    monkeypatch.delenv(PROCESSES, raising=False)
    with pytest.raises(UserError, match=r"sees 4 GPUs .*--launch recipes/accelerate/ddp.yaml.*CUDA_VISIBLE_DEVICES=0"):
        make_plan(file, local)
    sharding.check_devices(state(4))
    monkeypatch.setenv(PROCESSES, LATER)
    sharding.check_devices(state(1))
    monkeypatch.delenv(PROCESSES)
    monkeypatch.setattr(sharding.torch.accelerator, "device_count", lambda: 1)
    sharding.check_devices(state(1))


def environment(kind: str, *options: str) -> tuple[list[str] | None, dict[str, str]]:
    """The command of another launcher, if accelerate hands over to one, and the environment of the processes."""
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    config = ["--config_file", str(LAUNCH_FILES / f"{kind}.yaml"), "--main_process_port", "0"]
    args = launch.launch_command_parser().parse_args([*config, *options, "recipe.yaml"])
    args, *_ = launch._validate_launch_command(args)
    if not args.use_deepspeed:
        return None, prepare_multi_gpu_env(args)
    args.deepspeed_fields_from_accelerate_config = ""
    return prepare_deepspeed_cmd_env(args)


@pytest.mark.parametrize("path", sorted(LAUNCH_FILES.glob("*.yaml")), ids=lambda p: p.stem)
def test_launch_files_are_what_accelerate_and_this_project_ask_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = ["--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "127.0.0.1"]
    other, env = environment(path.stem, *several)
    assert other is None, "each machine is started by torch's launcher, which waits for the others"
    for name in [n for n in os.environ if n.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sharding.importlib.util, "find_spec", lambda name: object())
    assert sharding.check_launch() == (path.stem if path.stem in ("zero2", "zero3", "fsdp2") else None)
    assert hardware_of(None, path).zero == {"zero2": 2, "zero3": 3, "fsdp2": 3}.get(path.stem, 0)
    if path.stem == "cpu":
        assert env["CUDA_VISIBLE_DEVICES"] == "-1,-1"


def test_memory_is_planned_for_the_processes_of_a_launch_file() -> None:
    assert hardware_of("80GB", LAUNCH_FILES / "zero3.yaml") == Hardware(80e9, 8, 3)


@pytest.mark.parametrize("setting", sharding.FSDP)
def test_fsdp_settings_that_would_break_an_adapter_are_named(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for name, (value, _) in sharding.FSDP.items():
        monkeypatch.setenv(name.upper(), value)
    assert sharding.check_launch() == "fsdp2"
    monkeypatch.setenv(setting.upper(), "1")
    with pytest.raises(UserError, match=f"FSDP needs {setting}: {sharding.FSDP[setting][0]}"):
        sharding.check_launch()


def test_weights_that_stay_whole_stop_a_sharded_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    monkeypatch.setattr(sharding, "check_launch", lambda: "zero3")
    with pytest.raises(UserError, match="the launch asks for zero3, and 2 of 2 weights are not sharded"):
        sharding.prepared(nn.Linear(2, 2))
    monkeypatch.setattr(sharding, "check_launch", lambda: "zero2")
    sharding.prepared(nn.Linear(2, 2))


def test_the_slurm_script_is_one_that_bash_and_accelerate_understand(tmp_path: Path) -> None:
    from accelerate.commands.launch import launch_command_parser

    page = (LAUNCH_FILES.parents[1] / "docs" / "slurm.md").read_text()
    script = tmp_path / "train.sbatch"
    script.write_text(page.split('```bash title="train.sbatch"\n')[1].split("```")[0])
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    tools = tmp_path / "bin"
    tools.mkdir()
    # `srun` runs its command once a machine; `accelerate` says what it was given.
    fakes = {
        "scontrol": "echo first; echo second",
        "accelerate": 'printf "%s\\n" "$@" > "given-$SLURM_NODEID"',
        "srun": 'while [[ $1 == -* ]]; do shift; done; for n in 0 1; do SLURM_NODEID=$n "$@" || exit; done',
    }
    for name, text in fakes.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_NODELIST": "a[1-2]"}
    env |= {"SLURM_JOB_ID": "4711", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_SUBMIT_DIR": str(tmp_path)}
    done = subprocess.run(["bash", str(script)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for number in (0, 1):
        words = (tmp_path / f"given-{number}").read_text().splitlines()
        assert words[0] == "launch"
        args = launch_command_parser().parse_args(words[1:])
        assert (args.num_machines, args.num_processes, args.machine_rank) == (2, 16, number)
        assert args.main_process_ip == "first"
        assert args.training_script == "recipe.yaml"
        assert (LAUNCH_FILES.parents[1] / args.config_file).is_file()
