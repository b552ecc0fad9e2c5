"""Chat templates of real models: what is trained is what the template writes, or `check` names the difference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import trl  # noqa: E402
from tiny import save_lively_model, write_jsonl  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import GenerationConfig, PreTrainedTokenizerFast  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from adapters.backends.local import distill, prompt_audit, training  # noqa: E402
from adapters.backends.local.base_model import Base  # noqa: E402
from adapters.backends.local.encoder import Encoder  # noqa: E402
from adapters.backends.local.tokenizer import load_tokenizer  # noqa: E402
from adapters.cli.main import app  # noqa: E402
from adapters.data import preference  # noqa: E402
from adapters.errors import UserError  # noqa: E402
from adapters.files import read_jsonl  # noqa: E402
from adapters.recipe.recipe import Model  # noqa: E402
from adapters.tasks.agent import AgentTask  # noqa: E402
from adapters.types import Example, Message  # noqa: E402

TEMPLATES = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
SPECIAL = (
    r"<turn\|>|<\|turn>|<channel\|>|<\|channel>|<\|[^<>|\s]{1,40}\|>|<[a-z_]{2,20}>|"
    r"<｜[^<>]{1,40}｜>|\[/?INST\]|</s>|<s>"
)
ANSWER = '[{"funder_name":"Sample Trust"}]'
ASKED: tuple[Message, ...] = (
    {"role": "system", "content": "Extract."},
    {"role": "user", "content": "Paid by the Sample Trust."},
)
TURNS = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
ASKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def tokenizer(template: str, special: tuple[str, ...] = (), **named: Any) -> PreTrainedTokenizerFast:
    named = {"eos_token": "<EOS>", "bos_token": "<BOS>", "pad_token": "<PAD>"} | named
    found = {*re.findall(SPECIAL, template), *special, *named.values()} - {None}
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = 300 + len(found)
    raw.train_from_iterator(
        ["x"], trainers.BpeTrainer(vocab_size=size, special_tokens=sorted(found), initial_alphabet=alphabet)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=raw, **named)
    made.chat_template = template
    return made


def audited(encoder: Encoder, prompt: tuple[Message, ...], completion: str = ANSWER) -> dict[str, Any]:
    return prompt_audit.audit(encoder, [Example("r1", "s", prompt, completion)], ["sft", "grpo"])


def test_there_are_templates() -> None:
    assert len(TEMPLATES) >= 70


@pytest.mark.slow
@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_what_is_trained_is_the_templates_turn_or_check_says_what_is_missing(file: Path, thinking: bool) -> None:
    encoder = Encoder(tokenizer(file.read_text(encoding="utf-8")), thinking)
    prompt = ASKED
    if file.stem.startswith("gemma") and "System role not supported" in file.read_text():
        with pytest.raises(UserError, match=r"of row 'r1': System role not supported\. .*task\.system: \"\""):
            audited(encoder, prompt)
        prompt = ASKED[1:]
    found = audited(encoder, prompt)
    assert all(message["content"] in encoder.text(prompt) for message in prompt)
    [shown] = found["shown"]
    assert shown["different"] == [], "SFT, GRPO, evaluation and the card's snippet get one prompt"
    trained = "".join(shown["prompt"] + shown["learned"])
    turn = encoder.rendered([*prompt, {"role": "assistant", "content": ANSWER}], generation=False)
    if turn.startswith(trained) or trained.startswith(turn.rstrip()):
        assert found["errors"] == []
        return
    said = " ".join(found["errors"] + found["warnings"])
    assert "between prompt and answer, which is never trained" in said or "a whole turn has" in said, said
    assert thinking or (file.stem.startswith("deepseek") and "model.thinking is false" in " ".join(found["errors"]))


@pytest.mark.parametrize(
    ("written", "end"),
    [("<|channel|>final<|message|>", "<|end|>"), ("<think></think>\n", "<|end|>"), ("\n", "<|end|>"), (" ", "<|end|>")],
)
def test_what_stands_between_becomes_part_of_the_prompt_everywhere(tmp_path: Path, written: str, end: str) -> None:
    template = (
        "{% for m in messages %}<|start|>{{ m['role'] }}{% if m['role'] == 'assistant' %}{{ "
        f"{written!r}" + " }}{% endif %}{{ m['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}\n"
    )
    encoder = Encoder(tokenizer(template, ("<|channel|>", "<|message|>")), thinking=False)
    assert encoder.opening == written
    assert encoder.text(ASKED).endswith(f"<|start|>assistant{written}")
    found = audited(encoder, ASKED)
    assert (found["errors"], found["end_token"]) == ([], end)
    assert any("--chat-template" in w for w in found["warnings"]) is bool(written.strip())
    encoder.tokenizer.save_pretrained(tmp_path)
    again = Encoder(PreTrainedTokenizerFast.from_pretrained(tmp_path), thinking=False)
    assert again.opening == "", "a published template has it already"
    assert again.prompts([ASKED]) == encoder.prompts([ASKED])


def test_a_model_that_thinks_writes_its_own_opening_and_check_names_it() -> None:
    template = TURNS.replace(
        "m['content']", "('<think>\n\n</think>\n\n' if m.role == 'assistant' else '') + m['content']"
    )
    encoder = Encoder(tokenizer(template + ASKS), thinking=True)
    assert encoder.text(ASKED).endswith("assistant\n")
    said = audited(encoder, ASKED)["warnings"]
    assert any(r"writes '<think>\n\n</think>\n\n' between prompt and answer, which is never trained" in w for w in said)


def test_a_template_for_parts_reads_texts_too() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' }}{% for part in m['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}" + ASKS
    )
    made = tokenizer(template)
    encoder = Encoder(made, thinking=False)
    assert "Paid by the Sample Trust." in encoder.text(ASKED)
    whole = made.apply_chat_template(list(ASKED), tokenize=False, add_generation_prompt=True)
    assert whole == encoder.text(ASKED), "the card's snippet has the text as well"
    assert made.convert_ids_to_tokens(encoder.end) == "<|im_end|>"


def test_a_template_that_drops_texts_is_refused() -> None:
    with pytest.raises(UserError, match="leaves out the text of messages"):
        Encoder(tokenizer("{% for m in messages %}<|im_start|>{{ m['role'] }}{% endfor %}"), thinking=False)
    user_only = TURNS.replace("{{", "{% if m['role'] != 'system' %}{{").replace("}}", "}}{% endif %}")
    encoder = Encoder(tokenizer(user_only + ASKS), thinking=False)
    with pytest.raises(UserError, match="leaves the system message out of the prompt of row 'r1'"):
        audited(encoder, ASKED)
    assert audited(encoder, ASKED[1:])["errors"] == []
    loud = Encoder(tokenizer(TURNS.replace("m['content']", "m['content'].replace('Trust', 'TRUST')") + ASKS), False)
    assert any("changes texts: 1 of 1 prompts" in e for e in audited(loud, ASKED)["errors"])


def test_an_instruct_template_without_a_generation_prompt_is_sound() -> None:
    """[INST] says itself that an answer follows; where a role's name is missing, the audit refuses it as before."""
    template = (
        "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' if m['role'] == 'user' else "
        "' ' + m['content'] + '</s>' }}{% endfor %}"
    )
    encoder = Encoder(tokenizer(template), thinking=False)
    found = audited(encoder, ASKED[1:])
    assert (found["errors"], found["end_token"]) == ([], "</s>")
    assert any("ignores add_generation_prompt" in e for e in audited(Encoder(tokenizer(TURNS), False), ASKED)["errors"])


