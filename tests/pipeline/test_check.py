"""`adapters check`: what it finds before anything is trained, and that finding it runs no plug-in."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends.echo import EchoBackend
from adapters.backends.memory import GB, Shape, StandardLayers, Use, advise, components, parse_size, peak
from adapters.cli.main import app
from adapters.data import duplicates
from adapters.data.examples import fold
from adapters.errors import UserError
from adapters.pipeline import ledger
from adapters.pipeline.plan import Plan, make_plan
from adapters.recipe.load import load_recipe
from adapters.rewards.funding import Funding
from adapters.tasks.funding import FundingTask

runner = CliRunner()
RECIPE = """name: mine
task: {use: funding, target: compact}
model: {base: none}
trainer: echo
stages:
  - kind: sft
    data: [{path: train.jsonl, license: cc0-1.0}, {synthesize: funding, n: 20, name: synthetic}]
    learning_rate: 1e-4
    max_length: 1000
  - kind: grpo
    data: [{path: train.jsonl, name: rl}]
    batch_size: 4
    learning_rate: 1e-5
    rewards: [{use: funding, scorer: corrected}]
evaluate:
  - {name: test, data: [{path: test.jsonl}]}
"""


def distinct_rows(n: int, seed: int) -> list[dict]:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnop", k=7)) for _ in range(500)]
    rows = funding_rows(n, f"s{seed}-")
    return [{**row, "funding_statement": " ".join(rng.choices(words, k=25))} for row in rows]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", distinct_rows(30, 1))
    write_jsonl(tmp_path / "test.jsonl", distinct_rows(10, 2))
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return tmp_path / "mine.yaml"


def checked(path: Path, *overrides: str, code: int = 0) -> dict:
    result = runner.invoke(app, ["check", str(path), "--json", *overrides])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


# --- the whole command -------------------------------------------------------------------------------------------


def test_a_sound_recipe(mine: Path) -> None:
    found = checked(mine)
    assert found["errors"] == []
    assert found["rewards"]["2-grpo/funding"]["variants"]["gold"]["mean"] == 1
    assert found["rewards"]["2-grpo/funding"]["variants"]["right id, wrong funder"]["mean"] < 0.5
    lengths = found["lengths"]["1-sft"]
    assert [s["source"] for s in lengths] == ["train", "synthetic"]
    assert lengths[0]["rows"] == lengths[0]["kept"] == 30
    assert lengths[0]["prompt"]["p50"] <= lengths[0]["prompt"]["p99"] <= lengths[0]["prompt"]["max"]
    human = runner.invoke(app, ["check", str(mine)])
    assert human.exit_code == 0
    assert "Ready to run." in human.stdout
    assert "stages.1.rewards.0: funding, built in" in human.stdout
    assert not (mine.parent / "runs").exists(), "a check leaves nothing"


@pytest.mark.slow
def test_rows_lost_to_a_limit_are_an_error_for_check_and_run(mine: Path) -> None:
    found = checked(mine, "stages.0.max_length=100", code=2)
    assert any("stages.0.max_too_long" in e and "max_length" in e for e in found["errors"])
    assert found["lengths"]["1-sft"][0]["dropped"] > 0, "the table is there beside the error"
    run = runner.invoke(app, ["run", str(mine), "stages.0.max_length=100", f"run_dir={mine.parent}/runs"])
    assert run.exit_code == 2
    assert "max_too_long allows 20%" in run.stderr
    assert checked(mine, "stages.0.max_length=100", "stages.0.max_too_long=1")["errors"] == []


def test_mistakes_of_the_recipe_are_errors_of_the_check(mine: Path) -> None:
    found = checked(mine, "stages.1.rewards.0.scorr=corrected", code=2)
    assert "Did you mean scorer" in found["errors"][0]
    assert runner.invoke(app, ["check", str(mine), "--device", "big"]).exit_code == 2


@pytest.mark.slow
def test_a_bad_reward_is_an_error(mine: Path) -> None:
    (mine.parent / "half.py").write_text(
        "def half(completion, example):\n    return 0.5 if completion == example.completion else 0.2\n"
    )
    found = checked(mine, "stages.1.rewards=[./half.py:half]", code=2)
    assert any("gold earns less than 1 on" in e for e in found["errors"])


@pytest.mark.slow
def test_the_right_to_push_is_asked_about_before_the_first_step(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters.publish import hub

    answers: dict[str, Any] = {"me/mine": ["you may not write to me/mine"], "me/good": []}

    def rights(repo: str) -> list[str]:
        if repo not in answers:
            raise hub.HubError("the Hub cannot be reached")
        return answers[repo]

    monkeypatch.setattr(hub, "rights", rights)
    echo = ["trainer=echo", f"run_dir={tmp_path / 'runs'}"]
    refused = checked(mine, "publish={repo: me/mine}", *echo, code=2)
    assert "you may not write to me/mine. To train all the same: publish.repo=null" in refused["errors"][0]
    assert not checked(mine, "publish={repo: me/good}", *echo)["errors"]
    assert not checked(mine, "publish={license: mit}", *echo)["errors"], "without a repository the Hub is not asked"
    assert any("cannot be reached" in w for w in checked(mine, "publish={repo: me/away}", *echo)["warnings"])

    result = runner.invoke(app, ["run", str(mine), *echo, "publish={repo: me/mine}"])
    assert result.exit_code == 2
    assert "you may not write to me/mine" in result.stderr
    assert not list((tmp_path / "runs").glob("*/1-*")), "nothing was trained"
    assert runner.invoke(app, ["run", str(mine), *echo, "publish={repo: me/mine}", "--dry-run"]).exit_code == 0
    away = runner.invoke(app, ["run", str(mine), *echo, "publish={repo: me/away}"])
    assert away.exit_code == 0, away.output
    again = runner.invoke(app, ["run", str(mine), *echo, "publish={repo: me/mine}", "--fresh"])
    assert again.exit_code == 2
    assert [p.name for p in (tmp_path / "runs").iterdir() if not p.name.startswith(".")] == ["mine"], "not set aside"
    assert "warning: whether me/away may be pushed to could not be asked" in " ".join(away.output.split())


# --- plug-ins are code -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_files_are_listed_and_nothing_is_imported(mine: Path) -> None:
    folder = mine.parent
    (folder / "spy.py").write_text(
        f"open({str(folder / 'imported')!r}, 'w').close()\nimport helper_of_spy, json, scipy\n"
        "def spy(completion, example):\n    return float(completion == example.completion)\n"
    )
    (folder / "helper_of_spy.py").write_text("import rapidfuzz\n")
    code = (
        "import sys; from adapters.cli.main import app\n"
        f"try: app(['check', {str(mine)!r}, '--no-import', '--json', 'stages.1.rewards=[./spy.py:spy]'])\n"
        "finally: print(*sorted(m for m in sys.modules if m in ('torch', 'transformers', 'numpy', 'rewards')))\n"
    )
    env = {"PYTHONPATH": str(folder), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    listed, modules = done.stdout.splitlines()
    assert modules == "", "nothing heavy, and no plug-in, was imported"
    [task, reward] = json.loads(listed)["plugins"]
    assert task["built_in"]
    assert [Path(f).name for f in reward["files"]] == ["spy.py", "helper_of_spy.py"]
    assert reward["libraries"] == ["rapidfuzz", "scipy"]
    assert not (folder / "imported").exists()
    missing = runner.invoke(app, ["check", str(mine), "--no-import", "stages.1.rewards=[./nowhere.py:a, nobody]"])
    assert missing.stdout.count("not found") == 2


# --- data --------------------------------------------------------------------------------------------------------


def made(path: Path, *overrides: str) -> Plan:
    file = load_recipe(path, overrides)
    return make_plan(file, EchoBackend(file.recipe))


def test_the_ledger_counts_what_is_there_twice(mine: Path) -> None:
    rows = distinct_rows(30, 1)
    words = [row["funding_statement"].split() for row in rows]
    near = [
        {**row, "id": f"n{n}", "funding_statement": " ".join([*w[:-1], "changed"])}
        for n, (row, w) in enumerate(zip(rows, words, strict=True))
    ]
    again = [{**row, "id": f"again{n}"} for n, row in enumerate(rows[:10])]
    write_jsonl(mine.parent / "train.jsonl", [*rows, *again])
    write_jsonl(mine.parent / "test.jsonl", [*distinct_rows(10, 2), rows[0], *near[1:5]])
    found = ledger.of_plan(made(mine))
    train, synthetic = found["stages"]["1-sft"]["sources"]
    assert train["duplicates"] == {"exact": 0.25, "near": 0.25}
    assert train["license"] == "cc0-1.0"
    assert train["share"] == pytest.approx(40 / 60)
    assert train["empty_gold_share"] == pytest.approx(8 / 40)
    assert synthetic["generated"]
    test = found["tests"]["test"]
    assert (test["also_in_training"], test["nearly_in_training"]) == (1, 5)
    said = " ".join(ledger.findings(found))
    assert "5 of 15 texts also stand in the training data (1 word for word" in said
    assert "no licence is stated for rl, test" in said


@pytest.mark.slow
def test_the_plan_and_the_ledger_count_leakage_alike(mine: Path) -> None:
    rows = [{"task": "NER", "schema": ["a", "b"], "gold": {"a": [w]}, "text": f"{w} {w}"} for w in "klmnopqrst"]
    write_jsonl(mine.parent / "train.jsonl", [{**row, "id": str(n)} for n, row in enumerate(rows)])
    write_jsonl(mine.parent / "test.jsonl", [{**row, "id": str(n)} for n, row in enumerate(rows[:3] + rows[:2])])
    write_jsonl(mine.parent / "new.jsonl", [{**row, "text": "Nothing alike", "gold": {}} for row in rows[:1]])
    data = "[{path: test.jsonl, repeat: 2, name: seen}, {path: new.jsonl}]"
    overrides = (
        "task=ie", "stages=[{kind: sft, data: [train.jsonl], learning_rate: 1e-4}]",
        f"evaluate=[{{name: test, data: {data}, prompt_variants: 3}}]", "max_bad_rows=1",
    )  # fmt: skip
    plan = made(mine, *overrides)
    assert "test set test: 5 of 6 texts also stand in the training data" in plan.notes
    book = ledger.of_plan(plan)["tests"]["test"]
    assert (book["also_in_training"], book["nearly_in_training"], book["rows"]) == (5, 5, 6)
    assert any(
        "test: 5 of 6 texts also stand" in w and "(5 word for word" in w for w in checked(mine, *overrides)["warnings"]
    )
    assert not any("also stand" in note for note in checked(mine, *overrides)["notes"]), "said once"


@pytest.mark.slow
def test_a_tracker_that_is_not_installed_is_an_error_before_anything_starts(
    mine: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters.backends import local

    monkeypatch.setattr(local, "get_available_reporting_integrations", lambda: ["wandb"])
    here = ["trainer=local", f"model.base={tiny_model}", f"run_dir={mine.parent}/runs"]
    for command in ("check", "run"):
        result = runner.invoke(app, [command, str(mine), *here, "report_to=[wandb, trackio]"])
        assert result.exit_code == 2
        assert "report_to.1: trackio is not installed: pip install trackio" in " ".join(result.output.split())
        wrong = runner.invoke(app, [command, str(mine), *here, "report_to=[tensorbord]"])
        assert "no tracker is called 'tensorbord'. Did you mean tensorboard?" in " ".join(wrong.output.split())
    assert not (mine.parent / "runs").exists()


def test_a_tracker_that_is_not_installed_is_found_without_a_model_too(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters.backends import local

    monkeypatch.setattr(local, "get_available_reporting_integrations", lambda: [])
    found = checked(mine, "report_to=[wandb]", code=2)
    assert any("report_to.0: wandb is not installed: pip install wandb" in error for error in found["errors"])


@pytest.mark.slow
def test_columns_that_nothing_reads_are_told_once(mine: Path) -> None:
    rows = [{**row, "note": "x"} for row in distinct_rows(30, 1)]
    write_jsonl(mine.parent / "train.jsonl", rows)
    found = checked(mine)
    assert found["ledger"]["stages"]["1-sft"]["sources"][0]["unread"] == {"note": 30}
    assert found["notes"].count("columns that nothing reads: note (30 rows of train, 30 rows of rl)") == 1
    assert "columns that nothing reads" in " ".join(runner.invoke(app, ["check", str(mine)]).output.split())


@pytest.mark.parametrize("base", ["/no/such/folder", "./nowhere", "~/nowhere"])
def test_a_base_folder_that_does_not_exist_is_an_error_of_a_dry_run_too(mine: Path, base: str) -> None:
    result = runner.invoke(app, ["run", str(mine), "--dry-run", "trainer=local", f"model.base={base}"])
    assert result.exit_code == 2
    assert "model.base" in result.stderr
    assert "neither an existing folder" in result.stderr


def test_instructions_shared_by_all_prompts_do_not_make_duplicates(mine: Path) -> None:
    instructions = "please extract every funder and every award from the statement below and answer in json " * 5
    found = ledger.of_plan(made(mine, f"task.user='{instructions}: {{statement}} thank you'"))
    assert found["stages"]["1-sft"]["duplicates"]["near"] == 0
    assert found["tests"]["test"]["nearly_in_training"] == 0


def test_near_duplicates_near_the_threshold() -> None:
    rng = random.Random(3)
    base = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=400)) for _ in range(300)]

    def edited(text: str, places: int) -> str:
        letters = list(text)
        for at in rng.sample(range(len(letters)), places):
            letters[at] = "#"
        return "".join(letters)

    # One letter touches five 5-grams: k edits leave a Jaccard similarity of about (396 - 5k) / (396 + 5k).
    assert duplicates.across([edited(t, 3) for t in base], base)["near"] >= 297, "0.93"
    assert duplicates.across([edited(t, 25) for t in base], base)["near"] <= 3, "0.52"
    assert duplicates.inside([*base, *base[:100]]) == {"exact": 0.25, "near": 0.25}
    assert duplicates.inside([]) == {"exact": 0.0, "near": 0.0}
    assert duplicates.inside(["", "a", "é" * 3, ""])["exact"] == 0.25
    assert duplicates.across(["x"], []) == {"exact": 0, "near": 0}


def test_a_thousand_variants_of_one_text_are_found_in_time() -> None:
    texts = [f"supported by the national science foundation under grant number and so on {n}" for n in range(3000)]
    assert duplicates.inside(texts)["near"] > 0.99


def test_folding_ignores_case_spacing_and_punctuation() -> None:
    assert fold("  The NSF,\n(USA)!") == fold("the nsf usa")


def test_tables_fit_a_narrow_screen_and_lose_no_digit() -> None:
    from rich.console import Console

    from adapters.backends.memory import StagePlan
    from adapters.cli.check_tables import ledger_table, lengths_table, memory_table, rewards_table
    from adapters.pipeline.check import Checked
    from adapters.plugins.reward_bench import RewardTest

    spread = {"p50": 1083, "p95": 1118, "p99": 1147, "max": 1982}
    source = {"source": "crossner_literature.test", "rows": 112_450, "kept": 112_449, "dropped": 1}
    checked = Checked([])
    checked.lengths = {"crossner_literature": [{**source, "prompt": spread, "target": spread, "rejected": spread}]}
    entry = {
        "source": source["source"], "rows": 112_450, "used": 112_451, "share": 0.123, "empty_gold_share": 0.4,
        "duplicates": {"exact": 0.012, "near": 1.0}, "license": "cc-by-nc-sa-4.0", "generated": False,
    }  # fmt: skip
    book = {"stages": {"1-sft": {"sources": [entry]}}, "tests": {}}
    tests = [StagePlan(f"evaluate set{n}", {"process": 1e9, "weights": n * 1e9}, n * 1e9, None) for n in range(6)]
    checked.memory = [StagePlan("1-sft", {"process": 1e9}, 1e9, 2e9), *tests]
    checked.rewards = {"2-grpo/funding": RewardTest("funding", "", 3, variants={"gold": {"mean": 1.0}}, speed={})}
    screen = Console(width=80, record=True, highlight=False, quiet=False)
    with screen.capture() as captured:
        for table in (lengths_table(checked), ledger_table(book), memory_table(checked), rewards_table(checked)):
            screen.print(table)
    text = captured.get()
    assert max(map(len, text.splitlines())) <= 80
    for whole in ("112,450", "112,449", "112,451", "1083/1118/1147/1982", "12%", "1.2%", "evaluate set5", "1.000"):
        assert whole in text, text
    assert "5 other test sets take less" in text
    assert "…" not in text


# --- memory ------------------------------------------------------------------------------------------------------

LAYERS = StandardLayers(32, 4096, 14336, 4096, 1024, 2)
LLAMA_8B = Shape(6_979_321_856, 1_050_939_392, 335_544_320, 6_979_321_856, 4096, 128_256, LAYERS)
TRAINING = Use(tokens=4096, micro_batch=2, checkpointing=True, weight_bits=16, compute_bytes=2)


def test_static_parts_are_exact() -> None:
    found = components(LLAMA_8B, TRAINING)
    assert found["weights"] == pytest.approx(2 * 8_030_261_248)
    assert found["adapter"] == found["gradients"] == 4 * 335_544_320
    assert found["optimizer"] == 8 * 335_544_320
    four_bit = components(LLAMA_8B, replace(TRAINING, weight_bits=4.5))
    assert four_bit["weights"] == pytest.approx(6_979_321_856 * 4.5 / 8 + 2 * 1_050_939_392)
    assert components(LLAMA_8B, replace(TRAINING, reference=True))["reference"] == found["adapter"]


def test_zero_shares_what_its_stage_shares() -> None:
    one, two, three = (components(LLAMA_8B, replace(TRAINING, world=4, zero=z)) for z in (1, 2, 3))
    alone = components(LLAMA_8B, TRAINING)
    assert one["optimizer"] == alone["optimizer"] / 4
    assert one["gradients"] == alone["gradients"]
    assert two["gradients"] == alone["gradients"] / 4
    assert two["weights"] == alone["weights"]
    assert three["weights"] == alone["weights"] / 4


def test_more_costs_more() -> None:
    def need(**changes: object) -> float:
        return peak(components(LLAMA_8B, replace(TRAINING, **changes)), gpu=True)

    assert need(tokens=8192) > need()
    assert need(micro_batch=4) > need()
    assert need(checkpointing=False) > 2 * need()
    assert need(generated=256) > need(generated=16) >= need()
    cache = components(LLAMA_8B, replace(TRAINING, generated=8))["generation cache"]
    assert cache == pytest.approx(2 * 8 * 4096 * 1024 * (32 + 1) * 2 + 12 * 8 * 128_256), "one layer's is copied"


def test_the_advice_fits() -> None:
    roomy = replace(TRAINING, micro_batch=8, checkpointing=False)
    text = advise(LLAMA_8B, roomy, 40 * GB, "stages.0", 16)
    assert "stages.0.micro_batch_size=" in text
    assert "fits" in text
    pairs = replace(roomy, sides=2)
    assert peak(components(LLAMA_8B, pairs), gpu=True) > peak(components(LLAMA_8B, roomy), gpu=True)
    need = peak(components(LLAMA_8B, replace(pairs, micro_batch=4)), gpu=True)
    assert advise(LLAMA_8B, pairs, need, "stages.1", 8).startswith("stages.1.micro_batch_size=4 needs"), "in pairs"
    test = Use(
        tokens=600, micro_batch=64, checkpointing=False, weight_bits=16, compute_bytes=2, generated=64, trains=False
    )
    need = peak(components(LLAMA_8B, replace(test, generated=16)), gpu=True)
    assert advise(LLAMA_8B, test, need, "evaluate.0", 64).startswith("evaluate.0.batch_size=16 needs")
    assert "smaller base model" in advise(LLAMA_8B, roomy, 8 * GB, "stages.0", 16)


@pytest.mark.parametrize(("text", "size"), [("80GB", 80e9), ("24 GiB", 24 * 2**30), ("8e9", 8e9), ("16g", 16e9)])
def test_sizes(text: str, size: float) -> None:
    assert parse_size(text, UserError) == size


def test_wrong_sizes() -> None:
    for text in ("", "big", "80 bananas"):
        with pytest.raises(UserError, match="write 80GB"):
            parse_size(text, UserError)


# --- prompts, with the real tokenizer and TRL's own code ----------------------------------------------------------

TURNS = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
ALWAYS_THINKS = TURNS + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
SWITCHED = (
    TURNS + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURNS


def audited(
    tiny_model: Path, template: str | None = None, *, thinking: bool = False, more: Mapping[str, Any] | None = None
) -> dict:
    pytest.importorskip("torch")
    from adapters.backends.local import base_model, prompt_audit
    from adapters.backends.local.encoder import Encoder
    from adapters.backends.local.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(base_model.resolve(str(tiny_model)))
    if template is not None:
        tokenizer.chat_template = template
    task = FundingTask(target="compact")
    examples = [task.example(row, id=row["id"]) for row in [{**row, **(more or {})} for row in funding_rows(4)]]
    return prompt_audit.audit(Encoder(tokenizer, thinking=thinking), examples, ["sft", "grpo"])


def test_all_views_of_a_prompt_agree(tiny_model: Path) -> None:
    """The tokenizer comes with pad == eos, which has cost many an adapter its end token."""
    for template in (None, SWITCHED):
        found = audited(tiny_model, template)
        assert found["errors"] == []
        [shown] = found["shown"]
        assert list(shown["views"]) == ["sft", "grpo", "evaluation", "model card"]
        assert len(set(shown["views"].values())) == 1
        assert "".join(shown["prompt"]).endswith("</think>\n\n")
        assert (
            "".join(shown["learned"])
            == FundingTask(target="compact").example(funding_rows(1)[0]).completion + "<|im_end|>"
        )
        assert (found["end_token_lost"], found["looked_at"]) == (0, 4)
        assert any("without the template's switch" in w for w in found["warnings"])


def test_values_that_are_not_learned_do_not_change_the_prompt(tiny_model: Path) -> None:
    """SFT masks uncertain labels as it masks the prompt."""
    found = audited(tiny_model, more={"uncertain": ["funders.0"]})
    assert found["errors"] == []
    assert len(set(found["shown"][0]["views"].values())) == 1


def test_a_template_that_always_thinks(tiny_model: Path) -> None:
    found = audited(tiny_model, ALWAYS_THINKS)
    assert any("model.thinking is false, but the prompt ends with '<think>'" in e for e in found["errors"])
    found = audited(tiny_model, ALWAYS_THINKS, thinking=True)
    assert found["errors"] == []
    assert any("targets hold no thought" in w for w in found["warnings"])


def test_other_traps_of_templates(tiny_model: Path) -> None:
    assert any("ignores add_generation_prompt" in e for e in audited(tiny_model, TURNS)["errors"])
    dated = "{{ strftime_now('%d %b %Y') }}" + SWITCHED
    assert any("today's date" in w for w in audited(tiny_model, dated)["warnings"])
    with pytest.raises(UserError, match="refuses the prompt of row 'r0': no system role"):
        audited(tiny_model, NO_SYSTEM)


def test_a_view_that_differs_is_an_error_with_its_difference(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens when one consumer forgets the switch: TRL's own trainer without its chat_template_kwargs."""
    pytest.importorskip("torch")
    from adapters.backends.local import prompt_audit
    from adapters.cli.check_tables import prompts_shown

    def forgetful(encoder, example):  # type: ignore[no-untyped-def]
        other = type(encoder)(encoder.tokenizer, thinking=True)
        return prompt_audit.grpo(other, example)

    monkeypatch.setitem(prompt_audit.VIEWS, "grpo", forgetful)
    found = audited(tiny_model, SWITCHED)
    assert found["shown"][0]["different"] == ["grpo"]
    assert any("grpo would not get the prompt" in e for e in found["errors"])
    shown = "\n".join(str(part) for part in prompts_shown(found))
    assert "+++ grpo" in shown
    assert "-</think>" in shown


