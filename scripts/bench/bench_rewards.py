"""How fast the funding reward is, against a plain implementation of the same arithmetic.

    python scripts/bench/bench_rewards.py [--pairs 1000] [--seed 0]

The plain implementation normalises at every comparison and runs one full matching for funders and another for award
ids. Tests compare the reward with it, so it shares no code with `rewards`. Last, how fast values are looked up in
their texts.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import ftfy
import numpy as np
from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein
from scipy.optimize import linear_sum_assignment

Group = tuple[str | None, list[dict[str, list[str]]]]
FIELDS = {"award_id": "award_ids", "scheme": "funding_scheme", "title": "award_title"}


# ------------------------------------------------------------------------------------------- plain implementation


def normalise(text: str) -> str:
    text = ftfy.fix_text(text)
    for old, new in (("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"), ("``", '"'), ("''", '"')):
        text = text.replace(old, new)
    text = re.sub("[\u22c6\u2022*]", "", text)
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"\\([a-z])", r"\1", text).strip()


def normalise_id(text: str) -> str:
    return re.sub(r"[\s\-/]", "", text.strip().upper())


def similarity(a: str, b: str, mode: str) -> float:
    a, b = normalise(a), normalise(b)
    sort = fuzz.token_sort_ratio(a, b) / 100
    if mode == "strict":
        return sort
    if mode == "permissive":
        return max(
            fuzz.partial_ratio(a, b) / 100, fuzz.partial_ratio(b, a) / 100, sort, fuzz.token_set_ratio(a, b) / 100
        )
    if not a or not b:
        return 0.0
    shorter, longer = (a, b) if len(a) <= len(b) else (b, a)
    for acronym in re.findall(r"\(([^)]*)\)", longer):
        acronym = acronym.strip()
        if acronym.isupper() and len(acronym) <= 10 and fuzz.ratio(shorter.upper(), acronym.upper()) >= 90:
            return max(sort, 0.90)
    short, long = ({t for t in re.split(r"[\s/\-,]+", s.lower()) if t} for s in (shorter, longer))
    if short and short <= long and len(shorter) / len(longer) >= 0.45:
        return max(sort, 0.85)
    return sort


def assign(scores: list[list[float]], threshold: float) -> list[tuple[int, int]]:
    if not scores or not scores[0]:
        return []
    matrix = np.array(scores)
    matrix[matrix < threshold] = 0.0
    rows, columns = linear_sum_assignment(-matrix)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if matrix[i, j] >= threshold]


def matched_texts(gold: list[str], pred: list[str], mode: str) -> list[tuple[int, int]]:
    return assign([[similarity(a, b, mode) for b in pred] for a in gold], 0.8)


def matched_ids(gold: list[str], pred: list[str], soft: bool) -> float:
    pairs = assign([[float(normalise_id(a) == normalise_id(b)) for b in pred] for a in gold], 1.0)
    if not soft:
        return len(pairs)
    rows = [a for i, a in enumerate(gold) if i not in {i for i, _ in pairs}]
    columns = [b for j, b in enumerate(pred) if j not in {j for _, j in pairs}]
    return len(pairs) + 0.5 * len(assign([[near(a, b) for b in columns] for a in rows], 0.5))


def near(a: str, b: str) -> float:
    a, b = normalise_id(a), normalise_id(b)
    return 0.5 if min(len(a), len(b)) >= 6 and Levenshtein.distance(a, b) == 1 else 0.0


def merge(funders: list[dict[str, Any]], mode: str) -> list[Group]:
    groups: list[Group] = [(f["funder_name"], list(f["awards"])) for f in funders if f["funder_name"]]
    while len(groups) > 1:
        n = len(groups)
        scores = [[0.0] * n for _ in range(n)]
        for i in range(n):
            for j in range(i + 1, n):
                scores[i][j] = scores[j][i] = similarity(groups[i][0] or "", groups[j][0] or "", mode)
        merged, used = [], set[int]()
        for i, j in assign(scores, 0.8):
            if i < j and not {i, j} & used:
                merged.append((groups[i][0], groups[i][1] + groups[j][1]))
                used |= {i, j}
        if not merged:
            break
        groups = merged + [g for i, g in enumerate(groups) if i not in used]
    unnamed = [f["awards"] for f in funders if not f["funder_name"]]
    return [*groups, (None, [award for awards in unnamed for award in awards])] if unnamed else groups


def plain_counts(
    gold: list[dict[str, Any]], pred: list[dict[str, Any]], mode: str, soft: bool = False
) -> dict[str, tuple[float, float, float]]:
    """(gold, pred, matched) per field."""
    left, right = merge(gold, mode), merge(pred, mode)
    a, b = [name for name, _ in left if name], [name for name, _ in right if name]
    pairs = matched_texts(a, b, mode)
    found: dict[str, tuple[float, float, float]] = {"funder": (len(a), len(b), len(pairs))}
    if len(left) > len(a) and len(right) > len(b):
        pairs = [*pairs, (len(a), len(b))]
    for field, key in FIELDS.items():
        flat = [[[text for award in awards for text in award[key]] for _, awards in side] for side in (left, right)]
        matched = 0.0
        for i, j in pairs:
            texts = flat[0][i], flat[1][j]
            matched += matched_ids(*texts, soft) if field == "award_id" else len(matched_texts(*texts, mode))
        found[field] = sum(map(len, flat[0])), sum(map(len, flat[1])), matched
    return found


def f_half(gold: float, pred: float, matched: float) -> float:
    if not gold and not pred:
        return 1.0
    p, r = matched / pred if pred else 0.0, matched / gold if gold else 0.0
    return 1.25 * p * r / (0.25 * p + r) if p or r else 0.0


def plain_reward(completion: str, gold: list[dict[str, Any]], mode: str = "balanced") -> float:
    """The shaped reward of one completion whose funders are in the nested form."""
    fence = re.search(r"```json\s*(.*?)\s*```", completion, re.DOTALL)
    try:
        pred = json.loads(fence.group(1) if fence else completion.strip())
    except ValueError:
        pred = []
    if not gold or not pred:
        return float(not gold and not pred)
    funder = f_half(*plain_counts(gold, pred, mode)["funder"])
    under = f_half(*plain_counts(gold, pred, mode, soft=True)["award_id"])
    ids = [[i for f in side for award in f["awards"] for i in award["award_ids"]] for side in (gold, pred)]
    anywhere = f_half(len(ids[0]), len(ids[1]), matched_ids(ids[0], ids[1], soft=True))
    return 0.5 * funder + 0.4 * under + 0.1 * anywhere


# ------------------------------------------------------------------------------------------------- made-up corpus

PLACES = ("Austria", "Brazil", "Chile", "Denmark", "Estonia", "Ghana", "Hungary", "India", "Japan", "México", "Perú")
BODIES = (
    "National Science Foundation of {}",
    "{} Ministry of Education and Research",
    "Research Council of {}",
    "Fundação de Amparo à Pesquisa ({}RC)",
    "{} Academy of Sciences",
    "University of {}",
    "Wellcome Trust/{} Alliance",
    "Alzheimer’s Research {}",
    "{} Space Agency (ESA)",
)
IDS = ("DMS-{}", "R01 EY{}", "{}", "EP/V{}/1", "2018YFC{}", "ANR-17-{}")


def make_pairs(n: int, seed: int, group: int = 8) -> list[tuple[str, list[dict[str, Any]]]]:
    """n (completion, gold) pairs, `group` completions for each gold, with the errors that models make."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(-(-n // group)):
        gold = [_funder(rng) for _ in range(rng.choices((0, 1, 2, 3, 4, 6, 9), (1, 8, 8, 6, 4, 2, 1))[0])]
        pairs += [(_completion(rng, gold), gold) for _ in range(group)]
    return pairs[:n]


