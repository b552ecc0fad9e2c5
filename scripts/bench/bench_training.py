"""A training stage of a recipe beside a bare TRL script with the same model, rows, batch and LoRA.

    python scripts/bench/bench_training.py sft recipes/funding_smollm2.yaml --steps 8 data_root=FOLDER
    python scripts/bench/bench_training.py dpo recipes/agent_smollm2.yaml --steps 8 [--adapter A]
    python scripts/bench/bench_training.py grpo recipes/quickstart.yaml --steps 2 --adapter runs/quickstart/1-sft

Each contender has a process of its own. The stage runs as it is, and once without each thing that makes it fast, which
tells what that thing is worth; `bare` is a script as TRL's documentation has it. Parts of a GRPO step are timed in both
by the same clocks around TRL's methods. The recipe's first stage of that kind is taken, with `key=value` overrides.
DPO gets as many pairs as its steps use, because ours scores all pairs of a stage with the reference before the first.

The *matrix rate* is that of a product of two large matrices in the same run, in bfloat16 where the processor computes
in it, else in 32 bits. A step's share of it counts the operations that the rows need at the least: two passes through
the frozen layers (forward, and backward to their inputs), three through the adapter, attention to what came before, and
the vocabulary for targets alone. Padding counts for nothing, and a prefix that rows of a pass share counts once. Two
more steps of the stage run under torch.profiler, which tells which operators take the time.

The last line is what the wrapper costs over all steps of the recipe: the plan, callbacks, and what stands around the
trainer beyond what stands around it in the bare script. The NLL on held-out rows is left out: it is an evaluation.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import benchmarks

CLOCKS = """
import dataclasses, json, time, functools
o = json.loads(sys.argv[1])
spent, open_clocks = {}, []
def clocked(owner, name, label):
    method = getattr(owner, name)
    @functools.wraps(method)
    def timed(*args, **kwargs):
        start = time.perf_counter()
        open_clocks.append(0.0)
        try:
            return method(*args, **kwargs)
        finally:
            whole = time.perf_counter() - start
            inner = open_clocks.pop()
            spent[label] = spent.get(label, 0.0) + whole - inner
            if open_clocks:
                open_clocks[-1] += whole
    setattr(owner, name, timed)
from accelerate import Accelerator
from transformers import Trainer
from transformers.trainer_callback import CallbackHandler
from trl import DPOTrainer, GRPOTrainer, SFTTrainer
import trl.trainer.utils
original_triton = trl.trainer.utils._use_triton
for owner in (DPOTrainer, GRPOTrainer, SFTTrainer):
    clocked(owner, "training_step", "other")
    clocked(owner, "compute_loss", "forward and loss")
clocked(Accelerator, "backward", "backward")
clocked(CallbackHandler, "call_event", "callbacks")
clocked(Trainer, "train", "loop")
clocked(GRPOTrainer, "_generate", "generation")
clocked(GRPOTrainer, "_calculate_rewards", "reward")
clocked(GRPOTrainer, "_get_per_token_logps_and_entropies", "log-probs")
logged = {}
log = Trainer.log
def kept(self, logs, *args, **kwargs):
    logged.update({k: v for k, v in logs.items() if k == "num_tokens"})
    return log(self, logs, *args, **kwargs)
Trainer.log = kept
from adapters.pipeline.plan import make_plan
from adapters.recipe.load import load_recipe
from adapters.backends import backend as make_backend
file = load_recipe(o["recipe"], o["overrides"])
backend = make_backend(file.recipe)
started = time.perf_counter()
job = next(j for j in make_plan(file, backend).jobs if j.stage.kind == o["kind"])
spent["plan"] = time.perf_counter() - started
if o["kind"] == "dpo":
    job = dataclasses.replace(job, examples=job.examples[: o["steps"] * job.stage.batch_size], validation=())
started = time.perf_counter()
"""
AFTER = """
inside = sum(seconds for name, seconds in spent.items() if name != "plan")
spent["around"] = time.perf_counter() - started - inside
result = {"spent": spent, "recipe_steps": job.steps, **logged}
"""
COUNTED = """
import torch
import adapters.backends.local as local
from adapters.backends.local.speedups import padding_free
counted = {"computed": 0, "attended": 0, "targets": 0}
shared_prefixes, without_padding = padding_free.shared_prefixes, local.without_padding
def shared(rows, **options):
    made = shared_prefixes(rows, **options)
    if torch.is_grad_enabled():
        counted["computed"] += len(made.computed)
        for pieces, own in made.rows:
            counted["attended"] += own * (2 * sum(made.pieces[n] for n in pieces) - own + 1) / 2
    return made
