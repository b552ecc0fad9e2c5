"""A tiny random model with a real tokenizer, and rows and a recipe to train it on: for tests and scripts."""

from __future__ import annotations

import json
from pathlib import Path

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
# A random model earns nothing from `funding`; this gives its groups something to differ in.
VOWELS = """
class Vowels:
    def __call__(self, completion, example):
        if completion == example.completion:
            return 1.0
        return sum(c in "aeiou" for c in completion) / (len(completion) + 1)
"""
# A reward that any model can learn in a few steps: letters, whatever they say.
FAULTY = '''
import os, re, sys, time
from dataclasses import dataclass
from adapters.types import Scored

@dataclass(frozen=True)
class Faulty:
    """Does what the completion says."""
    level: float = 1.0
    def __call__(self, completion, example):
        if completion == "loop":
            while True: pass
        if completion == "backtrack":
            return float(bool(re.match(r"(a+)+$", "a" * 64 + "b")))
        if completion == "die":
            os._exit(7)
        if completion == "exit":
            sys.exit(3)
        if completion == "pid":
            return os.getpid() % 1000 / 1000
        if completion == "nan part":
            return Scored(self.level, {"nan": float("nan"), "inf": float("-inf"), "fine": 0.5})
        if completion == "lambda":
            return lambda: 1
        return {"crash": lambda: {}["x"], "nan": lambda: float("nan"), "inf": lambda: float("inf"),
                "high": lambda: 7, "text": lambda: "0.5", "none": lambda: None, "true": lambda: True,
                }.get(completion, lambda: self.level)()
'''

LETTERS = """
class Letters:
    def __call__(self, completion, example):
        if completion == example.completion:
            return 1.0
        return sum(c.isascii() and c.isalpha() for c in completion) / (len(completion) + 1)
"""
FUNDERS = ("National Science Foundation", "Wellcome Trust", "European Research Council", "Simons Foundation")


def funding_rows(n: int, prefix: str = "r") -> list[dict]:
    rows = []
    for i in range(n):
        name, award = FUNDERS[i % len(FUNDERS)], f"AB-{1000 + i}"
        ids = [award] if i % 3 else []
        text = f"Supported by the {name}{f' under grant {award}' if ids else ''}, case {prefix}{i}."
        awards = [{"funding_scheme": [], "award_ids": ids, "award_title": []}]
        funders = [{"funder_name": name, "awards": awards}]
        if i % 5 == 4:
            text, funders = f"We thank colleague number {prefix}{i} for advice.", []
        rows.append({"id": f"{prefix}{i}", "funding_statement": text, "funders": funders})
    return rows


def ie_rows(n: int, prefix: str = "r") -> list[dict]:
    rows = []
    for i in range(n):
        person, place = f"Ada {prefix}{i}", f"Town {i}"
        gold = {"person": [person], "place": [place] if i % 2 else []}
        text = f"{person} came{f' to {place}' if i % 2 else ''} ."
        if i % 5 == 4:
            text, gold = f"Nobody came on day {prefix}{i} .", {"person": [], "place": []}
        row = {"id": f"{prefix}{i}", "task": "NER", "source": "made", "schema": ["person", "place", "thing"]}
        rows.append({**row, "text": text, "gold": gold})
    return rows


ECHO_RECIPE = """name: NAME
task: TASK
model: {base: none}
trainer: echo
stages:
  - {kind: sft, data: [{path: TASK.jsonl}], learning_rate: 1e-4, validation: 0}
  - {kind: grpo, data: [{path: TASK.jsonl}], batch_size: 4, learning_rate: 1e-5, rewards: [TASK]}
evaluate:
  - {name: test, data: [{path: TASK.jsonl}]}
"""


