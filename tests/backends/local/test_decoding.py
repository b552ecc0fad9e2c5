"""The fast ways to an answer say what the plain way says."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.backends.json_stop import JsonEnd, first_value
from adapters.backends.repetition import loops

torch = pytest.importorskip("torch")

from adapters.backends.local import (  # noqa: E402
    base_model,
    generate,
)
from adapters.backends.local.encoder import Encoder  # noqa: E402
from adapters.backends.local.generate import LocalSampler  # noqa: E402
from adapters.backends.local.model import load_base  # noqa: E402
from adapters.backends.local.speedups import by_generate, caches, choosing, decoding  # noqa: E402
from adapters.backends.local.speedups.turns import Turns  # noqa: E402
from adapters.backends.local.token_ends import token_ends  # noqa: E402
from adapters.backends.local.tokenizer import load_tokenizer  # noqa: E402
from adapters.recipe.recipe import Model  # noqa: E402
from adapters.tasks.funding import FundingTask  # noqa: E402

TEXTS = [
    "Supported by the Wellcome Trust.",
    "None.",
    "This work was funded by the National Science Foundation under grants AB-1 and AB-2, and by many other bodies "
    "whose names would fill this page and the next one.",
    "Ünïcode – the Österreichische Akademie 日本 gave 12 units.",
    "We thank nobody in particular, twice.",
]


def liven(model) -> None:
    """Larger random weights and an untied head: the tiny model as it is repeats one token whatever it reads."""
    torch.manual_seed(1)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    for name, parameter in model.named_parameters():
        if "proj" in name:
            torch.nn.init.normal_(parameter, std=0.4)


@pytest.fixture(scope="module")
def sampler(tiny_model: Path) -> LocalSampler:
    base = base_model.resolve(str(tiny_model))
    model = load_base(base, Model(base=str(tiny_model), dtype="float32")).eval()
    liven(model)
    return LocalSampler(model, Encoder(load_tokenizer(base), thinking=False))


@pytest.fixture(scope="module")
def prompts(sampler: LocalSampler) -> list[list[int]]:
    return sampler.encoder.prompts([FundingTask().prompt(text) for text in TEXTS])


def plain(sampler: LocalSampler, prompts: list[list[int]], tokens: int, stops: set[int]) -> list[list[int]]:
    return by_generate.generate(sampler.model, prompts, limits=[tokens] * len(prompts), stops=stops, pad=0)


def answered(model, prompts: list[list[int]], **options) -> list[list[int]]:
    """The answers of `greedy`, in the order of the prompts."""
    found = dict(decoding.greedy(model, prompts, **options))
    return [found[n] for n in range(len(prompts))]


def test_shared_prefix_leaves_every_row_a_token(prompts: list[list[int]]) -> None:
    shared = caches.shared_prefix(prompts)
    assert shared > 100, "system prompt and instructions are shared"
    assert len({tuple(p[:shared]) for p in prompts}) == 1
    assert caches.shared_prefix([[1, 2], [1, 2, 3]]) == 1
    assert caches.shared_prefix([[1, 2], [1, 2]]) == 1
    assert caches.shared_prefix([[1], [2]]) == 0
    assert caches.shared_prefix([[1, 2]]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("share", [True, False])
def test_decoding_with_a_shared_prefix_is_generate(
    sampler: LocalSampler, prompts: list[list[int]], share: bool
) -> None:
    assert sampler.shares
    prefix = caches.prefill(sampler.model, prompts[0][: caches.shared_prefix(prompts)]) if share else ()
    expected = plain(sampler, prompts, 40, {2})
    assert len({tuple(row) for row in expected}) > 1, "rows that differ"
    assert answered(sampler.model, prompts, limits=[40] * 5, stops={2}, pad=0, prefix=prefix) == expected


def test_rows_that_end_early_leave_the_batch(sampler: LocalSampler, prompts: list[list[int]]) -> None:
    free = plain(sampler, prompts, 40, {2})
    # Tokens that the rows write at different times, taken as end tokens, make rows of every length.
    stops = {2, *(row[5 * n + 3] for n, row in enumerate(free[:3]))}
    expected = plain(sampler, prompts, 40, stops)
    assert len({len(row) for row in expected}) > 1
    prefix = caches.prefill(sampler.model, prompts[0][: caches.shared_prefix(prompts)])
    for most in (5, 3, 2, 1):
        way = {"prefix": prefix, "order": [2, 0, 4, 1, 3], "most": most}
        assert answered(sampler.model, prompts, limits=[40] * 5, stops=stops, pad=0, **way) == expected, most


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens that passes read, padding included."""
    counts, step = [], decoding.step

    def counted(model: Any, tokens: torch.Tensor, *rest: Any) -> Any:
        counts.append(tokens.numel())
        return step(model, tokens, *rest)

    monkeypatch.setattr(decoding, "step", counted)
    return counts