# --- tools -----------------------------------------------------------------------------------------------------------

CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"q": "xylem"}}}
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "Who paid?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "look_up", "tool_call_id": "c1", "content": "Sample Trust"},
]
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "description": "Looks up.", "parameters": {"type": "object", "properties": {}}},
}


def pair(**changed: Any) -> Example:
    row = {"prompt": TALK, "chosen": "Sample Trust", "rejected": "Nobody.", **changed}
    return preference.example(AgentTask(), row, source="s", id="r1")


def of_trl(name: str) -> Encoder:
    [file] = [file for file in TEMPLATES if file.stem == name]
    return Encoder(tokenizer(file.read_text(encoding="utf-8")), thinking=False)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3_1", "muse_glimmer", "deepseekv3", "gptoss"])
def test_tool_calls_reach_the_prompt_of_every_stage(name: str) -> None:
    encoder = of_trl(name)
    for example in (pair(), pair(tools=[TOOL]) if name != "deepseekv3" else pair()):
        text = encoder.text(example.prompt)
        assert "look_up" in text
        assert "xylem" in text
        assert "Sample Trust" in text
        assert ("Looks up." in text) is ("tools" in example.prompt[0])
        found = prompt_audit.audit(encoder, [example], ["dpo", "grpo"])
        assert [shown["different"] for shown in found["shown"]] == [[]]
        assert list(found["shown"][0]["views"]) == ["grpo", "dpo", "evaluation", "model card"]