def packed(model, **options):
    layers = [m for m in model.modules() if hasattr(m, "lora_A")]
    counted["frozen"] = sum(m.get_base_layer().weight.numel() for m in layers)
    counted["adapter"] = sum(p.numel() for m in layers for p in (*m.lora_A.parameters(), *m.lora_B.parameters()))
    counted["config"] = model.config
    return without_padding(model, **options)
padding_free.shared_prefixes, local.without_padding = shared, packed
for owner in (DPOTrainer, SFTTrainer):
    def compute_loss(self, model, inputs, *args, plain=owner.compute_loss, **kwargs):
        learned = inputs["labels"] != -100 if "labels" in inputs else inputs["completion_mask"] != 0
        counted["targets"] += int(learned.sum())
        return plain(self, model, inputs, *args, **kwargs)
    owner.compute_loss = compute_loss
def operations():
    config = counted["config"]
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head
    attention = 12 * config.num_hidden_layers * width * counted["attended"]  # two products, forward and twice backward
    vocabulary = 4 * config.vocab_size * config.hidden_size * counted["targets"]
    return counted["computed"] * (4 * counted["frozen"] + 6 * counted["adapter"]) + attention + vocabulary
"""
OURS = (
    CLOCKS
    + COUNTED
    + """
import contextlib
from adapters.backends.local import dpo
from adapters.backends.local import training
from pathlib import Path
if o["without"] == "loss on the targets only":
    trl.trainer.utils._use_triton = original_triton
if o["without"] == "leaving padding out":
    local.without_padding = lambda *_, **__: contextlib.nullcontext()
if o["without"] == "reading prefixes once":
    padding_free.LEAST = sys.maxsize
if o["without"] == "the head's fast log-probabilities":
    local.fast_log_probs = contextlib.nullcontext
from adapters.backends.local.speedups import layers
if o["without"] == "attention as products in 16 bits":
    layers.LONGEST = 0
if o["without"] == "LoRA layers in fewer operations":
    layers.low_rank = lambda *_: contextlib.nullcontext()
local._verify_weights = lambda adapter, **_: None  # a few steps may teach nothing
if o["kind"] == "sft":
    clocked(training, "nll", "held-out NLL")