REPLIES = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16], [21, 22], [31, 32, 33]]


@pytest.mark.parametrize(
    ("room", "most", "saved"), [(10_000, 5, True), (10_000, 2, True), (1_000, 1, True), (0, 5, False)]
)
def test_a_conversation_goes_on_from_what_was_read(
    sampler: LocalSampler, prompts: list[list[int]], read: list[int], room: int, most: int, saved: bool
) -> None:
    free = plain(sampler, prompts, 12, {2})
    options: dict[str, Any] = {"limits": [12] * 5, "stops": {2, free[0][4]}, "pad": 0, "most": most}
    turns, asked = Turns(room), prompts
    for turn in range(3):
        expected = answered(sampler.model, asked, **options)
        whole = sum(read)
        read.clear()
        assert answered(sampler.model, asked, turns=turns, **options) == expected
        assert (sum(read) < whole) == (saved and turn > 0)
        read.clear()
        asked = [[*p, *a, *r] for p, a, r in zip(asked, expected, REPLIES, strict=True)]
        if turn == 1:
            asked = [*asked[:3], prompts[3], [*asked[4][:-8], 3, 4]]  # another conversation, another past
    assert not turns.take([[1, 2]]), "what does not go on is forgotten"
    assert not turns.take(asked)


def test_drawn_turns_go_on_from_what_was_read(sampler: LocalSampler, prompts: list[list[int]], read: list[int]) -> None:
    def drawn(asked: list[list[int]], group: list[int], turns: Turns | None) -> list[list[int]]:
        tokens, mask = caches.padded(sampler.model, asked, 0)
        cache, best = caches.new_cache(sampler.model), choosing.best
        options: dict[str, Any] = {"limits": [9] * len(group), "stops": {2}, "choose": best}
        with torch.no_grad():
            return decoding.decode_groups(sampler.model, cache, tokens, mask, torch.tensor(group), turns, **options)

    turns, group = Turns(), [0, 0, 1, 1, 2]
    first = drawn(prompts[:3], group, turns)
    assert first == drawn(prompts[:3], group, None)
    asked = [[*prompts[g], *a, *r] for g, a, r in zip(group, first, REPLIES, strict=True)]
    read.clear()
    expected = drawn(asked, [0, 1, 2, 3, 4], None)
    whole = sum(read)
    read.clear()
    assert drawn(asked, [0, 1, 2, 3, 4], turns) == expected
    assert sum(read) < whole / 3


@pytest.mark.parametrize("shares", [True, False])
def test_both_ways_end_a_row_where_it_is_told_to(sampler: LocalSampler, prompts: list[list[int]], shares: bool) -> None:
    free = plain(sampler, prompts, 40, {2})

    def ended() -> list[by_generate.Ended]:
        counts = [0] * len(prompts)

        def one(row: int, token: int) -> bool:
            counts[row] += 1
            return counts[row] == 4 + 7 * row

        return [lambda token, row=row: one(row, token) for row in range(len(prompts))]

    way = answered if shares else by_generate.generate
    rows = way(sampler.model, prompts, limits=[40] * 5, stops={2}, pad=0, ended=ended())
    assert rows == [row[: 4 + 7 * n] for n, row in enumerate(free)]


