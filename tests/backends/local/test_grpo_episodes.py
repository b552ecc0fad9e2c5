"""Episodes of an environment in GRPO, with TRL's trainer: what is sampled, shown, learned, logged, and resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from launching import FSDP_ON_CPU, accelerate, lines, run, two_processes
from tiny import funding_rows, save_lively_model, write_jsonl

from adapters.backends import backend as make_backend
from adapters.errors import UserError
from adapters.pipeline.plan import make_plan
from adapters.plugins.attempts import RewardError
from adapters.recipe.load import load_recipe

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from trl import GRPOTrainer  # noqa: E402

from adapters.backends.local import vllm_sampling  # noqa: E402

RECIPE = """name: played
task: {use: funding, target: compact, system: Extract., user: "{statement}"}
model: {base: BASE, precision: fp32}
lora: {rank: 4, alpha: 8}
stages:
  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 2
    group_size: 4
    micro_batch_size: 4
    max_steps: 4
    save_every: 2
    learning_rate: 3e-2
    environment: {use: "./game.py:Game", max_turns: 4, max_turn_length: 6}
    max_completion_length: 160
"""
GAME = '''
import random
from pathlib import Path

class Game:
    """Asks for letters two to four times; the row's length and the seed say how often."""
    def reset(self, row, seed):
        self.rng = random.Random(seed)
        self.left = 2 + self.rng.randrange(LONGER)
        self.all = self.left
        return f"{self.left} letters, please, {row['id']}!"
    def step(self, text):
        if Path(__file__).with_name("armed").exists():
            raise KeyError("x")
        self.left -= 1
        reward = sum(c.isascii() and c.isalpha() for c in text) / (len(text) + 1) / self.all
        return (f"Noch {self.left} fuer {self.rng.randrange(100)}" if self.left else None), reward