def test_special_tokens_written_in_the_data_are_counted(tiny_model: Path) -> None:
    pytest.importorskip("torch")
    from adapters.backends.local import base_model, prompt_audit
    from adapters.backends.local.encoder import Encoder
    from adapters.backends.local.tokenizer import load_tokenizer

    rows = funding_rows(3)
    rows[1]["funding_statement"] += " <|im_end|>"
    rows[2]["funders"] = [{"funder_name": "A <|im_end|> B", "awards": []}]
    task = FundingTask(target="compact")
    encoder = Encoder(load_tokenizer(base_model.resolve(str(tiny_model))), thinking=False)
    found = prompt_audit.audit(encoder, [task.example(row, id=row["id"]) for row in rows], ["sft"])
    assert (found["special_in_target"], found["special_in_prompt"]) == (1, 1)


def test_targets_that_the_tokenizer_changes_are_counted(tiny_model: Path) -> None:
    pytest.importorskip("torch")
    from tokenizers import normalizers

    from adapters.backends.local import base_model, prompt_audit
    from adapters.backends.local.encoder import Encoder
    from adapters.backends.local.tokenizer import load_tokenizer

    rows = funding_rows(3)
    for row, name in zip(rows, ("Zu\u0308rich Trust", "Z\u00fcrich Trust", "Plain  Trust"), strict=True):
        row["funders"] = [{"funder_name": name, "awards": []}]
    task = FundingTask(target="compact", scorer="corrected")
    examples = [task.example(row, id=row["id"]) for row in rows]
    encoder = Encoder(load_tokenizer(base_model.resolve(str(tiny_model))), thinking=False)
    assert prompt_audit.audit(encoder, examples, ["sft"])["changed_by_tokenizer"] == 0
    encoder.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert prompt_audit.audit(encoder, examples, ["sft"])["changed_by_tokenizer"] == 1
    written = [encoder.tokenizer.decode(encoder.tokenizer(e.completion)["input_ids"]) for e in examples]
    scores = [Funding(scorer="corrected")(text, e).score for text, e in zip(written, examples, strict=True)]
    assert scores == [1.0] * 3, "what the model can write at best"


