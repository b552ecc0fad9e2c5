"""The bundle and its card, made from a run of the echo backend: no model, no network."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny import funding_rows, store_calibration, write_jsonl
from typer.testing import CliRunner

from adapters import environment
from adapters.backends import adapter_folder
from adapters.cli.main import app
from adapters.errors import UserError
from adapters.extraction.confidence import stored
from adapters.files import sha256, write_json
from adapters.pipeline import seeds
from adapters.plugins.rewards import NamedReward
from adapters.publish import base_license, bundle, card, comparison, gate, plots, provenance, release, stages
from adapters.publish.finished_run import Finished, probes, read
from adapters.recipe.load import load_recipe
from adapters.recipe.publish import Publish
from adapters.rewards.funding import Funding
from adapters.tasks.agent import AgentTask

pytest.importorskip("huggingface_hub")
RECIPE = """
name: echoed
task: {{use: funding, target: compact, system: Extract., user: "{{statement}}"}}
model: {{base: Qwen/Qwen3-0.6B}}
lora: {{rank: 4, alpha: 8}}
trainer: echo
run_dir: {folder}/runs
data_root: {folder}
stages:
  - {{kind: sft, data: [{{path: {folder}/train.jsonl, name: real, license: cc-by-nc-4.0}}, {{synthesize: funding, n: 20, name: made}}], batch_size: 8, max_steps: 3, learning_rate: 1e-2, noise: {{use: ocr, share: 0.5}}}}
  - {{kind: grpo, data: [{{path: train.jsonl, name: real}}], batch_size: 2, max_steps: 2, learning_rate: 1e-3, beta: 0.05, rewards: [funding, {{use: {folder}/vowels.py:Vowels, weight: 0.5}}]}}
evaluate:
  - {{name: test, data: [{{path: test.jsonl}}]}}
publish: {{repo: me/funding-echo, base_model: Qwen/Qwen3-0.6B, license: apache-2.0, description: Finds funders., tags: [scholarly-metadata]}}
"""  # noqa: E501
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "base_model_name_or_path": "/home/someone/model", "target_modules": ["v", "q"]}  # noqa: E501 # fmt: skip
STRANGERS = (
    "training_args.bin", "rollouts-0.jsonl", "run.log", "run.lock", "hosted.json", "spent.json", "origin.json",
    "samples.jsonl", "rejected.jsonl", "nll_before.json", "optimizer.pt", "rng_state_0.pth", "report.html",
)  # fmt: skip
FACTS = {
    "parameters": 64,
    "class": "A",
    "base_class": "A",
    "tied": True,
    "dtype": "float32",
    "end_token": "<|im_end|>",
    "rerun": None,
}


def make_run(folder: Path, *overrides: str) -> Path:
    """An echo run whose adapters are LoRA files, as a trained one's would be."""
    write_jsonl(folder / "train.jsonl", funding_rows(26))
    write_jsonl(folder / "test.jsonl", funding_rows(12))
    (folder / "vowels.py").write_text(
        "class Vowels:\n    def __call__(self, completion, example):\n        return 0.5\n"
    )
    (folder / "echo.yaml").write_text(RECIPE.format(folder=folder))
    result = CliRunner().invoke(app, ["run", str(folder / "echo.yaml"), *overrides])
    assert result.exit_code == 0, result.output
    [run] = (
        [p.parent for p in (folder / "runs").glob("*/report.json")] if not overrides else [folder / "runs" / "other"]
    )
    as_trained(run)
    return run


