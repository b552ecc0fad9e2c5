"""GGUF files for llama-server and Ollama, written by llama.cpp's own converters.

They run in a process of their own, with this process's interpreter. What a converter cannot read is found on the
configuration and the tokenizer alone, before weights are loaded.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters.backends import adapter_folder
from adapters.backends.local import base_model
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.model import trusts
from adapters.console import quiet_libraries
from adapters.errors import UserError
from adapters.files import read_json, write_json
from adapters.publish import bundle, merge_adapter
from adapters.publish.finished_run import Finished, probes
from adapters.types import Message

MODEL_CONVERTER: Final = "convert_hf_to_gguf.py"
LORA_CONVERTER: Final = "convert_lora_to_gguf.py"
MODELFILE: Final = "Modelfile"
NO_TEMPLATE: Final = (
    "the Modelfile has no TEMPLATE, as the prompt is not one system message and one text: Ollama uses the GGUF file's "
    "own template only where it knows it. Compare `ollama run` with `adapters extract`."
)
TEMPLATE: Final = "chat_template.jinja"
BUILT: Final = Path(__file__).resolve().parents[3] / "build" / "llama"
"""Where `make llama` puts llama.cpp."""
NOT_LORA: Final = ("modules_to_save", "use_dora", "lora_bias", "target_parameters", "trainable_token_indices")
"""What an adapter may hold beside A and B matrices, of which a GGUF file of an adapter has none."""
# Blocks that predict further tokens: transformers does not load them, and the converter would look for them.
_FURTHER: Final = ("mtp_num_hidden_layers", "num_nextn_predict_layers")
_PROBES: Final = 24
_TIMEOUT: Final = 7200


@dataclass(frozen=True)
class Converters:
    """A folder of llama.cpp."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a converter's process needs: the packages that it imports, and no network."""
        paths = [str(self.folder / "packages"), os.environ.get("PYTHONPATH", "")]
        return {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def run(self, script: str, *arguments: str | Path) -> None:
        """Run a converter. Raises UserError with its reason."""
        env = {**os.environ, **self.environment}
        command = [sys.executable, str(self.folder / script), *map(str, arguments)]
        try:
            done = subprocess.run(  # noqa: S603 - a list of our own making, no shell reads it
                command, env=env, capture_output=True, text=True, check=False, timeout=_TIMEOUT
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"{script} was not done after {_TIMEOUT // 3600} hours; nothing was written.") from None
        if done.returncode:
            raise UserError(f"{_reason(done.stderr)}. Nothing was written.")


def converters(folder: Path | None) -> Converters:
    """The converters in a folder of llama.cpp, or where `make llama` put them. Raises UserError."""
    found = folder or BUILT
    if missing := [name for name in (MODEL_CONVERTER, LORA_CONVERTER) if not (found / name).is_file()]:
        if folder is None:
            raise UserError(
                f"llama.cpp's converters are not in {BUILT}: run `make llama` in a checkout of this project, and name "
                "CHECKOUT/build/llama, or another folder of llama.cpp, with --llama-cpp FOLDER."
            )
        raise UserError(f"there is no {missing[0]} in {folder} (--llama-cpp, LLAMA_CPP); name a checkout of llama.cpp.")
    return Converters(found)


def write_merged(finished: Finished, out: Path, dtype: str, kind: str, tools: Converters) -> dict[str, Any]:
    """Merge, and write the merged model as a GGUF file of type `kind` with a Modelfile into the new folder `out`.

    The result is `merge_adapter.merge`'s, and of the file. Raises UserError for what llama.cpp cannot read.
    """
    with _described(finished, tools) as described, adapter_folder.new_folder(out) as work:
        result = merge_adapter.merge(finished, work / "merged", dtype)
        if not result["passed"]:
            return result
        shutil.copytree(described.folder, work / "merged", dirs_exist_ok=True)
        name = f"{finished.recipe.name}-{kind}.gguf"
        named = ("--outfile", work / name, "--model-name", finished.recipe.name)
        tools.run(MODEL_CONVERTER, work / "merged", "--outtype", kind, *named, *described.options)
        shutil.rmtree(work / "merged")
        written = modelfile(finished, described.encoder, name)
        (work / MODELFILE).write_text(written, encoding="utf-8")
        os.replace(work, out)
    unsaid = () if "TEMPLATE" in written else (NO_TEMPLATE,)
    return {**result, "file": name, "notes": [*described.notes, *unsaid]}


def write_lora(finished: Finished, out: Path, tools: Converters) -> dict[str, Any]:
    """Write the adapter as a GGUF file, with the chat template it was trained on, into the new folder `out`.

    The matrices keep their 32 bits. Raises UserError for what such a file cannot hold.
    """
    config = read_json(finished.adapter / adapter_folder.CONFIG)
    held = [key for key in NOT_LORA if config.get(key)] + ["bias"] * (config.get("bias", "none") != "none")
    if held and not finished.recipe.tags_words:
        raise UserError(
            f"the adapter has {held[0]}, and a GGUF file of an adapter holds A and B matrices alone: merge it with "
            "--gguf instead. Nothing was written."
        )
    with _described(finished, tools) as described, adapter_folder.new_folder(out) as work:
        plain = work / finished.recipe.name  # the converter names the adapter by its folder
        plain.mkdir()
        config, tensors = bundle.plain_lora(
            config, adapter_folder.own_names(load_file(finished.adapter / adapter_folder.WEIGHTS))
        )
        if config.get("use_rslora"):  # llama.cpp scales by alpha / rank
            config |= {"lora_alpha": config["lora_alpha"] * config["r"] ** 0.5, "use_rslora": False}
        write_json(plain / adapter_folder.CONFIG, config)
        save_file(tensors, plain / adapter_folder.WEIGHTS, metadata={"format": "pt"})
        if described.options:  # this converter has no such option: it must be told of a block that it does not find
            write_json(described.folder / "config.json", read_json(described.folder / "config.json") | {_FURTHER[0]: 1})
        name = f"{finished.recipe.name}-lora.gguf"
        options = ("--base", described.folder, "--outtype", "f32", "--outfile", work / name)
        tools.run(LORA_CONVERTER, plain, *options)
        shutil.rmtree(plain)
        shutil.copyfile(described.folder / TEMPLATE, work / TEMPLATE)
        os.replace(work, out)
    detail = f"{len(tensors) // 2} pairs of matrices of rank {config['r']}, in 32 bits"
    return {"passed": True, "detail": detail, "file": name, "notes": described.notes}


@dataclass(frozen=True)
class _Described:
    """The model without its weights: a folder with its configuration and its tokenizer."""

    folder: Path
    encoder: Encoder
    options: tuple[str, ...]
    """What the converter must be told of it."""
    notes: list[str]


@contextmanager
def _described(finished: Finished, tools: Converters) -> Iterator[_Described]:
    """Describe the model, and have the converter read that. Raises UserError where it cannot."""
    if finished.recipe.tags_words:
        raise UserError("the run tags words with an encoder, which llama.cpp does not run. Nothing was written.")
    quiet_libraries()
    model, base = finished.recipe.model, base_model.resolve(finished.recipe.model.base, finished.base_revision)
    config = base_model.load_config(base)
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"the weights of {base.load} are quantised, and an adapter is merged into and converted for whole ones: "
            "set model.base to the model they were made of. Nothing was written."
        )
    with init_empty_weights():
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trusts(model))
    encoder = Encoder(AutoTokenizer.from_pretrained(finished.adapter), model.thinking)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _describe(empty, encoder, model.thinking, folder)
        yield _Described(folder, encoder, _known(tools, folder), _notes(finished, encoder))


