"""Plans of a distillation: what must hold of teachers, domains and prompts, and what decides the student's weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from student import plan, teacher
from tiny import ie_rows, write_jsonl

from adapters.data.examples import clean_prompt, domain_of
from adapters.errors import UserError
from adapters.recipe.load import load_recipe


def test_a_number_names_a_domain_too(recipe: Path) -> None:
    rows = [{**row, "domain": 7} for row in ie_rows(12, "n")]
    write_jsonl(recipe.parent / "news.jsonl", rows)
    job = plan(recipe, "stages.0.data.1={path: news.jsonl}", "stages.0.teachers={bio: teachers/bio, 7: teachers/news}")
    assert Counter(domain_of(e) for e in job.jobs[0].examples) == {"bio": 20, "7": 12}
    assert plan(recipe, "stages.0.data.0.domain=7", "stages.0.data.1.domain=7", "stages.0.teachers={7: teachers/bio}")
    write_jsonl(recipe.parent / "news.jsonl", [{**row, "domain": ["news"]} for row in rows])
    with pytest.raises(UserError, match="domain must be text or a whole number, not list"):
        plan(recipe, "stages.0.data.1={path: news.jsonl}")


def test_a_domain_has_one_teacher_in_all_stages(recipe: Path) -> None:
    text = recipe.read_text()
    stage = text[text.index("  - kind: distill") :].replace("bio: teachers/bio", "bio: teachers/news")
    recipe.write_text(text + stage)
    with pytest.raises(UserError, match=r"stages\.0 has another teacher for the domain 'bio'") as raised:
        plan(recipe)
    assert raised.value.at == ("stages", 1, "teachers")
    assert plan(recipe, f"stages.1.teachers.bio={recipe.parent}/teachers/bio").jobs, "one adapter by two paths"


def test_rows_get_the_domain_of_their_source_or_column(recipe: Path) -> None:
    job = plan(recipe).jobs[0]
    assert {e.source: domain_of(e) for e in job.examples} == {"bio": "bio", "news": "news"}
    assert (job.name, job.steps) == ("1-distill", 3)
    rows = [{**row, "domain": "bio" if n % 2 else "news"} for n, row in enumerate(ie_rows(12, "n"))]
    write_jsonl(recipe.parent / "bio.jsonl", rows)
    mixed = plan(recipe, "stages.0.data=[bio.jsonl]").jobs[0]
    assert {domain_of(e) for e in mixed.examples} == {"bio", "news"}
    assert "domain" not in str(mixed.ledger[0]["unread"])


@pytest.mark.parametrize(
    ("overrides", "text", "at"),
    [
        (["stages.0.data.1.domain=law"], r"no teacher for the domain 'law' \(12 rows of news\)", "teachers"),
        (
            ["stages.0.teachers.chem=teachers/bio", "stages.0.batch_size=6"],
            "the teacher 'chem' has no rows",
            "teachers",
        ),
        (
            ["stages.0.data.1={path: news.jsonl}"],
            "'n0' of news .and 11 more rows. has no domain; give the source",
            "data",
        ),
        (["stages.0.batch_size=15"], "15 cannot be shared equally by 2 domains", "batch_size"),
        (["stages.0.data.1.path=same.jsonl"], "row 'b1' of bio and row 'c1' of same have one prompt and two", "data"),
        (
            ["stages.0.teachers.bio=other"],
            "'bio' was trained on Qwen/Qwen3-4B, the recipe's base is SOME/base",
            "teachers",
        ),
        (["stages.0.teachers.bio=whole"], r"'bio' is no plain LoRA adapter \(modules_to_save\)", "teachers"),
        (["stages.0.teachers.bio=nowhere"], "is neither a run folder nor an adapter", "teachers"),
        (["stages.0.teachers.bio=begun"], r"begun is a run without 2-grpo yet: name the stage \(begun/1-sft\)", "bio"),
        (["stages.0.teachers.bio=tagger"], r"'bio' is no plain LoRA adapter \(TOKEN_CLS\)", "teachers"),
        (
            ["stages.0.teachers.bio=older", "model.revision=b"],
            "'bio' was trained on revision a of the base, and model.revision is b",
            "teachers",
        ),
        (["stages.0.max_prompt_length=1"], "every row is longer", ""),
    ],
)
def test_what_cannot_be_distilled_is_said_first(recipe: Path, overrides: list[str], text: str, at: str) -> None:
    teacher(recipe.parent / "other", base="Qwen/Qwen3-4B")
    teacher(recipe.parent / "whole", modules_to_save=["lm_head"])
    teacher(recipe.parent / "tagger", task_type="TOKEN_CLS")
    (teacher(recipe.parent / "older") / "manifest.json").write_text('{"model": {"base": "SOME/base", "revision": "a"}}')
    (teacher(recipe.parent / "begun" / "1-sft") / "manifest.json").write_text('{"model": {"base": "SOME/base"}}')
    (recipe.parent / "begun" / "recipe.json").write_text('{"stages": [{"kind": "sft"}, {"kind": "grpo"}]}')
    same = ie_rows(20, "b")[1]
    write_jsonl(
        recipe.parent / "same.jsonl", [{**row, "id": f"c{n}"} for n, row in enumerate([*ie_rows(1, "z"), same])]
    )
    with pytest.raises(UserError, match=text) as raised:
        plan(recipe, *overrides)
    assert raised.value.at[:2] == ("stages", 0)
    assert at in raised.value.at or not at


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("stages.0.top_k=1", r"stages.0.top_k: 1 teaches nothing \(both sides are 1\); use 2 or more"),
        ("stages.0.teachers={}", "stages.0.teachers: "),
        ("stages.0.teachers={a/b: x}", "stages.0.teachers"),
        (
            "stages.0.kind=opd",
            "best_of, distill or token_classification, not 'opd'. Did you mean distill?",
        ),
        (
            "stages.0={kind: sft, data: [bio.jsonl], learning_rate: 1e-3, noise: {use: ocr, teacher: clean}}",
            "distill stage",
        ),
        ("stages.0.validation=0.2", "validation of a distill stage holds rows out for select"),
    ],
)
def test_what_a_recipe_cannot_say(recipe: Path, override: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        load_recipe(recipe, [override])


def test_cut_completions_stop_nothing_unless_a_limit_is_given(recipe: Path) -> None:
    for given, limits in (("{}", (10.0, None)), ("{max_kl: 5.0}", (5.0, None)), ("{no_signal_steps: 7}", (10.0, 7))):
        health = load_recipe(recipe, [f"stages.0.health={given}"]).recipe.stages[0].health
        assert (health.max_kl, health.no_signal_steps) == limits


def test_prompts_need_no_labels(recipe: Path) -> None:
    labelled = {e.id: e.prompt for e in plan(recipe).jobs[0].examples}
    rows = [{key: value for key, value in row.items() if key != "gold"} for row in ie_rows(20, "b")]
    write_jsonl(recipe.parent / "bio.jsonl", rows)
    bare = plan(recipe).jobs[0]
    assert not bare.rejected
    assert {e.id: e.prompt for e in bare.examples} == labelled
    assert {e.gold is None for e in bare.examples if e.source == "bio"} == {True}
    assert bare.ledger[0]["empty_gold"] == 0
    some = plan(recipe, "stages.0.data.0.keep_empty=0", "stages.0.data.1.keep_empty=0").jobs[0]
    assert Counter(e.source for e in some.examples) == {"bio": 20, "news": 10}, "what has no gold is not empty"
    write_jsonl(recipe.parent / "bio.jsonl", [{"id": "x", "schema": ["person"]}])
    with pytest.raises(UserError, match="cannot be used"):
        plan(recipe)


def test_one_teacher_alone_is_noted(recipe: Path) -> None:
    alone = ["stages.0.data=[{path: bio.jsonl, domain: bio}]", "stages.0.teachers={bio: teachers/bio}"]
    assert any("one teacher alone" in note for note in plan(recipe, *alone).notes)


def test_a_retrained_teacher_trains_the_student_again(recipe: Path) -> None:
    first = plan(recipe).jobs[0].fingerprint
    teacher(recipe.parent / "elsewhere")
    assert plan(recipe, "stages.0.teachers.bio=elsewhere").jobs[0].fingerprint == first, "the weights are the same"
    for other in ("stages.0.min_coverage=0.1", "name=other"):
        assert plan(recipe, other).jobs[0].fingerprint == first
    assert plan(recipe, "stages.0.top_k=8").jobs[0].fingerprint != first
    swapped = ["stages.0.data.0.domain=news", "stages.0.data.1.domain=bio"]
    assert plan(recipe, *swapped).jobs[0].fingerprint != first
    teacher(recipe.parent / "teachers" / "bio", value=2.0)
    assert plan(recipe).jobs[0].fingerprint != first


def test_weights_that_are_scaled_in_another_way_are_another_teacher(recipe: Path) -> None:
    def fingerprint(**config: object) -> str:
        teacher(recipe.parent / "teachers" / "bio", **config)
        return plan(recipe).jobs[0].fingerprint

    usual: dict = {"r": 4, "lora_alpha": 8}
    same = {"use_rslora": False, "alpha_pattern": {}, "lora_dropout": 0.5, "peft_version": "1"}
    assert fingerprint(**usual) == fingerprint(r=16, lora_alpha=32.0, **same), "a scale of 2 too"
    changes: list[dict] = [{}, {"lora_alpha": 16}, {"use_rslora": True}, {"rank_pattern": {"x": 2}}]
    changes += [{"alpha_pattern": patterns} for patterns in ({"x": 1, "y": 2}, {"y": 2, "x": 1})]
    assert len({fingerprint(), *(fingerprint(**usual | change) for change in changes)}) == 1 + len(changes)


def test_teachers_may_read_the_clean_text(recipe: Path) -> None:
    noise = "stages.0.noise={use: ocr, level: heavy, share: 1.0, teacher: TEACHER}"
    clean, same = (plan(recipe, noise.replace("TEACHER", who)).jobs[0] for who in ("clean", "same"))
    plain = {e.id: e.prompt for e in plan(recipe).jobs[0].examples}
    assert [e.prompt for e in clean.examples] == [e.prompt for e in same.examples], "the student reads the same"
    assert all(clean_prompt(e) == plain[e.id] and domain_of(e) in ("bio", "news") for e in clean.examples)
    assert any(clean_prompt(e) != e.prompt for e in clean.examples)
    assert all(clean_prompt(e) == e.prompt for e in same.examples)
    assert clean.fingerprint != same.fingerprint