@pytest.mark.parametrize("way", [answered, by_generate.generate])
def test_every_row_has_a_limit_of_its_own(sampler: LocalSampler, prompts: list[list[int]], way) -> None:
    limits = [3, 9, 1, 20, 9]
    rows = way(sampler.model, prompts, limits=limits, stops={2}, pad=0)
    free = plain(sampler, prompts, 20, {2})
    assert rows == [row[:limit] for row, limit in zip(free, limits, strict=True)]


def test_the_context_limits_the_answer(sampler: LocalSampler, prompts: list[list[int]]) -> None:
    context = len(prompts[2]) + 4
    bounded = LocalSampler(sampler.model, sampler.encoder, context=context)
    answers = dict(bounded.answers(prompts, max_new_tokens=30, batch_size=8))
    free = dict(sampler.answers(prompts, max_new_tokens=30, batch_size=8))
    assert answers[2].tokens == 4
    assert answers[2].truncated
    assert answers[1] == free[1]


def test_the_sampler_answers_alike_in_any_batching(sampler: LocalSampler, prompts: list[list[int]]) -> None:
    whole = dict(sampler.answers(prompts, max_new_tokens=24, batch_size=8))
    single = {
        n: next(s for _, s in sampler.answers([p], max_new_tokens=24, batch_size=1)) for n, p in enumerate(prompts)
    }
    assert whole == single
    assert all(s.truncated == (s.tokens == 24) for s in whole.values())


@pytest.mark.parametrize("limit", [1, 7])
def test_an_answer_whose_last_token_is_the_end_is_not_truncated(sampler: LocalSampler, limit: int) -> None:
    end = sampler.encoder.end
    assert not sampler._sample([9] * (limit - 1) + [end], limit).truncated
    assert sampler._sample([9] * limit, limit).truncated
    assert sampler._sample([9] * (limit - 1) + [end], limit).tokens == limit - 1


def test_models_with_other_caches_use_generate(sampler: LocalSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sliding = MistralForCausalLM(
        MistralConfig(vocab_size=32, num_key_value_heads=1, sliding_window=4, max_position_embeddings=64, **shape)
    )
    assert not caches.can_share(sliding)
    recurrent = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=8, num_hidden_layers=1, state_size=2))
    assert not caches.can_share(recurrent)
    monkeypatch.setattr(sampler.model.generation_config, "no_repeat_ngram_size", 3)
    assert not caches.can_share(sampler.model)