def test_tools_do_not_reach_the_prompt_of_a_distillation() -> None:
    encoder, at = of_trl("qwen3"), ("stages", 0, "data")
    prompts, table = distill._prompts(encoder, [pair()], at)
    assert (len(prompts), list(table)) == (1, [tuple(encoder.prompts([pair().prompt])[0])])
    with pytest.raises(UserError, match="the prompt of row 'r1' of s has tools or parts that TRL's") as raised:
        distill._prompts(encoder, [pair(tools=[TOOL])], at)
    assert raised.value.at == at


def test_rows_with_other_arguments_keep_their_own_in_grpo() -> None:
    """Arrow, in which TRL's datasets are stored, gives all objects of a column the keys of all others."""
    other = {"type": "function", "function": {"name": "find", "arguments": {"year": 1999}}}
    examples = [pair(), pair(prompt=[TALK[0], {**TALK[1], "tool_calls": [other]}, TALK[2]], tools=[TOOL])]
    encoder = of_trl("qwen3")
    rows = training._prompts(examples)
    assert training.GroupPrompts(encoder)(rows["prompt"])[0] == encoder.prompts([e.prompt for e in examples])
    texts = [encoder.text(e.prompt) for e in examples]
    assert "year" not in texts[0]
    assert "null" not in "".join(texts)
    assert ["Looks up." in text for text in texts] == [False, True]


@pytest.mark.parametrize(
    ("changed", "lost"),
    [({}, "tool_calls"), ({"prompt": TALK[:1], "tools": [TOOL]}, "tools")],
)
def test_what_a_template_does_not_write_is_refused_by_key(changed: dict, lost: str) -> None:
    encoder = Encoder(tokenizer(TURNS + ASKS), thinking=False)
    with pytest.raises(UserError, match=f"leaves {lost} out of the prompt of row 'r1'"):
        encoder.tokens([pair(**changed)])
    silent = TURNS.replace("{{", "{% if m['role'] != 'tool' %}{{").replace("}}", "}}{% endif %}")
    encoder = Encoder(tokenizer(silent + ASKS), thinking=False)
    with pytest.raises(UserError, match="leaves the reply of a tool out"):
        encoder.tokens([pair(prompt=[TALK[0], TALK[2]])])


@pytest.mark.parametrize(
    ("name", "changed", "lost"),
    [
        ("gptoss", {"prompt": [TALK[0], {**TALK[1], "tool_calls": [CALL, CALL]}, TALK[2]]}, "one of 2 tool_calls"),
        ("qwen3", {"prompt": [{"role": "developer", "content": "Be short."}, TALK[0]]}, "the message of the role 'dev"),
        ("qwen3", {"prompt": [*TALK[:2], {**TALK[2], "role": "ipython"}]}, "the message of the role 'ipython'"),
    ],
)
def test_a_part_of_several_and_a_role_that_a_template_drops(name: str, changed: dict[str, Any], lost: str) -> None:
    with pytest.raises(UserError, match=f"leaves {lost}.* out of the prompt of row 'r1'"):
        of_trl(name).tokens([pair(**changed)])
    calls = [{**CALL, "id": "c1"}, {"id": "c2", **CALL, "function": {**CALL["function"], "name": "find"}}]
    text = of_trl("qwen3").text(pair(prompt=[TALK[0], {**TALK[1], "tool_calls": calls}, TALK[2]]).prompt)
    assert '"find"' in text


