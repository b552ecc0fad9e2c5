"""Where the time of a decoding step goes on a CPU: matrices, attention, the rest; and what 8 bits could save.

    python scripts/bench/bench_decoding.py RUN_OR_ADAPTER [--rows 1 8 32 64] [--width 200]

The model is merged, in bfloat16, with a cache of --width tokens for each row, of which one row has some masked. A step
reads one token of each row, as `adapters extract` and the sampling of GRPO do. Shares are of the time in operators
(torch.profiler). `8 bits` is the product of the same matrices in 8 bits with dynamic scales (torch.ao, FBGEMM), and the
last column how much faster a step would be with them, were nothing else to change. Each time is the least of several.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import benchmarks
import torch

from adapters.backends.local import base_model
from adapters.backends.local import model as loading
from adapters.backends.local.speedups import caches
from adapters.extraction import adapter_source

MATRICES = ("aten::mm", "aten::addmm", "aten::bmm")
ATTENTION = "aten::_scaled_dot_product"
TIMES = 12


def stepper(model: torch.nn.Module, rows: int, width: int) -> Callable[[], object]:
    """A call that reads one token more of each row."""
    cache, mask = caches.new_cache(model), torch.ones(rows, width, dtype=torch.long)
    mask[0, : width // 8 if rows > 1 else 0] = 0
    caches.step(model, torch.full((rows, width), 7), cache, mask, (mask.cumsum(-1) - 1).clamp(min=0))
    masks = [mask]

    def one() -> None:
        masks[0] = torch.cat([masks[0], masks[0].new_ones(rows, 1)], dim=-1)
        positions = masks[0].sum(-1, keepdim=True) - 1
        caches.step(model, torch.full((rows, 1), 7), cache, masks[0], positions)

    return one


def shares(one: Callable[[], object]) -> tuple[float, float]:
    """Shares of matrices and of attention in the time of a step's operators."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(5):
            one()
    spent = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    total = sum(spent.values())
    matrices = sum(spent.get(name, 0) for name in MATRICES) / total
    return matrices, sum(time for name, time in spent.items() if name.startswith(ATTENTION)) / total


def eight_bits(layers: list[torch.nn.Linear], rows: int) -> float:
    """How many times faster the products of a step's matrices are in 8 bits."""
    times = [0.0, 0.0]
    shapes = {layer.weight.shape: sum(other.weight.shape == layer.weight.shape for other in layers) for layer in layers}
    for (out, width), count in shapes.items():
        plain = torch.nn.Linear(width, out, bias=False)
        small = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(plain), {torch.nn.Linear}, torch.qint8)
        weights, given = plain.weight.bfloat16(), torch.randn(rows, width)
        halves = given.bfloat16()
        times[0] += count * benchmarks.fastest(lambda: torch.nn.functional.linear(halves, weights), TIMES)  # noqa: B023 - called at once
        times[1] += count * benchmarks.fastest(lambda: small(given), TIMES)  # noqa: B023 - called at once
    return times[0] / times[1]


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("run")
    arguments.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 64])
    arguments.add_argument("--width", type=int, default=200)
    options = arguments.parse_args()
    warnings.simplefilter("ignore")  # of torch.ao, which says that it moves
    source = adapter_source.find_any(options.run)
    base = base_model.resolve(source.model.base, source.model.revision)
    model = loading.load_merged(base, source.model, source.adapter).bfloat16().eval()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    read = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    copied = benchmarks.copied(2**27)
    lines = []
    for rows in options.rows:
        one = stepper(model, rows, options.width)
        seconds = benchmarks.fastest(one, TIMES)
        matrices, attention = shares(one)
        faster = eight_bits(layers, rows)
        whole = 1 / (1 - matrices + matrices / faster)
        lines.append(
            (
                *(rows, f"{1000 * seconds:.1f}", f"{rows / seconds:,.0f}", f"{matrices:.0%}", f"{attention:.0%}"),
                *(
                    f"{1 - matrices - attention:.0%}",
                    f"{read / seconds / copied:.0%}",
                    f"{faster:.2f}x",
                    f"{whole:.2f}x",
                ),
            )
        )
    columns = (
        "rows",
        "ms",
        "tokens/s",
        "matrices",
        "attention",
        "the rest",
        "of the copy",
        "8 bits",
        "a step with them",
    )
    benchmarks.markdown(f"A decoding step, {options.width} tokens in the cache of each row", columns, lines)
    print(f"\nA copy in memory: {copied / 1e9:.1f} GB/s; the weights of a step: {read / 1e9:.2f} GB")
    print(f"\n{benchmarks.machine()}")


if __name__ == "__main__":
    main()
