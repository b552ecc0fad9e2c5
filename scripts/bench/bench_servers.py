"""An adapter over statements: `adapters extract` on two cores beside servers with the merged model, all in one run.

    python scripts/bench/bench_servers.py RUN STATEMENTS.jsonl --out FOLDER [--vllm FOLDER] [-n 347]

All compute in bfloat16 where the processor does, else in 32 bits; llama.cpp's kernels are its own in any case. The
servers: vLLM's CPU build (`make vllm`), llama.cpp in bf16 and q8_0 (`make llama`), and transformers' continuous
batching in this process. What is not there is left out, and said. Each is asked with 8, 16 and 32 requests at a time,
after a first pass over 16 statements, and the fastest counts; loading is not timed. Answers are greedy. Records are
compared with those of `adapters extract --engine transformers` in 32 bits, and with the statements' own labels: F1 over
all fields, and its change against 32 bits with a 95 % paired interval.

The last lines say what the machine can do, measured before and after: a copy in memory, a product of matrices, and
which share of the first a decoding step of one row reaches, of the second one of 32 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import benchmarks

sys.path.insert(0, str(Path(__file__).parents[1]))
from command_checks import ENV, FailedError, adapters, running

from adapters.errors import UserError

AT_A_TIME = (8, 16, 32)
FAULTS = (FailedError, SystemExit, UserError, RuntimeError, OSError, subprocess.SubprocessError)
LENGTH = 1536
"""Tokens that a server keeps for a request."""

ASK = (
    """
import json
from adapters.extraction import adapter_source, engines
from adapters.extraction.engine import Options, Request
o = json.loads(sys.argv[1])
rows = [json.loads(line) for line in open(o["file"])][: o["n"]]
source = adapter_source.find(o["run"])
if o["precision"]:
    from dataclasses import replace
    source = replace(source, model=source.model.model_copy(update={"precision": o["precision"]}))
options = Options(max_new_tokens=o["limit"], constrain="off", **o["options"])
engine = engines.make(o["engine"], source, options, lambda note: None)
requests = [Request(n, source.task.request(row)) for n, row in enumerate(rows)]
list(engine(requests[:16]))
"""
    + benchmarks.ANSWERS
)
BATCHING = """
import json, time
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig
from adapters.backends.json_stop import first_value
from adapters.extraction import adapter_source
o = json.loads(sys.argv[1])
rows = [json.loads(line) for line in open(o["file"])][: o["n"]]
source = adapter_source.find(o["run"])
tokenizer = AutoTokenizer.from_pretrained(o["merged"])
dtype = getattr(torch, o["type"])
model = AutoModelForCausalLM.from_pretrained(o["merged"], dtype=dtype, attn_implementation="sdpa").eval()
prompts = [tokenizer.apply_chat_template([dict(m) for m in source.task.request(row)], add_generation_prompt=True)
           for row in rows]
prompts = [p["input_ids"] if hasattr(p, "keys") else p for p in prompts]
config = GenerationConfig(max_new_tokens=o["limit"], do_sample=False, eos_token_id=tokenizer.eos_token_id,
                          pad_token_id=tokenizer.pad_token_id)
shape = ContinuousBatchingConfig(num_blocks=o["at_a_time"] * 8, max_batch_tokens=512,
                                 max_requests_per_batch=o["at_a_time"])
model.generate_batch(inputs=prompts[:16], generation_config=config, continuous_batching_config=shape)
start, tokens, records = time.perf_counter(), 0, [None] * len(rows)
done = model.generate_batch(inputs=prompts, generation_config=config, continuous_batching_config=shape)
spent = time.perf_counter() - start
answers = sorted(done.values(), key=lambda a: int(a.request_id.rpartition("_")[2]))
if len(answers) < len(prompts) or any(a.error for a in answers):
    raise SystemExit(f"{len(answers)} of {len(prompts)} answers, errors: {[a.error for a in answers if a.error][:1]}")
for n, answer in enumerate(answers):
    tokens += len(answer.generated_tokens)
    try:
        text = tokenizer.decode(answer.generated_tokens, skip_special_tokens=True)
        records[n] = source.task.record(first_value(text))
    except ValueError:
        pass