def as_trained(run: Path) -> None:
    """Put LoRA files, and what a trainer leaves beside them, into the stages of an echo run."""
    for stage in ("1-sft", "2-grpo"):
        tensors = {f"base_model.model.q.lora_{side}.weight": np.ones((4, 4), np.float32) for side in "AB"}
        save_file(tensors, run / stage / adapter_folder.WEIGHTS)
        (run / stage / adapter_folder.CONFIG).write_text(json.dumps(CONFIG))
        (run / stage / "tokenizer_config.json").write_text(
            json.dumps({"name_or_path": "/home/someone/model", "is_local": True, "eos_token": "<|im_end|>"})
        )
        for name in STRANGERS:
            (run / stage / name).write_text("secret prompts")
        log = [
            {"step": n, "loss": 1 / n, **({"reward": n / 9, "kl": 0.1} if "grpo" in stage else {})} for n in (1, 2, 3)
        ]
        write_jsonl(run / stage / "log.jsonl", log)
        held = json.loads((run / stage / adapter_folder.MANIFEST).read_text())
        held["files"] = {n: sha256(run / stage / n) for n in (adapter_folder.WEIGHTS, adapter_folder.CONFIG)}
        held["start_hash"] = None
        write_json(run / stage / adapter_folder.MANIFEST, held)
        for path in (run / "eval" / stage).glob("*/metrics.json"):
            figures = json.loads(path.read_text())
            rows, _, rewards = figures["key"].split(":", 2)
            write_json(path, figures | {"key": f"{rows}:{held['files'][adapter_folder.WEIGHTS]}:{rewards}"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("echo"))


@pytest.fixture(scope="module")
def original(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    finished, folder = read(run), tmp_path_factory.mktemp("made") / "bundle"
    bundle.assemble(finished, folder)
    (folder / "README.md").write_text(card.render(finished, folder, "me/funding-echo", FACTS, [], tag="v1"))
    bundle.seal(folder)
    return folder


@pytest.fixture(scope="module")
def finished_run(run: Path) -> Finished:
    return read(run)


@pytest.fixture
def made(finished_run: Finished, original: Path, tmp_path: Path) -> tuple[Finished, Path]:
    """The run as it was read, for this test alone, and a copy of its bundle."""
    return copy.deepcopy(finished_run), Path(shutil.copytree(original, tmp_path / "bundle"))


@pytest.fixture
def same_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card rendered again keeps the pictures of its bundle: drawing them takes a second."""
    monkeypatch.setattr(plots, "draw", lambda finished, folder, mode: sorted(p.name for p in folder.glob("*.png")))


def test_only_what_a_user_needs_is_in_it(made: tuple[Finished, Path]) -> None:
    _, folder = made
    names = [p.as_posix() for p in bundle.files(folder)]
    assert names == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "bundle.json", "code/vowels.py",
        "plots/kl.png", "plots/loss.png",
        "plots/reward.png", "plots/test.png", "recipe.yaml", "results.json", "schema.json", "tokenizer_config.json",
    ]  # fmt: skip
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "Qwen/Qwen3-0.6B"
    assert config["target_modules"] == ["q", "v"]
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"eos_token": "<|im_end|>"}
    assert all(c.passed for c in gate.static(*made)), gate.static(*made)


def test_the_recipe_in_it_runs_and_names_no_place(made: tuple[Finished, Path], tmp_path: Path) -> None:
    finished, folder = made
    text = (folder / "recipe.yaml").read_text()
    assert str(finished.folder.parent.parent) not in text
    again = load_recipe(folder / "recipe.yaml")
    assert again.recipe.data_root is None
    assert again.recipe.run_dir == "runs"
    finished.file.tree["stages"][1] |= {"vllm": "server", "vllm_server": "http://node7:8000"}
    assert bundle.shippable_recipe(finished) == text, "nor a vLLM server"
    assert again.recipe.stages[0].data[0].path == "train.jsonl"
    assert again.recipe.stages[1].rewards[1].use == "./code/vowels.py:Vowels"
    assert again.recipe.stages[0].model_dump(exclude={"data"}) == finished.recipe.stages[0].model_dump(exclude={"data"})
    assert text.startswith('if __name__ == "__main__"')


PLANTED = {
    "an access token": ["hf_" + "aB3" * 12, "ghp_" + "x1" * 18, "AKIA" + "A1" * 8, "-----BEGIN RSA PRIVATE KEY-----"],
    "an e-mail address": ["ask jane.doe@example.org", "<a+b@sub.uni-x.de>"],
    "a path on the hosted trainer": ["tinker://abc-def:train:0/weights/final"],
    "a path of this machine": ["/home/jane/data.jsonl", "see /Users/jane/x", "C:\\Users\\jane", "C:\\\\Users\\\\jane"],
}


@pytest.mark.parametrize(("what", "text"), [(w, t) for w, texts in PLANTED.items() for t in texts])
@pytest.mark.parametrize(
    "name", ["README.md", "recipe.yaml", "results.json", "tokenizer_config.json", "adapter_config.json"]
)
def test_planted_secrets_are_found(made: tuple[Finished, Path], what: str, text: str, name: str) -> None:
    _, folder = made
    with (folder / name).open("a") as file:
        file.write(f"\n{text}\n")
    found = bundle.leaks(folder)
    assert [f for f in found if f.startswith(name) and f.endswith(what)], found
    assert not any(text in f for f in found), "a secret is named, never shown"


def test_the_values_of_secret_variables_are_found_everywhere(
    made: tuple[Finished, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, folder = made
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    (folder / "tokenizer.json").write_text('{"vocab": {"0123456789abcdef": 1, "x@y.com": 2, "/home/x": 3}}')
    assert bundle.leaks(folder) == ["tokenizer.json:1 holds the value of $WANDB_API_KEY"], (
        "a vocabulary may hold the rest"
    )
    (folder / "tokenizer.json").write_text(json.dumps({"x": str(finished.folder.resolve())}))
    assert "a path of this machine" in bundle.leaks(folder, (str(finished.folder.resolve()),))[0]


@pytest.mark.parametrize(
    "name", [*STRANGERS, "ref/adapter_model.safetensors", "completions/1.parquet", "eval/2-grpo/test/samples.jsonl"]
)
def test_files_that_nobody_asked_for_are_refused(made: tuple[Finished, Path], name: str) -> None:
    _, folder = made
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert bundle.leaks(folder)[0] == f"{name} does not belong in a bundle"


def test_the_cards_metadata_survive_the_hubs_library(made: tuple[Finished, Path]) -> None:
    from huggingface_hub import ModelCard

    finished, folder = made
    data = ModelCard((folder / "README.md").read_text()).data
    assert data.base_model == "Qwen/Qwen3-0.6B"
    assert (data.library_name, data.pipeline_tag, data.license) == ("peft", "text-generation", "apache-2.0")
    assert data.tags == ["lora", "sft", "grpo", "funding", "scholarly-metadata"]
    held = finished.figures["test"]["2-grpo"]["metrics"]["balanced"]["funder"]
    [f1] = [r for r in data.eval_results if r.metric_name == "funder f1 (balanced)"]
    assert f1.metric_value == pytest.approx(held["f1"], abs=1e-4)
    assert not [r for r in data.eval_results if "scheme" in r.metric_name], "nothing to find and nothing found is no 0"
    assert held["f1"] > 0.5, "the echo knows the test rows: the figure is no empty 0"


def test_the_card_says_every_constant(made: tuple[Finished, Path]) -> None:
    finished, folder = made
    text = (folder / "README.md").read_text()
    for wanted in (
        "Finds funders.", "| learning rate | 0.01 |", "| learning rate | 0.001 |", "| beta | 0.05 |",
        "R = 1 · funding + 0.5 · Vowels", "hierarchical 0.4", "use ocr", "share 0.5", "policy protect",
        "rank 4, alpha 8", "**Seed:** 42", "| real | file `train.jsonl` | cc-by-nc-4.0 |", "allows no commercial use",
        "made by the `funding` generator: 20 rows", "#### test, strict", "base and stages",
        "R = 0.5 F0.5(funder) + 0.4 F0.5(award id", "reference | start (the weights", "| scheme | – | – | – | – |",
        "`funding` (target compact)", "**strict:** names match", "Rows: file `test.jsonl`.", "last step of stage 2",
        "3 steps of 8 rows", "2 steps of 2 prompts, 8 completions each",
        'eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>")', "--max-lora-rank 8", "Example Science Foundation",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert "12 of its 12 texts also stand in the training data" in text
    figures = finished.figures["test"]["2-grpo"]["metrics"]["balanced"]["award_id"]
    assert f"| award id | {figures['precision']:.4f} | {figures['recall']:.4f} | {figures['f1']:.4f} |" in text
    compile(gate.snippet(text), "card", "exec")
    for line in text.splitlines():
        assert not line.startswith("| ") or line.endswith("|"), "no table row is broken"
    rows = text.splitlines()
    heads = [n for n, line in enumerate(rows) if line.startswith("|--")]
    assert heads
    for n in heads:
        assert rows[n - 1].count("|") == rows[n].count("|") == rows[n + 1].count("|"), rows[n - 1 : n + 2]


@pytest.mark.slow
def test_a_calibration_goes_with_the_weights_and_stands_in_the_card(run: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(run, tmp_path / "run"))
    weights = own / "2-grpo" / adapter_folder.WEIGHTS
    store_calibration(own / "2-grpo")
    evidence = own / "2-grpo" / "calibration-tokens.jsonl"
    evidence.write_text("texts of rows")
    finished, folder = read(own), tmp_path / "bundle"
    bundle.assemble(finished, folder)
    text = card.render(finished, folder, "me/funding-echo", FACTS, [])
    held = json.loads((folder / "calibration.json").read_text())
    assert held["adapter"] == adapter_folder.content_hash(folder)
    assert list(stored(folder, held["adapter"])) == ["tokens"]
    assert not (folder / evidence.name).exists()
    assert not [leak for leak in bundle.leaks(folder) if "calibration" in leak or "confidence" in leak]
    assert "**Answers by tokens**, calibrated on 60 rows, tested on test.jsonl:" in text
    assert "| test values | 60 |" in text
    assert "![confidence](plots/confidence-0.png)" in text
    assert (folder / "plots/confidence-0.png").stat().st_size > 1000
    at = text.splitlines().index("| test values | " + text.partition("| test values | ")[2].splitlines()[0])
    assert text.splitlines()[at - 2].count("|") == text.splitlines()[at].count("|")
    damaged = json.loads((own / "2-grpo" / "calibration.json").read_text()) | {"adapter": "of others"}
    (own / "2-grpo" / "calibration.json").write_text(json.dumps(damaged))
    bundle.assemble(read(own), tmp_path / "without")
    assert not (tmp_path / "without" / "calibration.json").exists(), f"not of {weights}"


@pytest.mark.usefixtures("same_plots")
def test_the_formula_is_of_the_recipes_settings_and_paths_are_names(made: tuple[Finished, Path]) -> None:
    finished, folder = made
    stage = finished.stages[-1]
    manifest = copy.deepcopy(stage.manifest)
    manifest["stage"]["reference"] = "/home/someone/runs/old/1-sft"
    manifest["figures"] = {
        **{"margin_first": 0.0, "margin_last": 1.25},
        **{"accuracy_first": 0.5, "accuracy_last": 0.9, "accuracy_held_out": 0.75},
    }
    changed = dataclasses.replace(finished, stages=(finished.stages[0], dataclasses.replace(stage, manifest=manifest)))
    text = card.render(changed, folder, "me/funding-echo", FACTS, [])
    assert "| reference | 1-sft |" in text
    assert "margin 0.0000 → 1.2500, the chosen side preferred in 50.0 % → 90.0 % of the pairs (75.0 % of held" in text
    assert "/home/someone" not in text
    reward = NamedReward("funding", Funding(funder=0.5, hierarchical=0.5, flat=0, soft_ids=False))
    about = stages._reward(reward)["about"]
    assert "0.5 F0.5(funder) + 0.5 F0.5(award id, under the right funder); names" in about
    assert "0.1" not in about


@pytest.mark.slow
@pytest.mark.usefixtures("same_plots")
def test_the_card_says_what_sampled_the_completions(made: tuple[Finished, Path]) -> None:
    finished, folder = made
    stage = finished.stages[-1]
    for sampling, row in (
        ({"mode": "server", "version": "0.30.0"}, "| completions sampled with | vLLM 0.30.0 (server) |"),
        ({"mode": "off"}, None),
    ):
        manifest = stage.manifest | {"figures": {**stage.manifest["figures"], "sampling": sampling}}
        stages = (finished.stages[0], dataclasses.replace(stage, manifest=manifest))
        text = card.render(dataclasses.replace(finished, stages=stages), folder, "me/funding-echo", FACTS, [])
        assert (row in text) if row else ("completions sampled with" not in text)


@pytest.mark.usefixtures("same_plots")
def test_the_card_names_teachers_and_what_they_were_trained_on(made: tuple[Finished, Path]) -> None:
    finished, folder = made
    data = [{"source": "genes", "license": "cc0-1.0"}, {"source": "made"}, {"source": "genes", "license": "cc0-1.0"}]
    teachers = {"bio": {"name": "bio/1-sft", "path": "/home/someone/bio/1-sft", "rows": 1200, "data": data}}
    teachers |= {"law": {"name": "law", "path": "/home/someone/law", "rows": 20, "data": []}}
    stage = dataclasses.replace(finished.stages[-1], manifest=finished.stages[-1].manifest | {"teachers": teachers})
    changed = dataclasses.replace(finished, stages=(finished.stages[0], stage))
    text = card.render(changed, folder, "me/funding-echo", FACTS, [])
    told = "- Teacher **bio:** `bio/1-sft`, 1,200 prompts; trained on genes (cc0-1.0), made (licence not given)"
    assert f"{told}\n- Teacher **law:** `law`, 20 prompts; trained on unknown data\n" in text
    assert "/home/someone" not in text


@pytest.mark.slow
@pytest.mark.usefixtures("same_plots")
def test_the_card_says_which_state_was_chosen(made: tuple[Finished, Path]) -> None:
    finished, folder = made
    stage = finished.stages[-1]
    chosen = {"step": 40, "metric": "award_id", "rows": 200, "text": "the state of step 40 is kept: award_id 0.800"}
    manifest = copy.deepcopy(stage.manifest)
    manifest["stage"]["select"] = {"metric": "award_id", "every": 20, "patience": None, "keep": "better"}
    for step, said in ((40, "step 40 of stage 2"), (0, "the start of stage 2")):
        manifest["figures"]["select"] = {**chosen, "step": step}
        stages = (finished.stages[0], dataclasses.replace(stage, manifest=manifest))
        text = card.render(dataclasses.replace(finished, stages=stages), folder, "me/funding-echo", FACTS, [])
        assert f"**Checkpoint:** {said}, chosen by award id on 200 held-out rows, on which its figure is" in text
        assert "Held-out rows: the state of step 40 is kept: award_id 0.800." in text
        assert "| select every | 20 |" in text
        assert "select patience" not in text


@pytest.mark.usefixtures("same_plots")
def test_blocks_inside_blocks_do_not_end_them(made: tuple[Finished, Path]) -> None:
    finished, folder = made
    agent = dataclasses.replace(finished, task=AgentTask())
    text = card.render(agent, folder, "me/agent", FACTS, [])
    assert "\n````\nOne count answers this.\nAction: Operation\n```sql\n" in text
    assert text.count("\n````\n") == 2
    assert "\n```yaml\n" in text
    assert gate.snippet(text).startswith("from peft")


@pytest.mark.usefixtures("same_plots")
def test_a_hosted_adapter_is_not_called_trls(made: tuple[Finished, Path]) -> None:
    finished, folder = made
    recipe = finished.recipe.model_copy(update={"trainer": "tinker"})
    hosted = dataclasses.replace(finished, file=dataclasses.replace(finished.file, recipe=recipe))
    text = card.render(hosted, folder, "me/funding-echo", FACTS, [])
    assert "default of TRL" not in text
    assert "- tinker\n" in text
    assert "- trl\n" not in text
    assert "**Trainer:** the Tinker API" in text


@pytest.mark.usefixtures("same_plots")
def test_an_earlier_stage_of_the_run_is_called_so(made: tuple[Finished, Path], run: Path) -> None:
    finished, folder = made
    text = card.render(finished, folder, "me/funding-echo", FACTS, [], read(run / "1-sft"))
    assert "## Comparison with echoed, 1-sft" in text
    assert "| field | echoed, 1-sft | this adapter |" in text


@pytest.mark.usefixtures("same_plots")
def test_the_card_shows_the_figures_of_all_seeds(made: tuple[Finished, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    finished, folder = made
    lines = [
        seeds.Line(set="s", field="award_id", model=m, mean=0.5, sd=0.1, values=[0.4, 0.6]) for m in ("1-sft", "9-x")
    ]
    moved = seeds.Moved(
        set="s", field="funder", before_model="base", model="1-sft", before=0.25, after=0.5, interval=(0.125, 0.375)
    )
    known = seeds.Summary(seeds=[1, 2], runs=["a", "b"], lines=lines, changes=[moved])
    monkeypatch.setattr(seeds, "stored", lambda _: known)
    text = card.render(finished, folder, "me/funding-echo", FACTS, [])
    assert "| s | award id | 1-sft | 0.5000 | 0.1000 | 0.4000, 0.6000 |" in text
    assert "| s | funder | base | 1-sft | +0.2500 | +0.1250 to +0.3750 |" in text
    assert "9-x" not in text, "a later stage than the published one"


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(run: Path, made: tuple[Finished, Path], tmp_path: Path) -> None:
    again = tmp_path / "again"
    bundle.assemble(read(run), again)
    (again / "README.md").write_text(card.render(read(run), again, "me/funding-echo", FACTS, [], tag="v1"))
    bundle.seal(again)
    assert bundle.hashes(again) == bundle.hashes(made[1]), "the same content again makes no new commit"


def test_licences_and_what_they_ask() -> None:
    def notes(licence: str | None) -> str:
        return " ".join(provenance.license_notes([{"source": "s", "license": licence}]))

    assert "not stated" in notes(None)
    assert notes("cc0-1.0") == notes("mit") == notes(provenance.GENERATED) == ""
    assert "asks for credit" in notes("cc-by-4.0")
    assert "same licence" in notes("cc-by-sa-4.0")
    assert "no commercial use" in notes("CC-BY-NC-4.0")
    assert "no derivatives" in notes("cc-by-nd-4.0")


FOUND = {"passed": True, "base_license": None}


def test_notes_before_it_is_out(run: Path) -> None:
    notes = release._notes(read(run), FOUND)
    assert any("the licence of Qwen/Qwen3-0.6B was not found: set publish.base_license" in n for n in notes)
    assert any("apache-2.0, and real allows no commercial use" in n for n in notes)
    assert any("names no licence" in n for n in release._notes(read(run, ["publish.license=null"]), FOUND))


@pytest.mark.slow
def test_comparison_needs_the_same_rows(run: Path, tmp_path: Path) -> None:
    mine = read(run)
    tables, notes = comparison.compare(mine, read(run / "1-sft"), "balanced")
    assert not notes
    [funder] = [change for change in tables["test"] if change.field == "funder"]
    figures = mine.figures["test"]
    assert funder.after == figures["2-grpo"]["metrics"]["balanced"]["funder"]["f1"]
    assert funder.before == figures["1-sft"]["metrics"]["balanced"]["funder"]["f1"]
    assert funder.interval[0] <= funder.delta <= funder.interval[1]
    assert [change.field for change in tables["test"]] == ["funder", "award_id"], "no row for what is nowhere to find"
    other = make_run(tmp_path, "name=other", "evaluate.0.data.0.max_rows=5")
    assert comparison.compare(mine, read(other), "balanced") == (
        {},
        ["test: the two runs do not hold the same rows under this name"],
    )


def test_probes_are_the_training_processs_answers(run: Path) -> None:
    finished = read(run)
    found = probes(finished, 4)
    assert len(found) == 4
    assert all(p.completion and p.prompt[0]["role"] == "system" for p in found)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"r": 1024}, "rank 1024"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"alpha_pattern": {"q": 1}}, "alpha_pattern"),
    ],
)
def test_what_vllm_does_not_serve(made: tuple[Finished, Path], change: dict, reason: str) -> None:
    _, folder = made
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    check = gate._servable(folder)
    assert not check.passed
    assert reason in check.detail


def test_an_lm_head_is_not_servable(made: tuple[Finished, Path]) -> None:
    save_file({"base_model.model.lm_head.lora_A.weight": np.ones((1, 1), np.float32)}, made[1] / adapter_folder.WEIGHTS)
    assert not gate._servable(made[1]).passed


def test_lora_ranks() -> None:
    assert [gate.max_lora_rank(r) for r in (1, 8, 9, 128, 512, 513)] == [8, 8, 16, 128, 512, None]


def test_a_card_that_cannot_be_read_back_is_refused(made: tuple[Finished, Path]) -> None:
    _, folder = made
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(text.replace("library_name: peft\n", ""))
    assert "library_name" in gate._card(folder).detail
    (folder / "README.md").write_text(text)
    (folder / "plots" / "kl.png").unlink()
    assert "plots/kl.png" in gate._card(folder).detail


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"repo": "no-owner"}, "'no-owner' is no Hub id; write owner/name"),
        ({"base_model": "a/b/c"}, "no Hub id"),
        ({"repo": "me/x.git"}, "without .git"),
        ({"repo": "me/x y"}, "no Hub id"),
        ({"repo": "me/" + "x" * 97}, "up to 96"),
        ({"repo": "me/x\n"}, "no Hub id"),
        ({"repo": "datasets/x"}, "no Hub id"),
        ({"citation": "Doe et al., 2026"}, "BibTeX"),
        ({"minimum": {"funder_f1": 1.5}}, "less than or equal to 1"),
        ({"tag": "v 1"}, "'v 1' is no tag"),
        ({"license": "Apache 2.0"}, "Did you mean apache-2.0"),
        ({"license": "apache2"}, "Did you mean apache-2.0"),
        ({"language": ["English"]}, "no ISO 639 code"),
        ({"privat": True}, "privat"),
    ],
)
def test_the_section_is_strict(value: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Publish.model_validate(value)


NAMES = (
    "me/x", "me/x.git", "me/x/y", "me/x y", "me/" + "x" * 96, "me/" + "x" * 97, "m" * 97 + "/x", "me/-x", "me/x.",
    "me/.x", "me--a/x", "me/a..b", "mé/x", "me/x\n", " me/x", "https://huggingface.co/me/x", "", "me/", "/x", "me/_x",
    "me/x.gitx", "Me.You_3/a-b.c_D",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_repository_has_a_name_that_the_hubs_library_takes(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    def taken(check: Callable[[], object], refusal: type[Exception]) -> bool:
        try:
            check()
        except refusal:
            return False
        return True

    assert taken(lambda: Publish(repo=name), ValueError) == taken(lambda: validate_repo_id(name), HFValidationError)


@pytest.mark.slow
@pytest.mark.usefixtures("same_plots")
def test_the_card_tells_a_sceptic_what_was_done(made: tuple[Finished, Path]) -> None:
    finished, folder = made
    text = card.render(finished, folder, "me/funding-echo", FACTS | {"base_license": "llama3.1"}, [], tag="v1")
    versions = environment.versions()
    for wanted in (
        'PeftModel.from_pretrained(base, "me/funding-echo", revision="v1")',
        'AutoTokenizer.from_pretrained("me/funding-echo", revision="v1")',
        f'"transformers=={versions["transformers"]}" "peft=={versions["peft"]}"',
        "| real | 26 | 1× | 26 | 24 | 5 |",
        "Trained on: 44 examples (2 rows were held out); the steps saw no more than 24 of them.",
        "| test (12) | **this adapter** | 1.0000 | 1.0000 | – | – | 100.0 % |",
        "| test (12) | base model | 0.0000 | 0.0000 | – | – | 100.0 % |",
        "base model 0.1667; the empty answer 0.1667",
        "**award id:** the number of a grant",
        "is under llama3.1; it applies to the adapter too",
        'merge_and_unload().save_pretrained("merged")',
        "`HF_TOKEN`",
        "adapters extract me/funding-echo --revision v1 ",
        "Put them beside `recipe.yaml` under these names: `train.jsonl`, `test.jsonl`.",
        "https://huggingface.co/me/funding-echo/discussions",
        "@misc{funding-echo,",
        "## Intended use and limits",
        "(language: en; sources: real, made)",
    ):
        assert wanted in text, wanted
    assert "revision=" not in card.render(finished, folder, "me/funding-echo", FACTS, []), "a pull request has no tag"
    assert "a licence that was not known here" in card.render(finished, folder, "me/funding-echo", FACTS, [])


@pytest.mark.slow
@pytest.mark.usefixtures("same_plots")
def test_a_stage_that_stopped_early_has_the_steps_that_it_took(tmp_path: Path) -> None:
    early = "stages.0.select={metric: reward, every: 1, patience: 1}"
    finished = read(make_run(tmp_path, "name=other", "stages.0.max_steps=9", early))
    bundle.assemble(finished, tmp_path / "bundle")
    text = card.render(finished, tmp_path / "bundle", "me/funding-echo", FACTS, [])
    taken = finished.stages[0].manifest["figures"]["select"]["end_step"]
    assert taken < 9
    assert f"| optimizer steps | {taken} of 9 planned |" in text
    assert f"**Result:** {taken} steps of 8 rows" in text
    assert f"the steps saw no more than {8 * taken} of them" in text
    assert "| optimizer steps | 2 |" in text


@pytest.mark.usefixtures("same_plots")
def test_what_a_publisher_says_stands_in_the_card(run: Path, made: tuple[Finished, Path]) -> None:
    said = [
        "publish.intended_use=For libraries.",
        "publish.citation='@misc{doe, title = {A}}'",
        "publish.contact=a forum",
    ]
    text = card.render(read(run, said), made[1], "me/funding-echo", FACTS, [])
    assert "## Intended use and limits\n\nFor libraries.\n" in text
    assert "```bibtex\n@misc{doe, title = {A}}\n```" in text
    assert "Contact: a forum" in text


def test_the_bases_licence_is_read_from_its_own_card(run: Path, tmp_path: Path) -> None:
    finished = read(run)
    assert base_license.of_run(finished) is None, "offline, and no card is stored"
    assert base_license.of_run(read(run, ["publish.base_license=gemma"])) == "gemma"
    model = finished.recipe.model.model_copy(update={"base": str(tmp_path)})
    recipe = finished.recipe.model_copy(update={"model": model})
    beside = dataclasses.replace(finished, file=dataclasses.replace(finished.file, recipe=recipe))
    for metadata, name in (
        ("license: apache-2.0", "apache-2.0"),
        ("license: other\nlicense_name: qwen-research", "qwen-research"),
        ("language: en", None),
        ("license: [", None),
    ):
        (tmp_path / "README.md").write_text(f"---\n{metadata}\n---\n\n# Base\n")
        assert base_license.of_run(beside) == name


def test_what_is_no_finished_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"only publish\.key=value"):
        read(run, ["seed=3"])
    finished = read(run, ["publish.base_model=null"])
    assert finished.base_id == "Qwen/Qwen3-0.6B"
    local = finished.recipe.model_copy(update={"model": finished.recipe.model.model_copy(update={"base": str(run)})})
    with pytest.raises(UserError, match="Hub id"):
        _ = dataclasses.replace(finished, file=dataclasses.replace(finished.file, recipe=local)).base_id
    with pytest.raises(UserError, match="cannot read the example row"):
        read(run, ["publish.example={a: 1}"]).example()


@pytest.mark.slow
def test_damaged_files_are_named(run: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(run, tmp_path / "mine"))
    samples = mine / "eval" / "2-grpo" / "test" / "samples.jsonl"
    whole = samples.read_text()
    samples.write_text("nonsense\n")
    with pytest.raises(UserError, match=r"samples\.jsonl is damaged. Delete"):
        probes(read(mine), 4)
    with pytest.raises(UserError, match=r"samples\.jsonl is damaged"):
        comparison.compare(read(run), read(mine), "balanced")
    samples.write_text(whole)
    figures = samples.with_name("metrics.json")
    stored = json.loads(figures.read_text())
    for text, reason in (
        ("nonsense", "eval/2-grpo/test is damaged"),
        (json.dumps(stored | {"key": "rows:another hash:rewards"}), "was measured on other weights than 2-grpo holds"),
    ):
        figures.write_text(text)
        for command in (["publish", str(mine), "--dry-run"], ["merge", str(mine), "-o", str(tmp_path / "out")]):
            result = CliRunner().invoke(app, command)
            assert result.exit_code == 2
            assert reason in result.stderr


def test_the_command_wants_a_repository(run: Path) -> None:
    result = CliRunner().invoke(app, ["publish", str(run), "publish.repo=null", "--dry-run"])
    assert result.exit_code == 2
    assert "--repo" in result.stderr
    result = CliRunner().invoke(app, ["publish", str(run), "--repo", "me/x.git", "--dry-run"])
    assert result.exit_code == 2
    assert "without .git" in result.stderr
    result = CliRunner().invoke(app, ["publish", str(run), "--pr", "--tag", "v1", "--dry-run"])
    assert result.exit_code == 2
    assert "--pr makes none there" in result.stderr


def test_without_a_token_nothing_starts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    result = CliRunner().invoke(app, ["publish", str(run)])
    assert result.exit_code == 2
    assert "no Hub token" in result.stderr
    assert not (run / "publish").exists()


@pytest.mark.slow
def test_a_failed_gate_exits_with_3_and_a_proven_bundle_is_not_proven_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    calls: list[str] = []
    verdict = [gate.Check("tensors", False, "every B matrix is zero: the adapter changes nothing")]

    def loaded(finished: Finished, folder: Path) -> tuple[list[gate.Check], dict]:
        calls.append("loaded")
        return list(verdict), dict(FACTS)

    monkeypatch.setattr(gate, "loaded", loaded)
    monkeypatch.setattr(gate, "used", lambda *_: gate.Check("usage", True, "runs"))
    monkeypatch.setattr(gate, "rerun", lambda *_: None)
    refused = CliRunner().invoke(app, ["publish", str(run), "--dry-run", "--json"])
    assert refused.exit_code == 3
    assert "every B matrix is zero" in refused.stderr
    assert json.loads(refused.stdout)["passed"] is False
    assert not (run / "publish" / "bundle" / "README.md").exists(), "no card for an adapter that failed"
    verdict[0] = gate.Check("tensors", True, "fine")
    for _ in range(2):
        good = CliRunner().invoke(app, ["publish", str(run), "--dry-run", "--json"])
        assert good.exit_code == 0, good.output
    assert len(calls) == 2, "the third call found the bundle proven"
    held = json.loads(good.stdout)
    assert held["files"]["README.md"] == (run / "publish" / "bundle" / "README.md").stat().st_size
    (run / "publish" / "bundle" / "recipe.yaml").write_text("changed by hand")
    CliRunner().invoke(app, ["publish", str(run), "--dry-run"])
    assert len(calls) == 3, "a bundle that was touched is made again"
    assert CliRunner().invoke(app, ["publish", str(run), "--dry-run", "publish.title=New"]).exit_code == 0
    assert len(calls) == 4, "another card is another bundle"
    assert (
        CliRunner().invoke(app, ["publish", str(run), "--dry-run", "publish.title=New", "--tag", "v2"]).exit_code == 0
    )
    assert len(calls) == 5, "another tag is another card"
    card_text = (run / "publish" / "bundle" / "README.md").read_text()
    assert 'revision="v2"' in card_text
    assert CliRunner().invoke(app, ["publish", str(run), "--dry-run", "publish.title=New", "--pr"]).exit_code == 0
    assert "revision=" not in (run / "publish" / "bundle" / "README.md").read_text()
    assert CliRunner().invoke(app, ["publish", str(run), "--dry-run", "publish.title=New"]).exit_code == 0
    named = json.loads((run / "publish" / "proof.json").read_text())["tag"]
    assert named.startswith("echoed-")
    assert f'revision="{named}"' in (run / "publish" / "bundle" / "README.md").read_text()
    listed = json.loads((run / "publish" / "bundle" / "bundle.json").read_text())["files"]
    assert listed == {k: v for k, v in bundle.hashes(run / "publish" / "bundle").items() if k != "bundle.json"}
    refused = CliRunner().invoke(app, ["publish", str(run), "--dry-run", "publish.minimum={title_f1: 0.5}"])
    assert refused.exit_code == 3
    assert "figures: test: title_f1 is undefined, as there is nothing to find" in refused.stderr
    assert len(calls) == 7, "nothing is loaded for figures that do not suffice"
    unknown = CliRunner().invoke(app, ["publish", str(run), "--dry-run", "publish.minimum={titel_f1: 0.5}"])
    assert unknown.exit_code == 2
    assert "Did you mean title_f1" in unknown.stderr
