"""Kill a run at many moments, start it again each time, and compare what it makes with a run that nobody killed.

    python tests/kill_campaign.py --kills 40

The chain is `adapters run` (SFT, GRPO, DPO, evaluation) and `adapters publish` (bundle, gate, push to a Hub on
loopback) of a tiny random model on the CPU. Each round kills it three times: while it writes a checkpoint, evaluates,
makes the bundle or pushes, whichever was hit least; then at a moment of the uninterrupted run's wall time (the rounds
share that time out); then again at one of the former that still lies ahead. A kill is SIGKILL or SIGTERM to the whole
process group. Prints what was under way at each kill, and exits with 1 when a weight differs in one bit, a record is
lost or doubled, or the Hub has more than one commit.

Starting means importing torch, which takes longer than the chain; so one process imports it once, and every start is a
fork of it. Only the gate's processes are started anew, as they always are.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub_server import HubServer
from tiny import chain_recipe, funding_rows, save_tiny_model, write_jsonl

REPO = "me/funding-tiny"
STEPS = ["stages.0.max_steps=6", "stages.0.save_every=2", "stages.1.max_steps=4", "stages.1.save_every=1"]
DPO = """\
  - kind: dpo
    data: [{path: pairs.jsonl}]
    batch_size: 4
    max_steps: 4
    save_every: 1
    learning_rate: 5e-3
    validation: 0.2
evaluate:
"""
STAGES = ("1-sft", "2-grpo", "3-dpo")
AIMS = (*(f"{stage}: checkpoint" for stage in STAGES), "evaluation", "bundle", "push")
"""What kills are aimed at, in the order of the chain."""
KILLS_A_ROUND = 3
CHECKPOINTS = {"1-sft": 3, "2-grpo": 4, "3-dpo": 4}
POLL = 0.002
LONGEST = 1800
"""Seconds after which a start is taken to hang."""

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["adapters.cli.main", "adapters.backends.local", "adapters.publish.release"])


def chain(folder: str, runs: str, publish: bool) -> None:
    """What a person would type, as the leader of a process group: run it, and when that went well publish it."""
    os.setsid()
    out = os.open(f"{runs}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    commands = [["run", f"{folder}/chain.yaml", f"run_dir={runs}", *STEPS]]
    if publish:
        commands.append(["publish", f"{runs}/chain", "--repo", REPO, "publish.base_model=tests/tiny-llama"])
    for command in commands:
        if not (pid := os.fork()):
            code: Any = 1
            try:
                from adapters.cli.main import app

                app(command, prog_name="adapters")
            except SystemExit as end:
                code = end.code or 0
            finally:
                sys.stdout.flush()
                os._exit(code if isinstance(code, int) else 1)
        if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            os._exit(code if code > 0 else 1)


@dataclass
class Chain:
    """One start of the chain, watched from outside."""

    work: Path
    runs: Path
    publish: bool
    since: int = field(default_factory=time.time_ns)

    def __post_init__(self) -> None:
        self.process = FORKS.Process(target=chain, args=(str(self.work), str(self.runs), self.publish))
        self.process.start()

    def under_way(self) -> str:
        """What the run folder shows to be in progress; files that an earlier start left say nothing about this one."""
        run = self.runs / "chain"
        try:
            if not self._written(run / "recipe.json"):
                return "planning"
            for partial in run.glob("*.partial"):
                checkpoints = list(partial.glob("trainer/checkpoint-*"))
                if any(not (c / "seal.json").is_file() for c in checkpoints):
                    return f"{partial.stem}: checkpoint"
                return f"{partial.stem}: {'training' if checkpoints else 'first steps'}"
            if not self._written(run / "report.json"):
                return "evaluation" if (run / STAGES[-1]).is_dir() else "between stages"
            if (run / "publish" / "bundle.partial").is_dir():
                return "bundle"
            return "push" if (run / "publish" / "proof.json").is_file() else "report"
        except OSError:  # renamed while we looked
            return "between stages"

    def _written(self, path: Path) -> bool:
        return path.is_file() and path.stat().st_mtime_ns >= self.since

    def watch(self, until: float, aim: str | None = None, delay: float = 0.0) -> dict[str, float]:
        """Wait until it ends, until a moment, or until `delay` after the phase `aim` has begun.

        Returns the seconds spent in each phase.
        """
        spent: dict[str, float] = collections.defaultdict(float)
        last = began = time.monotonic()
        while self.process.exitcode is None and last < until:
            if last - began > LONGEST:
                raise RuntimeError(f"hangs in {self.under_way()}; see {self.runs}.out")
            phase = self.under_way()
            if phase == aim:
                aim, until = None, last + delay
            time.sleep(min(POLL, max(0.0, until - last)))
            now = time.monotonic()
            spent[phase] += now - last
            last = now
        return spent

    def kill(self, how: signal.Signals) -> bool:
        """Kill the process group; False when it had ended by itself."""
        if self.process.exitcode is not None:
            return False
        try:
            os.killpg(self.process.pid or 0, how)
        except ProcessLookupError:  # so early that it leads no group yet
            os.kill(self.process.pid or 0, how)
        self.process.join()
        while self._lives():  # the leader is dead; the others may still be dying
            time.sleep(POLL)
        return True

    def _lives(self) -> bool:
        try:
            os.killpg(self.process.pid or 0, 0)
        except ProcessLookupError:
            return False
        return True


def progress(run: Path) -> tuple[str, int, int] | None:
    """A dead run's unfinished stage, its last step on record, and the last checkpoint that it will go on from."""
    for partial in run.glob("*.partial"):
        log = partial / "log.jsonl"
        lines = log.read_text().splitlines() if log.is_file() else []
        done = max((json.loads(x)["step"] for x in lines if x.endswith("}")), default=0)
        sealed = [int(p.parent.name.rpartition("-")[2]) for p in partial.glob("trainer/*/seal.json")]
        return partial.stem, done, max(sealed, default=0)
    return None


