"""Check of a recipe before training: plan, lengths, prompts, data, memory and rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adapters import console
from adapters.backends.jobs import Backend
from adapters.backends.memory import GB, StagePlan
from adapters.data.examples import prompt_key
from adapters.data.on_disk import Joined, collect, take
from adapters.data.text_keys import text_hash
from adapters.errors import KeyPath, UserError
from adapters.pipeline import ledger, rl_rows, selecting, start_rows
from adapters.pipeline.evaluations import leakage
from adapters.pipeline.plan import Plan, check_dropped_share, check_first, cost_notes, make_plan
from adapters.pipeline.run import ready
from adapters.plugins import source_files
from adapters.plugins.reward_bench import RewardTest, try_reward
from adapters.recipe.load import RecipeFile
from adapters.types import Difference, Example

BENCH_ROWS = 60
BENCH_SECONDS = 30.0


@dataclass(frozen=True)
class Hardware:
    """What memory is planned for. `device`: bytes of another GPU; None: this machine's."""

    device: float | None = None
    world: int = 1
    zero: int = 0
    machines: int = 1


@dataclass
class Checked:
    """Result of a check. With `errors` a run would fail; the user weighs the `warnings`."""

    plugins: list[source_files.PluginFiles]
    plan: Plan | None = None
    lengths: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    prompts: dict[str, Any] = field(default_factory=dict)
    parity: list[Difference] = field(default_factory=list)
    ledger: dict[str, Any] = field(default_factory=dict)
    memory: list[StagePlan] = field(default_factory=list)
    rewards: dict[str, RewardTest] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        """What is wrong, and what is odd."""
        return f"Checked(errors={self.errors}, warnings={self.warnings})"

    def as_json(self) -> dict[str, Any]:
        """The result as JSON."""
        plain = {n: getattr(self, n) for n in ("errors", "warnings", "notes", "lengths", "prompts", "ledger")}
        return plain | {
            "plugins": [p.as_json() for p in self.plugins],
            "parity": [asdict(d) for d in self.parity],
            "memory": [m.as_json() for m in self.memory],
            "rewards": {name: asdict(b) for name, b in self.rewards.items()},
        }


def first_faults(file: RecipeFile, plugins: list[source_files.PluginFiles]) -> Checked | None:
    """The result where the recipe fails before any library is needed; see `plan.check_first`."""
    out = Checked(plugins)
    _try(out, file, lambda: check_first(file))
    return out if out.errors else None


def check_recipe(
    file: RecipeFile,
    backend: Backend,
    plugins: list[source_files.PluginFiles],
    hardware: Hardware,
    ask_hub: Callable[[RecipeFile], str | None],
    ask_publish: Callable[[Plan], tuple[list[UserError], list[str]]],
) -> Checked:
    """Plan and check.

    `ask_hub` asks whether the bundle may be pushed: a warning, None or UserError. `ask_publish` asks what a publication
    will need: why it would be refused, and notes.
    """
    out = Checked(plugins)
    out.parity = getattr(backend, "parity", list)()
    try:
        out.plan = plan = make_plan(file, backend, estimate=False)
    except UserError as error:
        out.errors.append(file.locate(error))
        return out
    # The ledger's findings count leakage too, with near duplicates.
    out.notes = [note for note in plan.notes if note not in leakage(plan.evaluations)]
    out.lengths = {part.name: part.lengths for part in plan.stages_and_tests if part.lengths}
    _try(out, file, lambda: check_dropped_share(plan))
    _try(out, file, lambda: out.notes.extend(cost_notes(backend, plan.jobs, plan.evaluations, certain=True)))
    earlier, notes = start_rows.read(plan, backend)
    out.notes += notes
    console.phase("looking for duplicates")
    out.ledger = ledger.of_plan(plan, earlier)
    out.warnings += ledger.findings(out.ledger)
    out.notes += filter(None, [ledger.unread(out.ledger)])
    odd = _labels(plan)
    odd += rl_rows.findings(plan.task, plan.jobs, plan.evaluations, earlier)
    odd += selecting.findings(plan.jobs, earlier)
    out.warnings += [file.locate(UserError(sentence, at=at)) for sentence, at in odd]
    _try(out, file, lambda: _prompts(out, backend, plan))
    _try(out, file, lambda: _memory(out, backend, plan, hardware))
    _try(out, file, lambda: out.notes.extend(ready(plan, backend)))
    _rewards(out, plan)
    refusals, notes = ask_publish(plan)
    out.errors += map(file.locate, refusals)
    out.notes += notes
    console.phase("asking the Hub")
    _try(out, file, lambda: out.warnings.append(ask_hub(file) or ""))
    out.warnings = list(dict.fromkeys(filter(None, out.warnings)))
    return out