def _describe(empty: Any, encoder: Encoder, thinking: bool, folder: Path) -> None:
    empty.config.architectures = [type(empty).__name__]
    empty.config.save_pretrained(folder)
    stored = read_json(folder / "config.json")
    write_json(folder / "config.json", {key: value for key, value in stored.items() if key not in _FURTHER})
    tokenizer = encoder.tokenizer
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(encoder.end)  # what ends an answer here ends it there
    tokenizer.save_pretrained(folder)
    template = folder / TEMPLATE
    if template.is_file() and "enable_thinking" in (text := template.read_text(encoding="utf-8")):
        # A server's own default is to think; the file says what was trained.
        said = f"{{%- set enable_thinking = {str(thinking).lower()} -%}}"
        template.write_text(said + text, encoding="utf-8")


def _known(tools: Converters, folder: Path) -> tuple[str, ...]:
    """The options with which the converter reads the description. Raises UserError when it does not."""
    vocabulary = folder / "vocabulary.gguf"
    reasons = []
    for options in ((), ("--no-mtp",)):  # blocks that predict further tokens are missed, where a family has them
        try:
            tools.run(MODEL_CONVERTER, folder, "--vocab-only", "--outfile", vocabulary, *options)
        except UserError as error:
            reasons.append(error)
            continue
        vocabulary.unlink()
        return options
    raise next(
        reason for reason in reversed(reasons) if "--no-" not in str(reason)
    )  # most families have no such option


