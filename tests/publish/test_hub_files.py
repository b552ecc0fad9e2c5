"""What the Hub's own conventions ask of a bundle: results on benchmarks, the schema of the answers, marked commands."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML
from test_bundle import FACTS, make_run, same_plots

from adapters.publish import bundle, card, gate, hub_files
from adapters.publish.finished_run import Finished, read
from adapters.recipe.publish import Benchmark
from adapters.tasks.agent import AgentTask

pytest.importorskip("huggingface_hub")
same_plots = same_plots
COMMIT = "0123456789abcdef" * 2 + "01234567"
BENCHMARK = f"{{dataset_id: me/funding-bench, task_id: statements, revision: {COMMIT}}}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("benchmark")
    return read(make_run(folder, "name=other", f"evaluate.0.benchmark={BENCHMARK}"))


@pytest.mark.slow
def test_a_benchmark_gives_a_file_that_the_hubs_library_reads_back(finished: Finished, tmp_path: Path) -> None:
    from huggingface_hub import parse_eval_result_entries

    folder = tmp_path / "bundle"
    bundle.assemble(finished, folder)
    [entry] = parse_eval_result_entries(YAML(typ="safe").load(folder / ".eval_results/test.yaml"))
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("me/funding-bench", "statements", COMMIT)
    fields = finished.figures["test"]["2-grpo"]["metrics"]["balanced"].values()
    matched, both = sum(f["matched"] for f in fields), sum(f["gold"] + f["pred"] for f in fields)
    assert entry.value == pytest.approx(2 * matched / both, abs=1e-4)
    assert entry.value > 0.5
    assert entry.notes.startswith("F1 over all fields (balanced), 12 rows")
    (folder / "README.md").write_text(card.render(finished, folder, "me/funding-echo", FACTS, []))
    bundle.seal(folder)
    assert all(check.passed for check in gate.static(finished, folder)), gate.static(finished, folder)
    assert f"test is [me/funding-bench](https://huggingface.co/datasets/me/funding-bench), statements: F1 over all fields {entry.value:.4f}" in (folder / "README.md").read_text()  # fmt: skip # noqa: E501


def test_without_a_benchmark_there_is_no_file(finished: Finished) -> None:
    sets = tuple(test.model_copy(update={"benchmark": None}) for test in finished.recipe.evaluate)
    recipe = finished.recipe.model_copy(update={"evaluate": sets})
    plain = dataclasses.replace(finished, file=dataclasses.replace(finished.file, recipe=recipe))
    assert hub_files.results(plain) == {}


@pytest.mark.parametrize("wrong", [{"dataset_id": "bench"}, {"task_id": ""}, {"revision": "main"}])
def test_a_benchmark_is_named_as_the_hub_does(wrong: dict[str, str]) -> None:
    right = {"dataset_id": "me/bench", "task_id": "x", "revision": COMMIT}
    assert Benchmark.model_validate(right).dataset_id == "me/bench"
    with pytest.raises(ValidationError):
        Benchmark.model_validate(right | wrong)


@pytest.mark.slow
@pytest.mark.usefixtures("same_plots")
def test_the_card_shows_the_schema_and_marks_what_was_not_run(finished: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    bundle.assemble(finished, folder)
    assert json.loads((folder / "schema.json").read_text()) == finished.task.answer_schema()
    text = card.render(finished, folder, "me/funding-echo", FACTS, [])
    asked = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[1]
    keywords = {k.arg for node in ast.walk(ast.parse(asked)) if isinstance(node, ast.Call) for k in node.keywords}
    assert {"response_format", "messages", "extra_body"} <= keywords
    assert "With vLLM (**not run:**" in text
    assert "vllm serve Qwen/Qwen3-0.6B --enable-lora --max-lora-rank 8" in text
    assert "--outtype bf16\n" in text
    hybrid = card.render(finished, folder, "me/funding-echo", FACTS | {"class": "Qwen3_5ForCausalLM"}, [])
    assert "--outtype bf16 --no-mtp\n" in hybrid
    assert "With llama.cpp (**not run:** its server was not there when this card was made), from" in text
    checked = card.render(finished, folder, "me/funding-echo", FACTS | {"vllm": "0.30.0", "vllm_base": False}, [])
    assert "With vLLM 0.30.0, whose engine has answered with the adapter" in checked
    agent = dataclasses.replace(finished, task=AgentTask())
    if hub_files.answer_schema(agent) is None:
        assert "response_format" not in card.render(agent, folder, "me/agent", FACTS, [])
