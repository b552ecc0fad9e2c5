"""An adapter over statements: `adapters extract`'s engine beside the usage snippet of a model card in a loop.

    python scripts/bench/bench_extract.py RUN_OR_ADAPTER [-n 347] [--file F.jsonl] [--max-new-tokens 512] [--base B]

Each contender has a process of its own, loads the model, and is then timed. Ours runs once as it is, and once without
each of its savings, which tells what that saving is worth. Without a file the statements are synthetic.
Told too: how many statements come out with the snippet's own record (or, like the snippet's, with none).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import benchmarks

SNIPPET = """
import json, time, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from adapters.extraction import adapter_source
from adapters.backends.local import base_model
from adapters.backends.json_stop import first_value
o = json.loads(sys.argv[1])
rows = [json.loads(line) for line in open(o["file"])]
source = adapter_source.find(o["adapter"], base=o["base"])
base = base_model.resolve(source.model.base).load
own = (source.adapter / "tokenizer_config.json").is_file()
tokenizer = AutoTokenizer.from_pretrained(source.adapter if own else base)
model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, o["dtype"]) if o["dtype"] != "auto" else "auto")
model = PeftModel.from_pretrained(model, source.adapter).eval()
if torch.accelerator.is_available():
    model = model.to(torch.accelerator.current_accelerator())
start, tokens, records = time.perf_counter(), 0, [None] * len(rows)
for n, row in enumerate(rows):
    messages = [dict(m) for m in source.task.request(row)]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True,
                                           enable_thinking=source.model.thinking).to(model.device)
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=o["limit"], do_sample=False)
    answer = out[0, inputs["input_ids"].shape[1]:]
    tokens += len(answer)
    try:
        records[n] = source.task.record(first_value(tokenizer.decode(answer, skip_special_tokens=True)))
    except ValueError:
        pass
result = {"work": time.perf_counter() - start, "tokens": tokens, "records": records}
"""
OURS = (
    """
import json
from adapters.extraction import adapter_source, engines
from adapters.extraction.engine import Options, Request
from adapters.backends.local import generate
from adapters.backends.local.speedups import caches
o = json.loads(sys.argv[1])
if o["without"] == "shared prefix":
    caches.shared_prefix = lambda prompts: 0
if o["without"] == "rows leaving the batch, shared prefix":
    caches.can_share = lambda model: False
if o["without"] == "stop at the end of the JSON":
    init = generate.LocalSampler.__init__
    generate.LocalSampler.__init__ = lambda self, *a, **k: init(self, *a, **{**k, "stop_at_json": False})
rows = [json.loads(line) for line in open(o["file"])]
source = adapter_source.find(o["adapter"], base=o["base"])
batch = 1 if o["without"] == "batches" else None
options = Options(max_new_tokens=o["limit"], batch_size=batch)
engine = engines.make("transformers", source, options, lambda note: print(note, file=sys.stderr))
requests = [Request(n, source.task.request(row)) for n, row in enumerate(rows)]
"""
    + benchmarks.ANSWERS
)
WITHOUT = ("", "stop at the end of the JSON", "shared prefix", "rows leaving the batch, shared prefix", "batches")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("adapter")
    arguments.add_argument("-n", type=int, default=347)
    arguments.add_argument("--file", type=Path, help="JSONL with the task's text column")
    arguments.add_argument("--max-new-tokens", type=int, default=512)
    arguments.add_argument("--base")
    arguments.add_argument("--dtype", default="auto", help="of the snippet: auto (as cards have it), bfloat16 …")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        statements = Path(folder) / "statements.jsonl"
        if options.file:
            lines = options.file.read_text(encoding="utf-8").splitlines(keepends=True)[: options.n]
            statements.write_text("".join(lines), encoding="utf-8")
        else:
            from adapters.data_aug.funding_statements import synthesize
            from adapters.files import write_jsonl

            rows = synthesize(options.n, 7)
            write_jsonl(statements, rows)
        given = {"adapter": options.adapter, "base": options.base, "file": str(statements)}
        given |= {"limit": options.max_new_tokens, "dtype": options.dtype}
        found = {"usage snippet in a loop": benchmarks.in_process(SNIPPET, [json.dumps(given)])}
        for without in WITHOUT:
            name = f"ours without: {without}" if without else "ours"
            found[name] = benchmarks.in_process(OURS, [json.dumps({**given, "without": without})])
    count, snippet = options.n, found["usage snippet in a loop"]
    benchmarks.markdown(
        f"{count} statements, up to {options.max_new_tokens} new tokens, greedy",
        ("contender", "statements/s", "ratio", "tokens", "records", "as the snippet's", "peak GB"),
        [
            (
                name,
                f"{count / f['work']:.2f}",
                f"{snippet['work'] / f['work']:.1f}x",
                f["tokens"],
                sum(r is not None for r in f["records"]),
                sum(a == b for a, b in zip(f["records"], snippet["records"], strict=True)),
                f"{f['peak_gb']:.2f}",
            )
            for name, f in found.items()
        ],
    )
    print(f"\n{benchmarks.machine()}")


if __name__ == "__main__":
    main()