result = {"work": spent, "tokens": tokens, "records": records}
"""
LIMITS = """
import json
import torch
from adapters.backends.local import base_model, model as loading
from adapters.backends.local.speedups import caches
from adapters.extraction import adapter_source
o = json.loads(sys.argv[1])
sys.path.insert(0, o["bench"])
from benchmarks import copied, fastest, multiplied
source = adapter_source.find(o["run"])
base = base_model.resolve(source.model.base, source.model.revision)
merged = loading.load_merged(base, source.model, source.adapter).eval()
layers = [m.weight for m in merged.modules() if isinstance(m, torch.nn.Linear)]
rate = multiplied(layers[0].dtype)
size, weights = sum(w.numel() * w.element_size() for w in layers), sum(w.numel() for w in layers)
def step(rows):
    cache = caches.new_cache(merged)
    with torch.inference_mode():
        caches.step(merged, torch.full((rows, 128), 7), cache)
        return fastest(lambda: caches.step(merged, torch.full((rows, 1), 7), cache), 24)
one, many = step(1), step(32)
result = {"copied": copied(2**28), "rate": rate, "one": one, "many": many}
result |= {"read": size / one, "done": 64 * weights / many}
result["type"] = str(layers[0].dtype).removeprefix("torch.")
"""


def main() -> None:
    """Merge, serve, ask and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("run", type=Path)
    arguments.add_argument("file", type=Path)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--vllm", type=Path, default=Path("build/vllm"), help="an environment with vLLM")
    arguments.add_argument("--llama", type=Path, help="a folder of llama.cpp; default: that of `make llama`")
    arguments.add_argument("-n", type=int, default=347)
    arguments.add_argument("--max-new-tokens", type=int, default=384)
    arguments.add_argument("--at-a-time", type=int, nargs="+", default=AT_A_TIME)
    arguments.add_argument("--only", nargs="+", metavar="SERVER", help="by the names of the table; default: all")
    options = arguments.parse_args()
    given = {"run": str(options.run), "file": str(options.file), "n": options.n, "limit": options.max_new_tokens}
    given |= {"precision": None, "options": {}, "engine": "transformers", "bench": str(Path(__file__).parent)}
    commands: list[str] = []
    before = benchmarks.in_process(LIMITS, [json.dumps(given)])
    given["type"] = before["type"]
    contenders = servers(options, given, commands)
    if options.only:
        if unknown := {*options.only} - contenders.keys():
            arguments.error(f"--only: there is no {', '.join(unknown)}; there are {', '.join(contenders)}")
        contenders = {name: contenders[name] for name in options.only}
    reference = benchmarks.in_process(ASK, [json.dumps({**given, "precision": "fp32"})])["records"]
    left_out: list[str] = []
    settings = f"`adapters extract --engine transformers`, {given['type']}, at a time {options.at_a_time}, all cores"
    commands.append(f"ours: {settings}; continuous batching: 8 blocks a request, 512 tokens a pass, sdpa")
    found: dict[str, Mapping[str, Any]] = {"ours": swept(given, options.at_a_time, ours)}
    for name, contender in contenders.items():
        try:
            found[name] = contender()
            told = {key: value for key, value in found[name].items() if key != "records"}
            print(name, told, file=sys.stderr, flush=True)
        except FAULTS as error:
            left_out.append(f"{name}: left out: {str(error).strip().splitlines()[-1]}")
            print(left_out[-1], file=sys.stderr, flush=True)
    show(options, found, reference)
    print("\n".join(["", *commands, *left_out]))
    after = benchmarks.in_process(LIMITS, [json.dumps(given)])
    for can in (before, after):
        print(
            f"\ncopy {can['copied'] / 1e9:.1f} GB/s, matrices {can['rate'] / 1e9:,.0f} GFLOP/s; a step of one "
            f"row ({can['type']}) {1000 * can['one']:.1f} ms, {can['read'] / can['copied']:.0%} of the copy; of 32 "
            f"rows {1000 * can['many']:.1f} ms, {can['done'] / can['rate']:.0%} of the matrices"
        )
    print(f"\n{benchmarks.machine()}")


def show(options: argparse.Namespace, found: Mapping[str, Mapping[str, Any]], reference: Sequence[Any]) -> None:
    """The table, in ratios of ours."""
    from adapters.evaluation.held_out import HeldOut
    from adapters.extraction import adapter_source
    from adapters.files import read_jsonl

    mine, task = found["ours"]["work"], adapter_source.find(str(options.run)).task
    judge = HeldOut(task, tuple(map(task.example, read_jsonl(options.file)[: options.n])), "f1")

    def counted(records: Sequence[Any]) -> Any:
        return judge.rows(["" if record is None else json.dumps(record) for record in records])

    def quality(records: Sequence[Any]) -> tuple[str, str]:
        change = judge.change(counted(reference), counted(records))
        return f"{judge.figure(counted(records)).value:.3f}", "{:+.3f} ({:+.3f} to {:+.3f})".format(*change)

    title = f"{len(reference)} statements, up to {options.max_new_tokens} new tokens, greedy"
    speed = ("contender", "at a time", "statements/s", "tokens/s", "times ours")
    columns = (*speed, "records", "as in 32 bits", "F1", "change to 32 bits")
    rows = [
        (
            *(name, f["at_a_time"], f"{len(reference) / f['work']:.2f}", f"{f['tokens'] / f['work']:,.0f}"),
            *(f"{f['work'] / mine:.2f}x", sum(r is not None for r in f["records"])),
            sum(a is not None and a == b for a, b in zip(f["records"], reference, strict=True)),
            *quality(f["records"]),
        )
        for name, f in found.items()
    ]
    benchmarks.markdown(title, columns, rows)