def _try(out: Checked, file: RecipeFile, part: Any) -> None:
    try:
        part()
    except UserError as error:
        out.errors.append(file.locate(error))


def _labels(plan: Plan) -> list[tuple[str, KeyPath]]:
    """What the task finds odd about the labels of the training rows, and the key that it is about."""
    find = getattr(plan.task, "findings", None)
    if find is None:
        return []
    golds = collect(example.gold for job in plan.jobs for example in job.examples if example.gold is not None)
    return [(sentence, ("task", *at) if at else ()) for sentence, at in find(golds)]


def _prompts(out: Checked, backend: Backend, plan: Plan) -> None:
    audit = getattr(backend, "audit", None)
    if audit is None:
        out.notes.append(f"prompts and memory not audited: {plan.recipe.trainer} renders and trains elsewhere")
        return
    console.phase("comparing prompts")
    examples = Joined([job.examples for job in plan.jobs])
    out.prompts = prompts = audit(examples, [job.stage.method for job in plan.jobs])
    out.errors += prompts["errors"]
    out.warnings += prompts["warnings"]
    if count := prompts["end_token_lost"]:
        out.errors.append(f"{count} of {prompts['looked_at']} targets lose their end token")
    if count := prompts["changed_by_tokenizer"]:
        out.warnings.append(
            f"{count} of {prompts['looked_at']} gold texts do not come back from the tokenizer as they were (composed "
            "accents, blanks, unknown characters): the model cannot write them. Scorers take canonically equal Unicode "
            "for the same text (funding: scorer: corrected)"
        )
    if count := prompts["special_in_target"]:
        out.errors.append(f"{count} targets contain a special token as text; it would end the answer")
    if count := prompts["special_in_prompt"]:
        out.warnings.append(f"{count} texts contain a special token, which the model reads as such")


def _memory(out: Checked, backend: Backend, plan: Plan, hardware: Hardware) -> None:
    memory = getattr(backend, "memory", None)
    if memory is None:
        return
    console.phase("planning memory")
    try:
        out.memory = memory(plan.jobs, plan.evaluations, **asdict(hardware))
    except UserError as error:
        out.warnings.append(f"memory not planned: {error}")
        return
    out.notes += dict.fromkeys(f"memory: {stage.note}" for stage in out.memory if stage.note)
    if hardware.device is not None:
        out.notes += [note for note in getattr(backend, "on_fallback", list)() if note not in out.notes]
    for stage in out.memory:
        if not stage.fits:
            have = (stage.available or 0) / GB
            out.errors.append(f"{stage.name} needs {stage.peak / GB:.2f} GB of {have:.2f} GB: {stage.advice}")


def _rewards(out: Checked, plan: Plan) -> None:
    console.phase("trying the rewards")
    for job in plan.jobs:
        rows = _spread(job.examples)
        for reward in job.rewards:
            name = f"{job.name}/{reward.name}"
            try:
                limit = reward.faults.timeout or 10.0
                result = try_reward(reward, rows, plan.task, limit=limit, seconds=BENCH_SECONDS)
            except ValueError as error:
                out.warnings.append(f"{name} not tried: {error}")
                continue
            out.rewards[name] = result
            out.errors += [f"{name}: {e}" for e in result.errors]
            out.notes += [f"{name}: {text}" for text in result.left_out]
            out.warnings += [f"{name}: {w}" for w in result.warnings]


def _spread(examples: Sequence[Example]) -> list[Example]:
    hashes = np.fromiter((text_hash(prompt_key(e)) for e in examples), dtype=np.uint64)
    _, first = np.unique(hashes, return_index=True)
    _, last = np.unique(hashes[::-1], return_index=True)
    unique = (len(hashes) - 1 - last)[np.argsort(first)]  # the last of each, in the order of the first
    return list(take(examples, unique[:: max(1, len(unique) // BENCH_ROWS)][:BENCH_ROWS]))


def hardware_of(device: str | None, launch: Path | None) -> Hardware:
    """What `--device` and `--launch` say. Raises UserError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from adapters.backends.memory import parse_size

    world, zero, machines = 1, 0, 1
    if launch is not None:
        try:
            config = YAML(typ="safe", pure=True).load(launch.read_text(encoding="utf-8")) or {}
            world = int(config.get("num_processes", 1))
            machines = int(config.get("num_machines", 1))
            zero = int((config.get("deepspeed_config") or {}).get("zero_stage", 0))
            zero = 3 if config.get("fsdp_config") else zero  # FSDP shards what ZeRO-3 does
        except (OSError, YAMLError, ValueError, AttributeError) as error:
            raise UserError(f"{launch}: cannot be read as an accelerate config file: {error}") from None
    return Hardware(parse_size(device, UserError) if device else None, world, zero, machines)