'''


class Stop(Exception):
    """The process ends here."""


class Run:
    """A stage in a folder of its own; trains again from where it is."""

    def __init__(self, folder: Path, base: Path, *overrides: str, longer: int = 2) -> None:
        folder.mkdir()
        write_jsonl(folder / "train.jsonl", funding_rows(11))
        (folder / "game.py").write_text(GAME.replace("LONGER", str(longer)))
        (folder / "r.yaml").write_text(RECIPE.replace("BASE", str(base)))
        file = load_recipe(folder / "r.yaml", overrides)
        self.backend = make_backend(file.recipe)
        self.job = make_plan(file, self.backend).jobs[0]
        self.out = folder / "out"
        self.out.mkdir()

    def train(self, stop_after: int | None = None) -> Mapping[str, Any]:
        def progress(done: int, total: int, figures: Mapping[str, float]) -> None:
            if done == stop_after:
                raise Stop

        return self.backend.train(self.job, None, self.out, progress)

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / name).read_text().splitlines()]


class Seen:
    """What TRL's trainer samples in every turn, and what reaches its loss."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[int]] = []
        self.sampled: list[list[int]] = []
        self.batches: list[dict[str, Any]] = []
        sample, loss = GRPOTrainer._generate_single_turn, GRPOTrainer._compute_loss

        def generate(trainer: Any, prompts: Sequence[list[int]], *rest: Any) -> Any:
            answers, logprobs = sample(trainer, prompts, *rest)
            self.asked += prompts
            self.sampled += answers
            return answers, logprobs

        def compute(trainer: Any, model: Any, inputs: dict[str, Any]) -> Any:
            self.batches.append({k: v.clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)})
            return loss(trainer, model, inputs)

        monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", generate)
        monkeypatch.setattr(GRPOTrainer, "_compute_loss", compute)

    def rows(self) -> list[tuple[list[int], list[int], list[int]]]:
        """Prompt, completion and the completion's places in the loss, of every row."""
        out = []
        for b in self.batches:
            for n in range(len(b["completion_ids"])):
                kept = b["completion_mask"][n].bool()
                prompt = b["prompt_ids"][n][b["prompt_mask"][n].bool()].tolist()
                in_loss = (b["completion_mask"] * b["tool_mask"])[n][kept].tolist()
                out.append((prompt, b["completion_ids"][n][kept].tolist(), in_loss))
        return out


@pytest.mark.slow
@pytest.mark.parametrize("speedups", ["true", "false"])
def test_exactly_the_sampled_tokens_are_learned(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speedups: str
) -> None:
    seen = Seen(monkeypatch)
    run = Run(tmp_path / "a", save_lively_model(tiny_model, tmp_path / "m"), f"model.speedups={speedups}")
    run.train()
    rows, tokenizer = seen.rows(), run.backend.encoder.tokenizer
    assert len(rows) == 4 * 2 * 4
    learned = [[t for t, one in zip(c, mask, strict=True) if one] for _, c, mask in rows]
    assert sum(map(len, learned)) == sum(map(len, seen.sampled)), "as many tokens in the loss as were sampled"
    played = sorted(t for answer in seen.sampled for t in answer)
    assert sorted(t for row in learned for t in row) == played, "and the same ones"
    shown = sorted(map(tuple, seen.asked))
    for prompt, completion, mask in rows:
        text = tokenizer.decode(completion)
        masked = tokenizer.decode([t for t, one in zip(completion, mask, strict=True) if not one])
        turns = 1 + masked.count("Noch")
        assert 2 <= turns <= 3
        assert masked.count("<|im_start|>user\nNoch") == masked.count("<|im_start|>assistant\n<think>") == turns - 1
        assert mask[0] == mask[-1] == 1, "it begins and ends with what was sampled"
        # Each turn was sampled behind exactly what the loss shows before it.
        starts = [n for n in range(len(mask)) if mask[n] and (n == 0 or not mask[n - 1])]
        assert len(starts) == turns
        assert all(tuple(prompt + completion[:n]) in shown for n in starts)
        assert text.count("<|im_end|>") >= 2 * (turns - 1), "every turn is closed, also one that was cut"
    prompts = {tuple(prompt) for prompt, _, _ in rows}
    assert all("letters, please" in tokenizer.decode(list(prompt)) for prompt in prompts)
    assert len(prompts) == 4 * 2, "the episodes of a group have one first prompt"


@pytest.mark.slow
def test_held_out_episodes_are_measured_and_the_best_state_is_kept(tiny_model: Path, tmp_path: Path) -> None:
    settings = ("stages.0.select={metric: reward, every: 2}", "stages.0.validation=0.4")
    run = Run(tmp_path / "a", save_lively_model(tiny_model, tmp_path / "m"), *settings)
    chosen = run.train()["select"]
    measured = run.lines("held_out.jsonl")
    assert [m["step"] for m in measured] == [0, 2, 4]
    assert chosen["rows"] == len(measured[0]["rows"]) == 4
    assert all(0 <= reward <= 1 and n == 1 for m in measured for reward, n in m["rows"])
    assert chosen["value"] == max(m["value"] for m in measured)
    # The adapter that was written plays as it was measured.
    selected = run.job.select
    assert selected is not None
    rows = selected.judge.rows(selected.texts(run.backend.sampler(run.out)))
    assert rows == next(m["rows"] for m in measured if m["step"] == chosen["step"])
    # Keys and values that are kept between the turns change nothing.
    slow = load_recipe(tmp_path / "a" / "r.yaml", [*settings, "model.speedups=false"])
    again = selected.judge.rows(selected.texts(make_backend(slow.recipe).sampler(run.out)))
    assert again == rows


def test_episodes_are_measured_by_their_reward_only(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which select measures by their reward: metric: reward"):
        Run(tmp_path / "a", Path("none"), "stages.0.select={metric: f1}")


@pytest.mark.slow
def test_rollouts_are_logged_with_their_turns_and_a_killed_stage_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    lively = save_lively_model(tiny_model, tmp_path / "m")
    whole = Run(tmp_path / "whole", lively)
    figures = whole.train()
    assert figures["steps"] == 4
    assert "ref" not in figures
    lines = whole.lines("rollouts-0.jsonl")
    assert len(lines) == 4 * 2 * 4
    records = [json.loads(line["completion"]) for line in lines]
    for line, record in zip(lines, records, strict=True):
        assert line["reward"] == "Game"
        assert line["score"] == pytest.approx(sum(turn["reward"] for turn in record["turns"]))
        assert record["ended"] == "environment"
        assert len(record["turns"]) == int(record["opening"][0]) == line["parts"]["turns"]
        assert [turn["observation"] is None for turn in record["turns"]][-1]
    assert len({record["seed"] for record in records}) == 4 * 2
    logged = whole.lines("log.jsonl")
    assert all(2 <= entry["parts/Game/turns"] <= 3 for entry in logged if "reward" in entry)
    killed = Run(tmp_path / "killed", lively)
    with pytest.raises(Stop):
        killed.train(stop_after=3)
    killed.train()
    assert killed.lines("rollouts-0.jsonl") == lines
    a, b = (load_file(run.out / "adapter_model.safetensors") for run in (whole, killed))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_limits_end_episodes_and_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    lively = save_lively_model(tiny_model, tmp_path / "m")
    endless = Run(tmp_path / "endless", lively, "stages.0.max_steps=1", longer=100)
    endless.train()
    [entry] = [e for e in endless.lines("log.jsonl") if "reward" in e]
    assert entry["parts/Game/endless"] == 1
    assert entry["parts/Game/turns"] == 4
    short = ["stages.0.max_steps=1", "stages.0.max_completion_length=40", "stages.0.flat_groups=leave_out"]
    cut = Run(tmp_path / "cut", lively, *short, longer=100)
    assert len(cut.job.examples) == 11, "no row is dropped for the length of a gold answer"
    cut.train()
    [entry] = [e for e in cut.lines("log.jsonl") if "reward" in e]
    assert entry["parts/Game/cut"] == 1
    assert entry["completions/max_length"] <= 40


@pytest.mark.slow
def test_flat_groups_are_replaced_with_their_episodes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    lively = save_lively_model(tiny_model, tmp_path / "m")
    # Every other group is flat, so that about half of them are replaced.
    options = ["stages.0.flat_groups=replace", "stages.0.flat_below=0.55", "stages.0.max_steps=2"]
    run = Run(tmp_path / "a", lively, *options, "stages.0.save_every=1")
    run.train()
    assert sum(e.get("flat_groups/rounds", 0) for e in run.lines("log.jsonl")) > 0
    shown = set(map(tuple, seen.asked))
    for prompt, completion, mask in seen.rows():
        assert len(completion) == len(mask)
        starts = [n for n in range(len(mask)) if mask[n] and (n == 0 or not mask[n - 1])]
        assert all(tuple(prompt + completion[:n]) in shown for n in starts), "mask and tokens are of one episode"


@pytest.mark.slow
def test_a_failing_environment_is_one_sentence(tiny_model: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "a", tiny_model, "stages.0.max_steps=1")
    (tmp_path / "a/armed").touch()
    with pytest.raises(
        RewardError, match=r"^the environment Game failed in step, turn \d: KeyError: 'x'; row 'r\d+', "
    ):
        run.train()


def test_a_reply_stands_as_the_template_writes_it(tiny_model: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "a", tiny_model)
    encoder = run.backend.encoder
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    whole = encoder.prompts([[*history, {"role": "user", "content": "c"}]])[0]
    reply = encoder.reply("c", ended=True)
    assert whole[-len(reply) :] == reply
    assert encoder.reply("c", ended=False) == [encoder.end, *reply]
    assert encoder.tokenizer.decode(whole[: -len(reply)]).endswith("b<|im_end|>")
    assert "played without vLLM" in str(vllm_sampling.obstacle(run.job, "colocate", None, None, "cuda"))
    [note] = run.backend.ready([run.job])
    assert "writes earlier turns in another way than it asks for them" in note, "without the empty thought"
    encoder.tokenizer.chat_template = encoder.tokenizer.chat_template.replace("not enable_thinking", "false")
    assert encoder.keeps_turns()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_processes_wait_for_each_others_episodes(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    """Each process plays a group, and the groups have different numbers of turns."""
    alone = Run(tmp_path / "a", save_lively_model(tiny_model, tmp_path / "m"), longer=3)
    folder, options = tmp_path / "a", [f"run_dir={tmp_path}/runs", "stages.0.max_steps=2", "model.speedups=false"]
    options.append('evaluate=[{name: test, data: [{path: train.jsonl}], environment: "./game.py:Game"}]')
    program = [str(FSDP_ON_CPU)] if kind == "fsdp2" else ["-m", "adapters", "run"]
    command = [*accelerate(two_processes(tmp_path, kind), *program, "r.yaml"), *options]
    done = run(command, folder, SHARDS=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    stage = tmp_path / "runs/played/1-grpo"
    turns = []
    for rank in (0, 1):
        played = [json.loads(line["completion"]) for line in lines(stage / f"rollouts-{rank}.jsonl")]
        assert len(played) == 2 * 4
        turns.append([len(record["turns"]) for record in played[::4]])
        assert all(len(record["turns"]) == int(record["opening"][0]) for record in played)
    assert turns[0] != turns[1], "one process waited for the other"
    samples = lines(tmp_path / "runs/played/eval/1-grpo/test/samples.jsonl")
    assert [sample["id"] for sample in samples] == [example.id for example in alone.job.examples]