clocked(dpo, "_with_reference", "reference")
start = Path(o["adapter"]) if o["adapter"] else None
folder = Path(o["folder"]); folder.mkdir(parents=True)
stage = job.stage.model_copy(update={"save_every": job.stage.save_every or max(1, job.steps // 10)})  # as in all steps
train = lambda: backend.train(dataclasses.replace(job, stage=stage, steps=o["steps"]), start, folder, lambda *_: None)
operators = {}
if o["profiled"]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train()
    operators = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
else:
    train()
"""
    + AFTER
    + """
if counted["computed"]:
    result["operations"] = operations()
result["operators"] = operators
"""
)
BARE = (
    CLOCKS
    + """
import torch, trl.trainer.utils
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, GRPOConfig, SFTConfig
from adapters.backends.local.model import precision
from adapters.backends.local.trainer_args import micro_batch
trl.trainer.utils._use_triton = original_triton
stage, recipe, base = job.stage, file.recipe, backend.base
micro, accumulate = micro_batch(stage)
kind = precision(recipe.model)
shared = dict(output_dir=o["folder"], per_device_train_batch_size=micro, gradient_accumulation_steps=accumulate,
              max_steps=o["steps"], learning_rate=stage.learning_rate, bf16=kind == "bf16", fp16=kind == "fp16",
              use_cpu=not torch.accelerator.is_available(), report_to="none", save_strategy="no", logging_steps=1,
              gradient_checkpointing=torch.accelerator.is_available(), disable_tqdm=True)
tokenizer = AutoTokenizer.from_pretrained(base.load)
model = AutoModelForCausalLM.from_pretrained(base.load, dtype=torch.float32 if shared["use_cpu"] else "auto")
lora = LoraConfig(task_type="CAUSAL_LM", r=recipe.lora.rank, lora_alpha=recipe.lora.alpha,
                  lora_dropout=recipe.lora.dropout, target_modules="all-linear")
if o["adapter"]:
    model, lora = PeftModel.from_pretrained(model, o["adapter"], is_trainable=True), None
if o["kind"] == "sft":
    answers = [[{"role": "assistant", "content": e.completion}] for e in job.examples]
    rows = [{"prompt": list(e.prompt), "completion": a} for e, a in zip(job.examples, answers)]
    trainer = SFTTrainer(model=model, args=SFTConfig(**shared, max_length=stage.max_length), peft_config=lora,
                         train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
elif o["kind"] == "dpo":
    said = lambda text: [{"role": "assistant", "content": text}]
    rows = [{"prompt": list(e.prompt), "chosen": said(e.completion), "rejected": said(e.rejected)}
            for e in job.examples]
    trainer = DPOTrainer(model=model, args=DPOConfig(**shared, max_length=stage.max_length, beta=stage.beta),
                         train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora)
else:
    examples, reward = job.examples, job.rewards[0].reward
    def funding(completions, row, **_):
        scored = [reward(c[-1]["content"], examples[n]) for c, n in zip(completions, row)]
        return [s.score if hasattr(s, "score") else s for s in scored]
    rows = [{"prompt": list(e.prompt), "row": n} for n, e in enumerate(examples)]
    args = GRPOConfig(**shared, num_generations=stage.group_size, temperature=stage.temperature, beta=stage.beta,
                      max_completion_length=stage.max_completion_length, scale_rewards=stage.scale_rewards,
                      chat_template_kwargs={"enable_thinking": recipe.model.thinking})
    trainer = GRPOTrainer(model=model, args=args, reward_funcs=funding, train_dataset=Dataset.from_list(rows),
                          processing_class=tokenizer, peft_config=lora)
trainer.train()
trainer.save_model(o["folder"])
"""
    + AFTER
)
RATE = """
import json
from adapters.backends.local.model import arithmetic
from adapters.recipe.load import load_recipe
o = json.loads(sys.argv[1])
sys.path.insert(0, o["bench"])
from benchmarks import multiplied
kind = arithmetic(load_recipe(o["recipe"], o["overrides"]).recipe.model)
result = {"rate": multiplied(kind), "in": str(kind).removeprefix("torch.")}
"""
OPERATORS = {
    "products of matrices": ("mm", "addmm", "addmm_", "bmm", "linear"),
    "attention": ("_softmax", "_softmax_backward_data", "_scaled_dot_product"),
    "casts and copies": ("copy_", "_to_copy", "cat", "clone", "fill_", "index_select"),
    "additions, multiplications and the like": (
        *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "neg", "pow", "rsqrt", "mean", "sum", "exp", "exp_"),
        *("silu", "silu_backward", "cos", "sin", "gelu", "gelu_backward", "lerp_", "addcdiv_", "addcmul_", "sqrt"),
    ),
}
"""Operators of PyTorch whose names are, or in attention begin with, these."""
PARTS = ("generation", "log-probs", "reference", "forward and loss", "reward", "backward", "other")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("kind", choices=("sft", "dpo", "grpo"))
    arguments.add_argument("recipe", type=Path)
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments.add_argument("--steps", type=int, default=8)
    arguments.add_argument("--adapter", help="what a GRPO or DPO stage starts from; default: a fresh adapter")
    arguments.add_argument("--only", nargs="+", metavar="THING", help="run ours without these things alone")
    options = arguments.parse_intermixed_args()
    contenders: dict[str, tuple[str, str, list[str]]] = {
        "bare TRL script": (BARE, "", []),
        "ours": (OURS, "", []),
    }
    own = ("the head's fast log-probabilities", "attention as products in 16 bits", "LoRA layers in fewer operations")
    for without in ("reading prefixes once", *own):
        contenders[f"ours without: {without}"] = (OURS, without, [])
    if options.kind == "sft":
        contenders |= {
            "ours without: leaving padding out, and what builds on it: all but the head (rows are sorted then)": (
                OURS,
                "leaving padding out",
                [],
            ),
            "ours without: loss on the targets only": (OURS, "loss on the targets only", []),
            "ours without: bf16": (OURS, "", ["model.precision=fp32"]),
        }
    if options.only:
        wanted = {"bare TRL script", "ours", *(f"ours without: {thing}" for thing in options.only)}
        if unknown := wanted - contenders.keys():
            arguments.error(f"--only: there is no {', '.join(unknown)}")
        contenders = {name: contenders[name] for name in contenders if name in wanted}
    found = {}
    recipe = {"recipe": str(options.recipe), "overrides": options.overrides, "bench": str(Path(__file__).parent)}
    rate = benchmarks.in_process(RATE, [json.dumps(recipe)])
    if rate["in"] != "bfloat16":
        same = [f"ours without: {thing}" for thing in ("bf16", "attention as products in 16 bits")]
        contenders = {name: contender for name, contender in contenders.items() if name not in same}
    for name, (script, without, extra) in contenders.items():
        with tempfile.TemporaryDirectory() as folder:
            given = {"recipe": str(options.recipe), "overrides": [*options.overrides, *extra], "kind": options.kind}
            given |= {"steps": options.steps, "adapter": options.adapter, "without": without, "profiled": False}
            found[name] = benchmarks.in_process(script, [json.dumps({**given, "folder": f"{folder}/x"})])
    with tempfile.TemporaryDirectory() as folder:
        given |= {"overrides": options.overrides, "steps": 2, "without": "", "profiled": True, "folder": f"{folder}/x"}
        operators = benchmarks.in_process(OURS, [json.dumps(given)])["operators"]
    _print(options.kind, options.steps, found, rate)
    _print_operators(operators)


def _print(kind: str, steps: int, found: dict[str, dict], rate: dict) -> None:
    def step(figures: dict) -> float:
        return sum(figures["spent"].get(part, 0.0) for part in PARTS) / steps

    bare = step(found["bare TRL script"])
    speeds = {n: f["num_tokens"] / steps / step(f) for n, f in found.items() if f.get("num_tokens")}
    rows = []
    for name, f in found.items():
        parts = [f"{f['spent'].get(part, 0.0) / step(f) / steps:.1%}" for part in PARTS]
        tokens = f"{speeds[name]:,.0f}" if name in speeds else "?"
        against = speeds[name] / speeds["bare TRL script"] if speeds else bare / step(f)
        done = f["operations"] / steps / step(f) if kind == "sft" and f.get("operations") else None
        share = "" if done is None else f"{done / rate['rate']:.0%}"
        rows.append((name, f"{step(f):.2f}", tokens, f"{against:.2f}x", f"{f['peak_gb']:.2f}", share, *parts))
    columns = ("contender", "s/step", "tokens/s", "ratio", "peak GB", "of the matrix rate", *PARTS)
    benchmarks.markdown(f"{kind.upper()}, {steps} steps (the ratio is of tokens/s)", columns, rows)
    print(f"\nThe matrix rate: {rate['rate'] / 1e9:,.0f} GFLOP/s in {rate['in']}")
    _print_wrapper(steps, found)


def _print_operators(operators: dict[str, float]) -> None:
    def in_group(name: str, group: str) -> bool:
        bare = name.removeprefix("aten::")
        return bare in OPERATORS[group] or (group == "attention" and bare.startswith(OPERATORS[group]))

    whole = sum(operators.values())
    shares = {g: sum(t for n, t in operators.items() if in_group(n, g)) / whole for g in OPERATORS}
    shares["the rest"] = 1 - sum(shares.values())
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    print(f"\nOperators of two steps, by their own time: {told}")
    print(f"\n{benchmarks.machine()}")


def _print_wrapper(steps: int, found: dict[str, dict]) -> None:
    ours, bare = found["ours"]["spent"], found["bare TRL script"]["spent"]
    whole = found["ours"]["recipe_steps"]
    once = ours["plan"] + ours["around"] - bare["around"]
    each = (ours["callbacks"] - bare["callbacks"]) / steps
    run = sum(ours.get(part, 0.0) for part in (*PARTS, "loop")) / steps * whole + bare["around"]
    print(
        f"\nThe wrapper: {ours['plan']:.1f} s of plan, {ours['around']:.1f} s around the trainer (bare: "
        f"{bare['around']:.1f} s), {1000 * ours['callbacks'] / steps:.0f} ms of callbacks a step (bare: "
        f"{1000 * bare['callbacks'] / steps:.0f} ms): {(once + each * whole) / run:.2%} of {whole} steps"
    )


if __name__ == "__main__":
    main()
