"""Files of a bundle by the Hub's conventions: results on benchmarks, and the JSON Schema of the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from adapters.evaluation.metrics import main_mode
from adapters.files import write_json
from adapters.publish import quality
from adapters.publish.finished_run import Finished

RESULTS: Final = ".eval_results"
"""Folder in which the Hub looks for results; one file for each test set."""
SCHEMA: Final = "schema.json"


def write(finished: Finished, folder: Path) -> None:
    """Write the results of the test sets that name a benchmark, and the schema, where there are any."""
    if (schema := answer_schema(finished)) is not None:
        write_json(folder / SCHEMA, schema)
    for name, entry in results(finished).items():
        from ruamel.yaml import YAML

        (folder / RESULTS).mkdir(exist_ok=True)
        with (folder / RESULTS / f"{name}.yaml").open("w", encoding="utf-8") as file:
            YAML().dump([entry], file)


def answer_schema(finished: Finished) -> dict[str, Any] | None:
    """The JSON Schema of an answer, as servers that constrain their output take it; None: not JSON alone."""
    describe = getattr(finished.task, "answer_schema", None)
    return None if describe is None else describe()


def results(finished: Finished) -> dict[str, dict[str, Any]]:
    """Test set -> what stands in its file: F1 over all fields in the main mode, as huggingface_hub writes it."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    published, out = finished.stages[-1].name, {}
    for test in finished.recipe.evaluate:
        figures = finished.figures.get(test.name, {}).get(published)
        if test.benchmark is None or figures is None:
            continue
        mode = main_mode(figures["metrics"])
        counts = quality.overall(figures, mode)
        if counts.gold or counts.pred:
            notes = f"F1 over all fields ({mode}), {figures['n']} rows of the test set {test.name}, greedy decoding"
            entry = EvalResultEntry(
                test.benchmark.dataset_id,
                test.benchmark.task_id,
                round(counts.f(), 4),
                dataset_revision=test.benchmark.revision,
                notes=notes,
            )
            [out[test.name]] = eval_result_entries_to_yaml([entry])
    return out