def test_names_that_a_template_does_not_write_are_told() -> None:
    found = prompt_audit.audit(of_trl("qwen2_5"), [pair()], ["dpo"])
    assert [w for w in found["warnings"] if "does not write" in w] == [
        "the chat template does not write 'name' of messages",
        "the chat template does not write 'tool_call_id' of messages",
    ]


# --- the end token and the token to pad with -----------------------------------------------------------------------


LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>")
FALCON = (">>TITLE<<", ">>ANSWER<<")
ONE_TOKEN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}" + (
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def saved(folder: Path, special: tuple[str, ...] = (), template: str = TURNS + ASKS, **named: Any) -> Base:
    tokenizer(template, special, **named).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return Base(str(folder), "o/n")


@pytest.mark.parametrize(
    ("special", "bos", "eos", "pad", "chosen"),
    [
        (LLAMA3, "<|begin_of_text|>", "<|im_end|>", None, "<|reserved_special_token_0|>"),
        (FALCON, "<|endoftext|>", "<|endoftext|>", None, ">>TITLE<<"),
        (("<pad>",), "<BOS>", "<EOS>", None, "<pad>"),
        ((), "<BOS>", "<|im_end|>", None, "<BOS>"),
        ((), "<BOS>", "<EOS>", "<|im_end|>", "<BOS>"),  # that padding would end what is taught
        ((), "<BOS>", "<EOS>", "<EOS>", "<BOS>"),
        ((), "<|endoftext|>", "<|endoftext|>", None, "<|endoftext|>"),  # the base's, not the one that is taught
    ],
)
def test_padding_is_a_token_that_ends_nothing(
    tmp_path: Path, special: tuple[str, ...], bos: str, eos: str, pad: str | None, chosen: str
) -> None:
    made = load_tokenizer(saved(tmp_path, special, bos_token=bos, eos_token=eos, pad_token=pad))
    assert made.pad_token == chosen
    encoder = Encoder(made, thinking=False)
    assert made.convert_ids_to_tokens(encoder.end) == "<|im_end|>"
    assert made.pad_token_id != encoder.end
    assert made.decode(encoder.prompts([ASKED])[0]) == encoder.text(ASKED), "no text becomes padding"
    made.save_pretrained(tmp_path / "adapter")
    assert load_tokenizer(Base(str(tmp_path / "adapter"), "o/n")).pad_token == chosen, "extraction, merging, users"


def test_a_tokenizer_with_one_special_token_learns_its_end_though_it_pads_with_it(tmp_path: Path) -> None:
    """As GPT-2, whose vocabulary holds nothing else; TRL's collators mask padding by place."""
    end = "<|endoftext|>"
    made = load_tokenizer(saved(tmp_path, (), ONE_TOKEN, bos_token=end, eos_token=end, pad_token=None))
    assert made.pad_token == end
    encoder = Encoder(made, thinking=False)
    rows = [Example(str(n), "s", ASKED, ANSWER * n) for n in (1, 2)]
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    batch = DataCollatorForLanguageModeling(pad_token_id=made.pad_token_id)(list(training._tokens(encoder, rows)))
    assert [int((row == encoder.end).sum()) for row in batch["labels"]] == [1, 1]
    assert prompt_audit.audit(encoder, rows, ["sft"])["end_token_lost"] == 0