def test_pairs_are_audited_on_both_sides(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from adapters.backends.local import base_model, prompt_audit
    from adapters.backends.local.encoder import Encoder
    from adapters.backends.local.tokenizer import load_tokenizer
    from adapters.cli.check_tables import prompts_shown

    encoder = Encoder(load_tokenizer(base_model.resolve(str(tiny_model))), thinking=False)
    task = FundingTask(target="compact")
    rows = [task.example(row, id=row["id"]) for row in funding_rows(4)]
    pairs = [replace(e, id=f"p{e.id}", rejected="Sure! Nothing.") for e in rows]
    found = prompt_audit.audit(encoder, [*rows, *pairs], ["sft", "dpo"])
    assert found["errors"] == []
    assert [one["id"] for one in found["shown"]] == ["r0", "pr0"]
    first, pair = found["shown"]
    assert list(first["views"]) == ["sft", "evaluation", "model card"]
    assert first["rejected"] == []
    assert list(pair["views"]) == ["sft", "dpo", "evaluation", "model card"]
    assert "".join(pair["rejected"]) == "Sure! Nothing.<|im_end|>"
    assert (found["end_token_lost"], found["looked_at"]) == (0, 8)
    shown = [part.plain for part in prompts_shown(found) if hasattr(part, "plain")]
    assert any("Sure! Nothing.<|im_end|>" in part for part in shown)

    monkeypatch.setitem(prompt_audit.VIEWS, "dpo", lambda encoder, example: prompt_audit.dpo(encoder, example)[:-1])
    found = prompt_audit.audit(encoder, pairs, ["dpo"])
    assert found["shown"][0]["different"] == ["dpo"]
    assert any("dpo would not get the prompt" in e for e in found["errors"])
    monkeypatch.setattr(encoder, "completions", lambda texts: [[1] for _ in texts])
    assert prompt_audit._masks(encoder, pairs)["end_token_lost"] == 4


# --- memory, measured --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least", "most"), [("fp32", 0.94, 1.10), ("bf16", 1.05, 1.21)])
def test_the_memory_plan_against_a_real_run(
    tiny_model: Path, tmp_path: Path, precision: str, least: float, most: float
) -> None:
    """Peak resident memory of a short SFT stage on a CPU, 69 million random parameters.

    The parts are compared: the heap's share of the planned peak grows over the first hundred steps. A change by a tenth
    fails. In 32 bits 1.50 to 1.61 GB were measured, 1.62 planned; in 16 bits 1.41 to 1.47 GB, 1.58 planned.
    """
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=768, intermediate_size=2304, num_hidden_layers=10,
        num_attention_heads=12, num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    rows = [{**row, "funding_statement": row["funding_statement"] * 8} for row in funding_rows(32)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    (tmp_path / "r.yaml").write_text(
        "name: r\ntask: {use: funding, target: compact, system: Extract., user: '{statement}'}\n"
        f"model: {{base: ./small, precision: {precision}}}\nlora: {{rank: 8, alpha: 16}}\n"
        "stages: [{kind: sft, data: [{path: train.jsonl}], batch_size: 4, micro_batch_size: 4, max_steps: 2, "
        "learning_rate: 1e-4, validation: 0}]\n"
    )

    def adapters(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "adapters", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=900)

    stage = json.loads(adapters("check", "r.yaml", "--json").stdout)["memory"][0]
    planned = sum(stage["parts"].values()) / GB
    assert planned < stage["peak"] / GB
    done = adapters("run", "r.yaml")
    assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads((tmp_path / "runs/r/1-sft/manifest.json").read_text())["peak_memory_gb"]
    print(f"{precision}: planned {planned:.2f} GB, measured {measured:.2f} GB")
    assert least <= planned / measured <= most