def record(run: Path, hub: HubServer | None) -> dict[str, object]:
    """Everything that must not depend on the kills. What was measured by the clock does."""
    out: dict[str, object] = {}
    for stage in STAGES:
        manifest = json.loads((run / stage / "manifest.json").read_text())
        out[f"{stage} weights"] = manifest["files"]["adapter_model.safetensors"]
        out[f"{stage} figures"] = manifest["figures"]
        for log in sorted((run / stage).glob("*.jsonl")):
            rows = [json.loads(line) for line in log.read_text().splitlines()]
            keys = ("step", "id", "reward", "score", "completion", "loss", "rewards/margins")
            out[f"{stage} {log.name}"] = [{k: r[k] for k in keys if k in r} for r in rows if "train_runtime" not in r]
    for file in sorted(run.glob("eval/*/*/*")):
        out[str(file.relative_to(run))] = file.read_text()
    out["report.json"] = _untimed(json.loads((run / "report.json").read_text()))
    if hub is None:
        return out
    repo = hub.repos[REPO]
    out["commits, tags"] = len(repo.commits) - 1, len(repo.tags), list(repo.tags.values()) == [repo.sha()]
    bundle = run / "publish" / "bundle"
    for file in sorted(p for p in bundle.rglob("*") if p.is_file()):
        name = file.relative_to(bundle).as_posix()
        content: Any = file.read_bytes()
        out[f"{name} is on the Hub"] = repo.files.get(name) == content
        if name == "README.md":
            content = re.sub(r"; [\d.]+ minutes(, [\d.]+ GB( \(host [\d.]+ GB\))? at peak)?", "", content.decode())
        elif name == "results.json":
            content = _untimed(json.loads(content))
        out[f"bundle/{name}"] = content
    return out


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: _untimed(v) for k, v in value.items() if k not in ("seconds", "peak_memory_gb", "peak_host_memory_gb")
        }
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-publish", action="store_true", help="end the chain after the evaluation: much quicker")
    parser.add_argument("--keep", action="store_true", help="leave the work folder")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="kill-campaign-"))
    (work / "chain.yaml").write_text(chain_recipe(work, work / "tiny-llama").replace("evaluate:\n", DPO))
    write_jsonl(work / "pairs.jsonl", [{**row, "rejected": "Sure! Here you are."} for row in funding_rows(20)])
    with HubServer() as hub:
        os.environ.pop("HF_HUB_OFFLINE", None)
        os.environ |= {
            "HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(work / "home"), "NO_PROXY": "127.0.0.1",
            "HF_HUB_DISABLE_XET": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false",
            "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "COLUMNS": "120",
            "PYTHONWARNINGS": "ignore:resource_tracker",  # the killed leave semaphores behind
        }  # fmt: skip
        model = FORKS.Process(target=save_tiny_model, args=(work / "tiny-llama",))
        model.start()
        model.join()
        wrong = Campaign(work, None if options.no_publish else hub, random.Random(options.seed)).run(options.kills)
    if options.keep or wrong:
        print(f"kept: {work}")
    else:
        shutil.rmtree(work)
    return int(bool(wrong))