def echo_recipe(name: str, task: str = "funding") -> str:
    """SFT, then GRPO, without a model, over the rows of TASK.jsonl."""
    return ECHO_RECIPE.replace("NAME", name).replace("TASK", task)


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def save_adapter(folder: Path, base: str, value: float = 1.0, **config: object) -> Path:
    """Files of a plain LoRA adapter on `base`, of one tensor: enough for a plan."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    known = {"peft_type": "LORA", "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(known | config))
    save_file({"x": np.full((2, 2), value, dtype=np.float32)}, folder / "adapter_model.safetensors")
    return folder


def train_stage(folder: Path, recipe: str, *overrides: str) -> tuple[Path, dict]:
    """Write a recipe into a folder and train its first stage, nothing more: where its files are, and its figures."""
    from adapters.backends import backend as make_backend
    from adapters.pipeline.plan import make_plan
    from adapters.recipe.load import load_recipe

    (folder / "r.yaml").write_text(recipe)
    file = load_recipe(folder / "r.yaml", overrides)
    backend = make_backend(file.recipe)
    out = folder / "out"
    out.mkdir()
    figures = backend.train(make_plan(file, backend).jobs[0], None, out, lambda *_: None)
    return out, dict(figures)


def save_tiny_model(folder: Path) -> Path:
    """A random two-layer Llama with a byte-level tokenizer and a thinking template, saved as a local folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    texts = [json.dumps(row) for row in funding_rows(50)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_lively_model(tiny: Path, folder: Path) -> Path:
    """The tiny model with longer embeddings: its own are so short that no adapter can move it far from uniform."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = AutoModelForCausalLM.from_pretrained(tiny)
    made.get_input_embeddings().weight.data *= 10
    made.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def chain_recipe(folder: Path, model: Path) -> str:
    """A full SFT -> GRPO -> evaluate recipe over the tiny model; its data and reward are written into `folder`."""
    write_jsonl(folder / "train.jsonl", funding_rows(26))
    write_jsonl(folder / "test.jsonl", funding_rows(6, "t"))
    (folder / "vowels.py").write_text(VOWELS)
    return f'''if __name__ == "__main__": from adapters import main; main(__file__); r"""
name: chain
task: {{use: funding, target: compact, system: Extract., user: "{{statement}}"}}
model: {{base: {model}}}
lora: {{rank: 4, alpha: 8}}
run_dir: {folder / "runs"}
stages:
  - kind: sft
    data: [{{path: train.jsonl}}]
    batch_size: 8
    max_steps: 3
    learning_rate: 1e-2
    validation: 0.1
  - kind: grpo
    data: [{{path: train.jsonl}}]
    batch_size: 2
    group_size: 4
    max_steps: 2
    learning_rate: 1e-3
    beta: 0.05
    rewards: [funding, {{use: ./vowels.py:Vowels, weight: 0.5}}]
    max_completion_length: 160
    trl: {{generation_kwargs: {{max_new_tokens: 8}}}}
evaluate:
  - {{name: test, data: [{{path: test.jsonl}}], max_new_tokens: 8}}
# """
'''


def save_tiny_wrapper(tiny: Path, folder: Path, kind: str = "Qwen3_5") -> Path:
    """A random vision-language checkpoint with the tiny model's tokenizer; `kind` as in transformers' class names.

    The sizes of Qwen3.5 are the smallest that vLLM computes on a processor.
    """
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "hidden_size": 64}
    text = {
        **heads, "vocab_size": len(tokenizer), "intermediate_size": 128, "num_hidden_layers": 4,
        "max_position_embeddings": 1024, "eos_token_id": tokenizer.eos_token_id, "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "patch_size": 4}
    depth = {"depth": 1, "num_heads": 2, "out_hidden_size": 64}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [12, 10, 10]}
    more: dict = {"image_token_id": 1, "video_token_id": 2}
    if kind == "Qwen3_5":
        linear = {"linear_key_head_dim": 64, "linear_value_head_dim": 64}
        text |= {**linear, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
        text["rope_parameters"] = {**rope, "partial_rotary_factor": 0.5, "mrope_section": [6, 5, 5]}
        vision |= {**depth, "num_position_embeddings": 16}
    elif kind == "Qwen3VL":
        text["rope_parameters"], vision = rope, {**vision, **depth, "deepstack_visual_indexes": [0]}
    elif kind == "Qwen2_5_VL":
        text.pop("head_dim")
        text["rope_parameters"] = {**rope, "mrope_section": [2, 3, 3]}
        vision |= {**depth, "fullatt_block_indexes": [0]}
    elif kind in ("Gemma3", "Mistral3"):
        vision |= {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16}
        more = {"image_token_index": 1, "image_token_id": 1}
        if kind == "Gemma3":
            text, more = {**text, "sliding_window": 16}, {"mm_tokens_per_image": 4}
        else:
            vision, text = {"model_type": "pixtral", **vision}, {"model_type": "mistral", **text}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config=vision, tie_word_embeddings=False, **more
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    model.get_output_embeddings().weight.data *= 30  # so that an adapter changes which token is best
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def llama_for_any_tokenizer(llama: Path, folder: Path) -> Path:
    """A copy of llama.cpp's converters that takes a tokenizer it does not know for Qwen3.5's.

    transformers splits words as Qwen3.5 does for every tokenizer of such a model, and llama.cpp knows only real ones.
    """
    import shutil

    for part in ("conversion", "gguf-py", "packages"):
        shutil.copytree(llama / part, folder / part)
    for script in llama.glob("convert_*.py"):
        shutil.copy(script, folder)
    if (llama / "build").is_dir():  # its server
        (folder / "build").symlink_to((llama / "build").resolve())
    source = folder / "conversion" / "base.py"
    text = source.read_text(encoding="utf-8")
    assert text.count("        res = None\n") == 1
    source.write_text(text.replace("        res = None\n", '        res = "qwen35"\n'), encoding="utf-8")
    return folder


def save_tiny_encoder(folder: Path, kind: str = "Bert") -> Path:
    """A random two-layer encoder with a tokenizer of its family, saved as a local folder; `kind` as in class names."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    asked = (
        "User Choice: Yes No Question: What is the person place mentioned? Assistant Answer The This text mentions a"
    )
    asked += " Based on the above sentence, is the following sentence true or not? This text is about health"
    texts = [row["text"] for row in ie_rows(40)] + [asked] * 30
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    if kind == "Bert":
        raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer: object = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special)
    elif kind == "DebertaV2":
        raw = Tokenizer(models.Unigram())
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="[UNK]")
    else:
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    raw.train_from_iterator(texts, trainer)
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", special.index("[CLS]")), ("[SEP]", special.index("[SEP]"))]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    more: dict = {"pad_token_id": 0, "vocab_size": len(tokenizer), "max_position_embeddings": 160}
    if kind == "ModernBert":
        more |= {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3, "local_attention": 16}
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**sizes, **more))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def mine_rows(n: int, prefix: str = "r", kind: str = "span") -> list[dict]:
    """Questions of the task mine about the texts of `ie_rows`: where is a person, or is one mentioned."""
    rows = []
    for row in ie_rows(n, prefix):
        names = row["gold"]["person"]
        gold: object = bool(names) if kind == "label" else [[0, len(name)] for name in names]
        asked = "This text mentions a person" if kind == "label" else "person"
        rows.append({"id": row["id"], "text": row["text"], "kind": kind, "instruction": asked, "gold": gold})
    return rows


def mine_recipe(folder: Path, model: Path) -> str:
    """A token_classification recipe over a tiny encoder; its data are written into `folder`."""
    both = [row for pair in zip(mine_rows(40), mine_rows(40, kind="label"), strict=True) for row in pair]
    write_jsonl(folder / "train.jsonl", both)
    write_jsonl(folder / "test.jsonl", mine_rows(6, "t") + mine_rows(6, "t", "label"))
    return f"""name: proxy
task: mine
model: {{base: {model}}}
lora: {{rank: 4, alpha: 8}}
run_dir: {folder / "runs"}
stages:
  - kind: token_classification
    data: [{{path: train.jsonl}}]
    batch_size: 8
    max_steps: 6
    learning_rate: 2e-2
    max_length: 96
    stride: 16
    validation: 0.1
evaluate:
  - {{name: test, data: [{{path: test.jsonl}}]}}
"""


def store_calibration(adapter: Path) -> None:
    """Calibrate a folder of weights on 60 made-up values."""
    from adapters.backends import adapter_folder
    from adapters.evaluation import calibration, confidence
    from adapters.files import write_json

    signals = [{"mean": -n / 20} for n in range(60)]
    right, rows = [n < 30 or n % 4 == 0 for n in range(60)], list(range(60))
    fitted = calibration.fit(signals, right, rows, {"mean": ("mean",)})
    figures = confidence.figures([0.9] * 60, fitted.confidence, right, rows) | {"recall": 0.8}
    own = {"values": fitted.calibration.stored, "rows": None, "made": {"rows": 60}, "test": "test.jsonl"}
    own |= {"figures": {"values": figures, "test values": figures}}
    weights = adapter_folder.content_hash(adapter)
    write_json(adapter / calibration.FILE, {"adapter": weights, "ways": {"tokens": own}})


SMALL_RECIPE = """
name: small
trainer: echo
task: funding
model: {base: echo}
stages:
  - {kind: sft, data: [{path: train.jsonl}], batch_size: 8, learning_rate: 1e-4, validation: 0}
evaluate:
  - {name: seen, data: [{path: test.jsonl}]}
"""


def small_run(folder: Path) -> Path:
    """A folder with small.yaml, a recipe of the echo backend, and its rows; the last ten test rows are not trained."""
    write_jsonl(folder / "train.jsonl", funding_rows(20))
    write_jsonl(folder / "test.jsonl", funding_rows(30))
    (folder / "small.yaml").write_text(SMALL_RECIPE)
    return folder