def _notes(finished: Finished, encoder: Encoder) -> list[str]:
    tokenizer, text = encoder.tokenizer, encoder.text(finished.example().prompt)
    begun = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    if tokenizer.bos_token_id is None or not begun or text.startswith(tokenizer.bos_token):
        return []
    return [
        f"llama.cpp puts {tokenizer.bos_token} before each prompt, and the training did not: give llama-server "
        "--override-kv tokenizer.ggml.add_bos_token=bool:false"
    ]


def _reason(stderr: str) -> str:
    """Why a converter failed, in a sentence."""
    if "No module named 'sentencepiece'" in stderr:
        return "llama.cpp's converter needs the package sentencepiece: python -m pip install sentencepiece"
    if unknown := re.search(r"Model (\w+) is not supported", stderr):
        return f"llama.cpp's converter does not know the architecture {unknown[1]}"
    if "pre-tokenizer was not recognized" in stderr:
        return "llama.cpp's converter does not know the tokenizer of this base"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["no message"]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b|ERROR:", line)]
    return f"llama.cpp's converter fails: {(raised or lines)[-1].removesuffix('.')}"


def modelfile(finished: Finished, encoder: Encoder, name: str) -> str:
    """Ollama's file for a model: the prompt as it was trained, in Ollama's own template language.

    Ollama takes the template of a GGUF file only where it knows it (`template.Named` in its sources), so the file
    has one for a system message and a text; other conversations are left to Ollama.
    """
    prompt, end = finished.example().prompt, encoder.tokenizer.convert_ids_to_tokens(encoder.end)
    lines = [f"FROM ./{name}"]
    if (template := _ollama_template(prompt, encoder)) is not None:
        lines.append(f'TEMPLATE """{template}"""')
    others = [probe.prompt for probe in probes(finished, _PROBES)]
    systems = {_system(asked) for asked in (prompt, *others)}
    if len(systems) == 1 and (system := systems.pop()):
        lines.append(f'SYSTEM """{system}"""')
    lines += [f"PARAMETER temperature 0\nPARAMETER num_ctx {_context(finished, encoder)}"]
    return "\n".join([*lines, f"PARAMETER num_predict {finished.longest_answer}", f'PARAMETER stop "{end}"', ""])


def _system(prompt: Sequence[Message]) -> str | None:
    """The system message, None where there is none or Ollama's file cannot quote it."""
    text = prompt[0]["content"] if prompt and prompt[0]["role"] == "system" else ""
    return text if text and '"""' not in text else None


def _ollama_template(prompt: Sequence[Message], encoder: Encoder) -> str | None:
    places: Mapping[str, str] = {"system": "{{ .System }}", "user": "{{ .Prompt }}"}
    roles = [turn["role"] for turn in prompt]
    if roles not in (["system", "user"], ["user"]):
        return None
    marked: list[Message] = [{"role": role, "content": f"adapters {role}"} for role in roles]
    text = encoder.text(marked)
    if "{{" in text or '"""' in text or any(text.count(turn["content"]) != 1 for turn in marked):
        return None
    for role in roles:
        text = text.replace(f"adapters {role}", places[role])
    return text


def _context(finished: Finished, encoder: Encoder) -> int:
    """Tokens of the longest row that was trained on and the longest answer, as far as the model reads."""
    most = [getattr(stage, "max_length", None) or 2048 for stage in finished.recipe.stages]
    config = base_model.load_config(base_model.resolve(finished.recipe.model.base, finished.base_revision))
    reach = getattr(config.get_text_config(), "max_position_embeddings", None)
    wanted = max(most) + finished.longest_answer
    return min(wanted, reach) if isinstance(reach, int) else wanted