class Campaign:
    """The rounds of kills, and what is counted on the way."""

    def __init__(self, work: Path, hub: HubServer | None, rng: random.Random) -> None:
        self.work, self.hub, self.rng = work, hub, rng
        self.hit: collections.Counter[str] = collections.Counter()
        self.kept = self.repeated = 0

    def run(self, kills: int) -> int:
        """Kill so many times; returns how many rounds came out different."""
        began = time.monotonic()
        spent, self.wanted = self._straight()
        self.whole = sum(spent.values())
        self.lasts = {aim: spent.get(aim, 0.0) / CHECKPOINTS.get(aim.partition(":")[0], 1) for aim in AIMS}
        phases = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in spent.items())
        print(f"the run that nobody kills: {self.whole:.1f} s ({phases})", flush=True)
        planned = -(-kills // KILLS_A_ROUND)
        different: list[str] = []
        rounds = compared = 0
        while self.hit.total() < kills:  # a round that died late has less than three kills
            moment = (rounds % planned + self.rng.random()) / planned * self.whole
            rounds += 1
            problems, count = self._round(rounds, moment, min(KILLS_A_ROUND, kills - self.hit.total()))
            compared += count
            different += [f"round {rounds}: {p}" for p in problems]
        print(f"\n{'under way':24}kills")
        for where, n in sorted(self.hit.items()):
            print(f"{where:24}{n:5}")
        print(f"{'all':24}{self.hit.total():5}, in {rounds} rounds of {self.whole:.0f} s each when nobody kills")
        print(f"steps that kills had cost and were made again: {self.repeated}; kept by checkpoints: {self.kept}")
        print(f"compared: {compared} records (weights, logs, samples, figures, bundle files, commits)")
        print(f"different: {len(different)}{''.join(f'{chr(10)}  {line}' for line in different)}")
        print(f"{(time.monotonic() - began) / 60:.1f} minutes")
        return len({line.partition(":")[0] for line in different})

    def _straight(self) -> tuple[dict[str, float], dict[str, object]]:
        started = Chain(self.work, self.work / "straight", self.hub is not None)
        spent = started.watch(float("inf"))
        if started.process.exitcode:
            raise SystemExit((self.work / "straight.out").read_text())
        return spent, record(self.work / "straight" / "chain", self.hub)

    def _round(self, number: int, moment: float, kills: int) -> tuple[list[str], int]:
        if self.hub is not None:
            self.hub.repos.clear()
            self.hub.lfs.clear()
        runs = self.work / f"round{number}"
        where = "planning"
        for n in range(kills + 1):
            started = Chain(self.work, runs, self.hub is not None)
            aim = self._aim(where)
            if n == kills:
                started.watch(float("inf"))
            elif n == 1:
                started.watch(time.monotonic() + moment)
            else:
                started.watch(float("inf"), aim, self.rng.uniform(0, self.lasts[aim]))
            where = started.under_way()
            how = self.rng.choice((signal.SIGKILL, signal.SIGTERM))
            if not started.kill(how):
                break
            self.hit[where] += 1
            print(f"kill {self.hit.total():3}  {how.name}  {where}{self._lost(runs / 'chain')}", flush=True)
        if code := started.process.exitcode:
            problems, compared = [f"exit code {code}; see {runs}.out"], 0
        else:
            got = record(runs / "chain", self.hub)
            keys = sorted(self.wanted.keys() | got.keys())
            problems, compared = [key for key in keys if self.wanted.get(key) != got.get(key)], len(keys)
        print(f"round {number}: {'DIFFERS: ' + ', '.join(problems) if problems else 'equal'}", flush=True)
        if not problems:
            shutil.rmtree(runs)
        return problems, compared

    def _aim(self, where: str) -> str:
        """What to aim at next: of what still lies ahead, what was hit least."""
        aims = AIMS if self.hub is not None else AIMS[:4]
        now = (
            len(STAGES) + 1 if where == "report" else next((n for n, aim in enumerate(aims) if where[:5] == aim[:5]), 0)
        )
        ahead = aims[min(now, len(aims) - 1) :]
        fewest = min(self.hit[aim] for aim in ahead)
        return self.rng.choice([aim for aim in ahead if self.hit[aim] == fewest])

    def _lost(self, run: Path) -> str:
        """Count and word what a kill costs in steps."""
        held = progress(run)
        if held is None:
            return ""
        stage, done, sealed = held
        self.kept += min(done, sealed)
        self.repeated += max(0, done - sealed)
        return f"; {stage} had made {done} steps, goes on from {sealed}"


if __name__ == "__main__":
    sys.exit(main())