def test_memory_that_runs_out_halves_the_batch(
    sampler: LocalSampler, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dict(sampler.answers(prompts, max_new_tokens=8, batch_size=8))
    real, sizes = decoding.greedy, []

    def scarce(model: object, rows: list, **options: Any) -> Iterator[Any]:
        sizes.append((options["most"], len(options["order"])))
        for n, answer in enumerate(real(model, rows, **options)):
            if n and options["most"] > 2:
                raise torch.OutOfMemoryError
            yield answer

    monkeypatch.setattr(decoding, "greedy", scarce)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    assert dict(sampler.answers(prompts, max_new_tokens=8, batch_size=8)) == expected
    assert sizes == [(8, 5), (4, 4), (2, 3)], "what is answered is not answered again"


def test_memory_that_holds_no_row_ends_the_run(
    sampler: LocalSampler, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(*_: object, **__: object) -> Iterator[Any]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(decoding, "greedy", scarce)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    with pytest.raises(torch.OutOfMemoryError):
        dict(sampler.answers(prompts, max_new_tokens=8, batch_size=8))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
).filter(lambda value: isinstance(value, list | dict))


@pytest.mark.slow
@given(value=JSON, indent=st.sampled_from([None, 2]), ascii=st.booleans(), tail=st.text(), data=st.data())
def test_an_answer_ends_where_its_json_does(value, indent, ascii, tail, data) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    text = data.draw(st.sampled_from(["", " \n", "```json\n", "\n```json"])) + text
    end = JsonEnd()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    told = [end.closed_by(piece) for piece in pieces]
    first = told.index(True)
    assert not "".join(pieces[first + 1 :]), "never before the last character"
    assert first_value(text + tail) == value


@pytest.mark.parametrize("text", ["Here is [1] the list", "<think>[1]</think>[2]", "```python\n[1]", '"[1]"', "x", ""])
def test_brackets_in_prose_end_nothing(text: str) -> None:
    end = JsonEnd()
    assert not any(end.closed_by(character) for character in text)


@pytest.mark.parametrize("text", ["[1, 2", "[}", "", "no", '[{"a": "b]}'])
def test_broken_answers_are_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not JSON: "):
        first_value(text)


def test_a_chain_of_thought_is_passed_over() -> None:
    assert first_value("<think>maybe [1]?</think>\n\n[2]") == [2]


# ------------------------------------------------------------------------------------------------- random answers


def drawn(sampler: LocalSampler, prompts: list[list[int]], size: int = 64, **options) -> dict:
    seeds = [[None, *(f"{n} {i}" for i in range(3))] for n in range(len(prompts))]
    given = {"temperature": 0.7, "max_new_tokens": 16, "batch_size": size, "wanted": lambda _: True, **options}
    return dict(sampler.draws(prompts, seeds, **given))


@pytest.mark.slow
def test_a_random_answer_does_not_depend_on_the_batch(sampler: LocalSampler, prompts: list[list[int]]) -> None:
    whole = drawn(sampler, prompts)
    assert [[d.text for d in whole[n]] for n in whole] == [
        [d.text for d in drawn(sampler, prompts, 4)[n]] for n in whole
    ]
    assert len({d.text for d in whole[0]}) == 4, "seeds differ"
    greedy = dict(sampler.answers(prompts, max_new_tokens=16, batch_size=8))
    assert {n: answers[0][:3] for n, answers in whole.items()} == {n: s[:3] for n, s in greedy.items()}
    assert drawn(sampler, prompts, 8, wanted=lambda n: n == 3) == {3: drawn(sampler, prompts, 8)[3]}


@pytest.mark.parametrize("speedups", [True, False])
def test_greedy_answers_come_with_the_log_probabilities_of_their_tokens(
    sampler: LocalSampler, prompts: list[list[int]], speedups: bool
) -> None:
    asked = {"max_new_tokens": 16, "batch_size": 3}
    expected = dict(sampler.answers(prompts, **asked))
    scored = LocalSampler(sampler.model, sampler.encoder, speedups=speedups, scored=True)
    assert scored.shares == speedups
    for n, sample in scored.answers(prompts, **asked):
        assert sample[:3] == expected[n][:3]
        scores = sample.scores
        assert scores is not None
        assert len(scores.ends) == len(scores.logprobs) == sample.tokens
        assert list(scores.ends) == sorted(scores.ends)
        assert scores.ends[-1] == len(sample.text)
    [(_, alone)] = scored.answers(prompts[3:4], max_new_tokens=16, batch_size=1)
    [ids] = by_generate.generate(sampler.model, prompts[3:4], limits=[16], stops=sampler.stops, pad=0)
    with torch.inference_mode():
        logits = sampler.model(torch.tensor([prompts[3] + ids])).logits[0, len(prompts[3]) - 1 : -1].float()
    wanted = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist()
    assert list(alone.scores.logprobs) == pytest.approx(wanted[: alone.tokens], abs=1e-3)


def test_tokens_end_where_their_text_ends(sampler: LocalSampler) -> None:
    tokenizer = sampler.encoder.tokenizer
    for text in ('[{"funder_name":"Österreichische Akademie 日本 👩🏽‍🔬"}]', " a  b", "", "e\u0301\ufffd x"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        ends = token_ends(tokenizer, ids, whole)
        assert len(ends) == len(ids)
        assert not ids or ends[-1] == len(whole)
        for n, end in enumerate(ends):
            shown = tokenizer.decode(ids[: n + 1], skip_special_tokens=True)
            if not shown.endswith("\ufffd"):
                assert whole[:end] == shown


def test_generate_draws_the_same(sampler: LocalSampler, prompts: list[list[int]]) -> None:
    slow = LocalSampler(sampler.model, sampler.encoder, speedups=False, context=len(prompts[2]) + 9)
    fast = LocalSampler(sampler.model, sampler.encoder, context=len(prompts[2]) + 9)
    assert fast.groups
    assert not slow.groups
    expected, found = drawn(fast, prompts), drawn(slow, prompts)
    assert {d.tokens for d in expected[2]} == {9}
    for n, answers in expected.items():
        assert [d[:3] for d in found[n]] == [d[:3] for d in answers]
        assert [d.logprob for d in found[n]] == pytest.approx([d.logprob for d in answers], abs=1e-4)


def test_the_log_probability_is_that_of_the_answer(sampler: LocalSampler, prompts: list[list[int]]) -> None:
    draws = choosing.Draws(["a", None], temperature=0.5)
    [(_, rows)] = decoding.draw(sampler.model, prompts[:1], 2, draws, limits=[12, 12], stops={2}, pad=0, most=64)
    for row, logprob in zip(rows, draws.logprobs, strict=True):
        ids = torch.tensor([prompts[0] + row])
        with torch.no_grad():
            scores = sampler.model(input_ids=ids).logits[0, len(prompts[0]) - 1 : -1].log_softmax(-1)
        assert sum(logprob) == pytest.approx(float(scores.gather(-1, torch.tensor(row)[:, None]).sum()), abs=1e-3)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    logits = torch.tensor([[2.0, 1.0, float("-inf"), 0.0]])
    draws = choosing.Draws(["seed"], temperature)
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[draws(logits, [0])] += 1
    expected = 4000 * (logits[0] / temperature).softmax(-1)
    assert counts[2] == 0
    assert ((counts - expected)[[0, 1, 3]].abs() < 4 * expected[[0, 1, 3]].sqrt()).all()


def test_memory_that_runs_out_halves_the_answers(
    sampler: LocalSampler, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, real, sizes = drawn(sampler, prompts), decoding.draw, []

    def scarce(model: object, rows: list, *rest: object, **options: Any) -> Iterator[Any]:
        sizes.append((options["most"], len(rows)))
        for n, answers in enumerate(real(model, rows, *rest, **options)):
            if n and options["most"] > 4:
                raise torch.OutOfMemoryError
            yield answers

    monkeypatch.setattr(decoding, "draw", scarce)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    assert [[d.text for d in v] for _, v in sorted(drawn(sampler, prompts, 16).items())] == [
        [d.text for d in v] for _, v in sorted(expected.items())
    ]
    assert sizes == [(16, 5), (8, 4), (4, 3)], "what is answered is not answered again"


def test_long_prompts_have_fewer_answers_at_once(
    sampler: LocalSampler, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = decoding.draw, []

    def watched(*rest: Any, most: int, **options: Any) -> Iterator[Any]:
        sizes.append(most)
        return real(*rest, most=most, **options)

    monkeypatch.setattr(decoding, "draw", watched)
    longest, answers = max(map(len, prompts)), 4
    drawn(sampler, prompts, batch_size=None)
    for room in (10 * longest, longest):
        monkeypatch.setattr(generate, "DRAWN_ROOM", room)
        drawn(sampler, prompts, batch_size=None)
    drawn(sampler, prompts, 16)
    assert sizes == [64, 10, answers, 16]


def test_the_last_rows_of_batches_go_on_together(
    sampler: LocalSampler, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    widths, real = [], decoding.Decoder.advance

    def advance(self: decoding.Decoder, batch: decoding.Batch) -> list[int]:
        widths.append(len(batch.rows))
        return real(self, batch)

    monkeypatch.setattr(decoding.Decoder, "advance", advance)
    monkeypatch.setattr(decoding, "FEW", 4)
    limits = [3, 3, 3, 12, 3, 3, 9, 3, 3, 3]

    def draw() -> dict[int, list[list[int]]]:
        draws = choosing.Draws([f"{n} {i}" for n in range(5) for i in range(2)], temperature=1.0)
        return dict(decoding.draw(sampler.model, prompts, 2, draws, pad=0, most=4, limits=limits, stops=set()))

    together = draw()
    assert {n: [len(row) for row in rows] for n, rows in together.items()} == {
        n: limits[2 * n : 2 * n + 2] for n in range(5)
    }
    assert widths == [4] * 3 + [4] * 3 + [2] * 3 + [2] * 6 + [1] * 3, "the two long answers end side by side"
    monkeypatch.setattr(decoding, "plain_attention", lambda _: False)
    widths.clear()
    assert draw() == together, "an answer does not depend on the rows beside it"
    assert widths == [4] * 3 + [1] * 9 + [4] * 3 + [1] * 6 + [2] * 3


def test_one_token_is_read_with_its_heads_packed(sampler: LocalSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sampler.model
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    read, real = [], torch.nn.functional.scaled_dot_product_attention

    def attention(query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        read.append((query.shape[1], key.shape[1], query.shape[2], options.get("enable_gqa", False)))
        return real(query, key, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    cache = caches.new_cache(model)
    with torch.inference_mode():
        caches.step(model, torch.tensor([[5, 6, 7]]), cache)
        read.clear()
        last = caches.step(model, torch.tensor([[8]]), cache)
        whole = model(torch.tensor([[5, 6, 7, 8]])).logits[:, -1:]
    heads, groups = (
        model.config.num_key_value_heads,
        model.config.num_attention_heads // model.config.num_key_value_heads,
    )
    assert set(read[: model.config.num_hidden_layers]) == {(heads, heads, groups, False)}
    torch.testing.assert_close(last, whole, atol=1e-4, rtol=1e-5)  # logits of 10 in 32 bits, other order of sums


def test_rows_of_other_lengths_are_read_apart(
    sampler: LocalSampler, prompts: list[list[int]], read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, own = prompts[0][:20], [prompt[-20:] for prompt in prompts]
    rows = [prefix + own[n % 5] * (1 + 9 * (n % 3)) for n in range(12)]
    expected = [plain(sampler, [row], 24, {2})[0] for row in rows]
    stops = {2, *(row[4 * n + 2] for n, row in enumerate(expected[:4]))}
    expected = [plain(sampler, [row], 24, stops)[0] for row in rows]
    parts, whole = [], caches.parts_of
    monkeypatch.setattr(caches, "parts_of", lambda lengths: parts.append(whole(lengths)) or parts[-1])
    way = {"order": sorted(range(12), key=lambda n: -len(rows[n])), "prefix": caches.prefill(sampler.model, prefix)}
    assert answered(sampler.model, rows, limits=[24] * 12, stops=stops, pad=0, most=8, **way) == expected
    assert max(map(len, parts)) > 1
    prompts_read = sum(count for count in read if count > 8)
    assert prompts_read < 1.1 * sum(len(row) - 20 for row in rows), "short prompts are not padded to long ones"


def test_parts_are_neighbours_of_about_one_length() -> None:
    assert caches.parts_of([]) == []
    assert caches.parts_of([900, 700, 300, 260, 200, 30]) == [(0, 2, 900), (2, 4, 300), (4, 5, 200), (5, 6, 30)]
    assert caches.parts_of([10, 74, 139]) == [(0, 2, 74), (2, 3, 139)]


def test_rows_leave_a_cache_in_place() -> None:
    layer, like = caches.GrowingLayer(), caches.DynamicLayer()
    for tokens in (3, 1):
        states = torch.randn(2, 5, 2, tokens, 4)
        layer.update(*states)
        like.update(*states)
    room = layer.keys.data_ptr()
    for kept in ([0, 2, 3], [1, 2], [1, 0], [0, 0, 1]):
        layer.reorder_cache(torch.tensor(kept))
        like.reorder_cache(torch.tensor(kept))
        assert (layer.keys.data_ptr() == room) == (len(kept) > 1 and kept[0] < kept[1])
        states = torch.randn(2, len(kept), 2, 1, 4)
        for found, expected in zip(layer.update(*states), like.update(*states), strict=True):
            assert torch.equal(found, expected)
        room = layer.keys.data_ptr()


def test_rows_join_where_there_is_room(sampler: LocalSampler) -> None:
    prompts = [[1] * n for n in (120, 90, 40, 30, 20, 10, 10)]

    def joined(first: int, busy: int, width: int, most: int = 4, room: int = 100) -> list[int]:
        mask = torch.ones(busy, width, dtype=torch.long)
        batch = decoding.Batch(list(range(busy)), mask, mask, mask, caches.new_cache(sampler.model))
        return decoding._joining(prompts, deque(range(first, 7)), batch if busy else None, most, room)

    assert joined(0, 0, 0) == [0], "a row that is longer than the room stands alone"
    assert joined(1, 0, 0) == [1]
    assert joined(2, 0, 0) == [2, 3]
    assert joined(3, 0, 0) == [3, 4, 5]
    assert joined(5, 1, 20) == [5, 6]
    assert joined(4, 2, 40) == [], "all would be as wide as the widest"
    assert joined(5, 7, 20, most=8, room=10**6) == [], "an eighth of the places is free"
    assert joined(5, 6, 20, most=8, room=10**6) == [5, 6]
    assert joined(5, 4, 20, most=8, room=100) == [], "a fifth of the places that the room leaves"
    assert joined(5, 3, 20, most=8, room=100) == [5, 6]
    assert joined(7, 1, 20) == []


@pytest.mark.slow
def test_a_greedy_answer_that_loops_is_cut(tiny_model: Path) -> None:
    base = base_model.resolve(str(tiny_model))
    encoder = Encoder(load_tokenizer(base), thinking=False)
    model = load_base(base, Model(base=str(tiny_model)))
    prompts = [({"role": "user", "content": text},) for text in ("a", "We thank the Sample Trust.")]
    asked = {"batch_size": None, "progress": lambda *_: None}
    for speedups in (True, False):
        samples = LocalSampler(model, encoder, speedups=speedups)(prompts, max_new_tokens=700, **asked)
        assert any(s.truncated and 128 <= s.tokens < 700 and loops(s.text, 128) for s in samples)
        assert all(s.looped for s in samples if s.truncated and s.tokens < 700)
        groups = LocalSampler(model, encoder, speedups=speedups).several(
            prompts, 1, temperature=0.0, max_new_tokens=700, **asked
        )
        assert [answer.looped for [answer] in groups] == [s.looped for s in samples]


@pytest.mark.parametrize("block", [[9], list(range(3, 31)) * 4], ids=["one digit", "a long block"])
def test_an_answer_that_is_cut_in_a_loop_says_so(sampler: LocalSampler, block: list[int]) -> None:
    row = [5, 6, 7, *block * (512 // len(block))]
    assert sampler._sample(row, True).looped
    assert not sampler._sample([*row, sampler.encoder.end], True).looped, "it has ended by itself"
    assert not sampler._sample(row[:100], True).looped