def swept(given: Mapping[str, Any], sizes: Sequence[int], ask: Callable[..., Mapping[str, Any]]) -> Mapping[str, Any]:
    """The fastest of several numbers of requests at a time. One that fails is left out, unless all do."""
    tried, failed = [], list[BaseException]()
    for n in sizes:
        try:
            tried.append({"at_a_time": n, **ask(given, n)})
        except FAULTS as error:
            failed.append(error)
    if not tried:
        raise failed[0]
    return min(tried, key=lambda one: one["work"])


def ours(given: Mapping[str, Any], at_a_time: int) -> Mapping[str, Any]:
    """`adapters extract` in a process of its own."""
    return benchmarks.in_process(ASK, [json.dumps({**given, "options": {"batch_size": at_a_time}})])


def servers(
    options: argparse.Namespace, given: Mapping[str, Any], commands: list[str]
) -> dict[str, Callable[[], Mapping[str, Any]]]:
    """Name -> what asks that server, of the merged model, which is made where it is missing.

    `commands` gets the version and the command of each server that is started.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    merged, files = options.out / "merged", {kind: options.out / f"gguf-{kind}" for kind in ("bf16", "q8_0")}
    if not merged.is_dir():
        adapters("merge", options.run, "-o", merged, "--dtype", str(given["type"]))

    def vllm(at_a_time: int) -> tuple[list[str], dict[str, str]]:
        shape = ["--dtype", str(given["type"]), "--max-model-len", str(LENGTH)]
        shape += ["--max-num-seqs", str(at_a_time), "--port"]
        program = options.vllm / "bin" / "vllm"
        return [str(program), "serve", str(merged), *shape], {**ENV, "VLLM_CPU_KVCACHE_SPACE": "2"}

    def llama(kind: str, at_a_time: int) -> tuple[list[str], dict[str, str]]:
        from adapters.publish import gguf, llama_server

        tools = gguf.converters(options.llama)
        if not files[kind].is_dir():
            adapters("merge", options.run, "-o", files[kind], "--gguf", kind, "--llama-cpp", tools.folder)
        program = llama_server.server(tools)
        shape = ["--jinja", "--ctx-size", str(LENGTH * at_a_time), "--parallel", str(at_a_time), "--offline"]
        shape += ["--threads", str(os.cpu_count()), "--port"]
        return [str(program), "-m", str(next(files[kind].glob("*.gguf"))), *shape], llama_server.libraries(program)

    def asked(command: Callable[[int], tuple[list[str], dict[str, str]]]) -> Mapping[str, Any]:
        def ask(given: Mapping[str, Any], at_a_time: int) -> Mapping[str, Any]:
            words, env = command(at_a_time)
            own = "".join(f"{name}={value} " for name, value in env.items() if name.startswith("VLLM"))
            told = f"{benchmarks.version_line(words[0], env)}: {own}"
            commands.append(
                f"{told}`{' '.join([Path(words[0]).name, *words[1:]])} PORT`".replace(str(options.out), "OUT")
            )
            with running(lambda port: [*words, port], options.out / "server.log", env) as address:
                known = {"endpoint": f"{address}/v1", "concurrency": at_a_time}
                return benchmarks.in_process(ASK, [json.dumps({**given, "engine": "endpoint", "options": known})])

        return swept(given, options.at_a_time, ask)

    def batching(given: Mapping[str, Any], at_a_time: int) -> Mapping[str, Any]:
        return benchmarks.in_process(BATCHING, [json.dumps({**given, "merged": str(merged), "at_a_time": at_a_time})])

    return {
        "vLLM": lambda: asked(vllm),
        "llama.cpp, bf16": lambda: asked(lambda n: llama("bf16", n)),
        "llama.cpp, q8_0": lambda: asked(lambda n: llama("q8_0", n)),
        "transformers, continuous batching": lambda: swept(given, options.at_a_time, batching),
    }


if __name__ == "__main__":
    main()