def test_the_recipe_names_the_token_to_pad_with(tmp_path: Path) -> None:
    base = saved(tmp_path, FALCON, pad_token=None)

    def padded(token: str) -> Any:
        return load_tokenizer(base, Model(base=base.load, pad_token=token))

    assert padded(">>ANSWER<<").pad_token == ">>ANSWER<<"
    for token, words in {
        "<|im_end|>": "ends answers",
        "<EOS>": "ends answers",
        "the": "no special token",
        ">>ANSWR<<": "Did you mean >>ANSWER<<",
    }.items():
        with pytest.raises(UserError, match=words) as raised:
            padded(token)
        assert raised.value.at == ("model", "pad_token")


def test_the_token_that_is_taught_ends_every_generation(tiny_model: Path) -> None:
    encoder = Encoder(tokenizer(TURNS + ASKS), thinking=False)
    for configured in (None, 7, [7, 9], [encoder.end]):
        stops = encoder.stops(GenerationConfig(eos_token_id=configured))
        assert encoder.end in stops
        assert {7} <= set(stops) or configured in (None, [encoder.end])


def test_an_adapters_tokenizer_without_a_chat_template_borrows_the_bases(tmp_path: Path) -> None:
    base, notes = saved(tmp_path / "base"), list[str]()
    bare = PreTrainedTokenizerFast.from_pretrained(base.load)
    bare.chat_template = None
    bare.save_pretrained(tmp_path / "adapter")
    own = Base(str(tmp_path / "adapter"), "o/n")
    with pytest.raises(UserError, match="has no chat template"):
        load_tokenizer(own)
    made = load_tokenizer(own, template_of=base, note=notes.append)
    assert made.chat_template == TURNS + ASKS
    assert notes == [f"the tokenizer in {own.load} has no chat template; that of {base.load} is used"]
    load_tokenizer(base, template_of=own, note=notes.append)
    assert len(notes) == 1


@pytest.mark.slow
def test_completions_of_grpo_end_where_sft_taught_it(tiny_model: Path, tmp_path: Path) -> None:
    """A base whose tokenizer and generation config name another end token than its template writes, as Gemma's."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(save_lively_model(tiny_model, tmp_path / "lively"))
    own = AutoTokenizer.from_pretrained(tmp_path / "lively")
    own.eos_token, own.pad_token, own.unk_token = "<|endoftext|>", "<|im_start|>", None
    base.generation_config.eos_token_id = own.eos_token_id
    rows_of_tokens = base.get_input_embeddings().weight.data
    rows_of_tokens[own.convert_tokens_to_ids("<|im_end|>")] = -rows_of_tokens[-1]  # the zeros of its padding token
    base.config.pad_token_id = None
    base.save_pretrained(tmp_path / "base")
    own.save_pretrained(tmp_path / "base")
    rows = [{"id": str(n), "funding_statement": f"We thank colleague {n}.", "funders": []} for n in range(24)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "ends.yaml").write_text(f"""name: ends
task: {{use: funding, target: compact, system: Extract., user: "{{statement}}"}}
model: {{base: {tmp_path / "base"}}}
lora: {{rank: 8, alpha: 16}}
run_dir: {tmp_path / "runs"}
stages:
  - {{kind: sft, data: [{{path: rows.jsonl}}], learning_rate: 2e-2, batch_size: 8, max_steps: 30, validation: 0,
     schedule: constant}}
  - {{kind: grpo, data: [{{path: rows.jsonl}}], learning_rate: 1e-5, batch_size: 2, group_size: 4, max_steps: 2,
     max_completion_length: 48, temperature: 0.2, rewards: [{{use: funding}}]}}
""")
    done = CliRunner().invoke(app, ["run", str(tmp_path / "ends.yaml")])
    assert done.exit_code == 0, done.output
    log = read_jsonl(tmp_path / "runs" / "ends" / "2-grpo" / "log.jsonl")
    assert all(entry["completions/clipped_ratio"] <= 0.25 for entry in log if "completions/clipped_ratio" in entry)
    assert sum("completions/clipped_ratio" in entry for entry in log) == 2
    graded = read_jsonl(tmp_path / "runs" / "ends" / "2-grpo" / "rollouts-0.jsonl")
    assert sum(entry["completion"] == "[]" for entry in graded) > len(graded) / 2, "nothing behind the end token"