def _funder(rng: random.Random) -> dict[str, Any]:
    ids = [rng.choice(IDS).format(rng.randrange(10**5, 10**7)) for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))]
    name = rng.choice(BODIES).format(rng.choice(PLACES)) if rng.random() < 0.97 else None
    return {"funder_name": name, "awards": [{"funding_scheme": [], "award_ids": ids, "award_title": []}]}


def _completion(rng: random.Random, gold: list[dict[str, Any]]) -> str:
    funders = json.loads(json.dumps(gold))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        funder = rng.choice(funders) if funders else _funder(rng)
        ids = funder["awards"][0]["award_ids"]
        error = rng.randrange(7)
        if error == 0 and funder["funder_name"]:
            at = rng.randrange(len(funder["funder_name"]))
            funder["funder_name"] = funder["funder_name"][:at] + rng.choice("aeost") + funder["funder_name"][at + 1 :]
        elif error == 1 and ids:
            ids[0] = ids[0][:-1] + rng.choice("0123456789")
        elif error == 2 and ids and funders:
            funders[0]["awards"][0]["award_ids"].append(ids.pop())
        elif error == 3 and funder in funders:
            funders.remove(funder)
        elif error == 4:
            funders.append(_funder(rng))
        elif error == 5:
            funders.append(json.loads(json.dumps(funder)))
        elif error == 6 and funder["funder_name"]:
            funder["funder_name"] = re.sub(r" ?\(.*\)| of .*", "", funder["funder_name"])
    text = json.dumps(funders, indent=2, ensure_ascii=False)
    if rng.random() < 0.02:
        return text[: len(text) // 2]
    return f"```json\n{text}\n```" if rng.random() < 0.05 else text


def main() -> None:
    """Print the speeds as Markdown, and check that the scores agree."""
    import benchmarks

    from adapters.rewards.funding import Funding
    from adapters.types import Example

    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pairs", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    pairs = make_pairs(options.pairs, options.seed)
    reward = Funding()

    def ours(some: list[tuple[str, list[dict[str, Any]]]]) -> list[float]:
        return [reward(c, Example("", "bench", (), gold=gold)).score or 0.0 for c, gold in some]

    def plain(some: list[tuple[str, list[dict[str, Any]]]]) -> list[float]:
        return [plain_reward(completion, gold) for completion, gold in some]

    start = time.perf_counter()
    scores = ours(pairs)
    cold = time.perf_counter() - start
    if scores != plain(pairs):
        raise SystemExit("the scores differ from the plain implementation")
    # Fresh pairs in every round: in training no completion comes twice.
    rounds = iter([make_pairs(options.pairs, options.seed + 1 + n) for n in range(options.rounds)])
    fresh = statistics.median(_seconds(ours, next(rounds)) for _ in range(options.rounds))
    slow = benchmarks.turns({"plain": lambda: plain(pairs), "again": lambda: ours(pairs)}, options.rounds)
    seconds = {"plain": slow["plain"], "ours, in a new process": cold}
    seconds |= {"ours, new completions": fresh, "ours, the same completions again": slow["again"]}
    distinct = len({(completion, json.dumps(gold)) for completion, gold in pairs})
    benchmarks.markdown(
        f"Funding reward, {len(pairs)} completions ({distinct} distinct), 8 for each gold, one core, equal scores",
        ("implementation", "completions/s", "ratio", "ms for a group of 8", "ms for a batch of 128"),
        [
            (
                name,
                f"{len(pairs) / s:,.0f}",
                f"{slow['plain'] / s:.1f}x",
                *(f"{s / len(pairs) * n:.2f}" for n in (8e3, 128e3)),
            )
            for name, s in seconds.items()
        ],
    )
    print(f"\n{benchmarks.machine()}; mean reward {sum(scores) / len(scores):.4f}")
    grounding(options.pairs, options.seed, options.rounds)
    print(f"\n{benchmarks.machine()}")


WRITTEN: dict[str, Callable[[str], str]] = {
    "as the text has it": lambda value: value,
    "in other case and broken over a line": lambda value: f"{value[:2]}-\n{value[2:]}".upper(),
    "with a letter more": lambda value: f"{value[:2]}x{value[2:]}",
    "not in the text": lambda value: f"Agency for Unfounded Claims {value[::-1]}",
}


def grounding(n: int, seed: int, rounds: int) -> None:
    """Print how many values of synthetic statements are looked up in a second of processor time, each text anew."""
    import benchmarks

    from adapters.data_aug.funding_statements import synthesize
    from adapters.data_aug.noise import funding_labels
    from adapters.rewards.grounding import Text

    rows = [(row["funding_statement"], [of.value for of in funding_labels(row)]) for row in synthesize(n, seed)]
    table = []
    for how, write in WRITTEN.items():
        work = [(text, [write(value) for value in values if len(value) > 2]) for text, values in rows]
        seconds, found = [], Counter[str]()
        for _ in range(rounds):
            start = time.process_time()
            found = Counter(within.find(v).match for text, vs in work for within in [Text(text)] for v in vs)
            seconds.append(time.process_time() - start)
        count = found.total()
        kinds = ", ".join(f"{times / count:.0%} {kind}" for kind, times in found.most_common())
        table.append((how, f"{count:,}", f"{count / statistics.median(seconds):,.0f}", kinds))
    title = f"Values looked up in {n} synthetic statements, one core"
    benchmarks.markdown(title, ("the value is written", "n", "alignments/s", "found"), table)


def _seconds(work: Callable[[Any], object], argument: object) -> float:
    start = time.perf_counter()
    work(argument)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
