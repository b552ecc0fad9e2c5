"""What Python would execute of a recipe, and recipes that are made to cost time or memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.cli.new import shipped
from adapters.errors import UserError
from adapters.recipe.first_line import FIRST_LINE, LAST_LINE
from adapters.recipe.load import load_recipe

BODY = """name: mine
task: funding
trainer: echo
model: {base: a/b}
stages: [{kind: sft, data: [{synthesize: funding, n: 8}], learning_rate: 1e-4}]
"""
RUN = "__import__('pathlib').Path('ran').touch()"
START = 'if __name__ == "__main__":'
PROGRAMS = {
    "another first line": f'{START} {RUN}; from adapters import main; main(__file__); r"""\n{BODY}# """',
    "after the body": f'{FIRST_LINE}\n{BODY}# """\ndata_root: {RUN}\n# """',
    "an annotation": f'name: {RUN}\n{"task: funding"}\n',
    "a decorator": f"name: mine\n# x\n@{RUN}\nclass x: pass\n",
    "an import": "import ran\nname: mine\n",
    "the right line too late": f"# a comment\n{FIRST_LINE}\n{BODY}{LAST_LINE}\n",
    "a string that is not raw": FIRST_LINE.replace(' r"""', ' """') + f"\n{BODY}{LAST_LINE}\n",
    "a lambda's default": f"name: (lambda a={RUN}:a)\n",
    "a comprehension": f"name: [{RUN} for _ in [1]]\n",
    "a formatted text": f"name: f\"{{{RUN}}}\"\n",
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("verb", [["check"], ["check", "--no-import"], ["run"], ["run", "--dry-run"]], ids=" ".join)
def test_a_recipe_with_code_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: list[str], program: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(program)
    result = CliRunner().invoke(app, [verb[0], "r.yaml", *verb[1:]])
    assert result.exit_code == 2, result.output
    assert "r.yaml:" in result.stderr
    assert not Path("ran").exists()
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["another first line", "an annotation", "a string that is not raw"])
def test_the_difference_is_shown(tmp_path: Path, name: str) -> None:
    (tmp_path / "r.yaml").write_text(PROGRAMS[name])
    with pytest.raises(UserError) as raised:
        load_recipe(tmp_path / "r.yaml")
    text = str(raised.value)
    assert f"found:    {PROGRAMS[name].splitlines()[0]!a}" in text
    assert f"expected: {FIRST_LINE!a}" in text


@pytest.mark.parametrize("cookie", ["# -*- coding: utf-7 -*-", "# x\n# vim: set fileencoding=latin-1 :"])
def test_python_reads_the_characters_that_yaml_reads(tmp_path: Path, cookie: str) -> None:
    (tmp_path / "r.yaml").write_text(f"{cookie}\n# +AAo-import ran+AAo-\n{BODY}")
    with pytest.raises(UserError, match="another encoding"):
        load_recipe(tmp_path / "r.yaml")


def test_recipes_without_a_first_line_and_shipped_ones_are_read(tmp_path: Path) -> None:
    for text in (BODY, BODY.replace("\n", "\r\n"), f"{FIRST_LINE}\n{BODY}{LAST_LINE}\n\n", f"# coding: utf-8\n{BODY}"):
        (tmp_path / "r.yaml").write_text(text)
        assert load_recipe(tmp_path / "r.yaml").recipe.name == "mine"
    assert {recipe.text.partition("\n")[0] for recipe in shipped().values()} == {FIRST_LINE}


def test_a_refused_program_would_have_run(tmp_path: Path) -> None:
    """So that the other tests do not refuse what is no danger."""
    (tmp_path / "r.yaml").write_text(PROGRAMS["an annotation"])
    subprocess.run([sys.executable, "r.yaml"], cwd=tmp_path, check=False, capture_output=True, timeout=60)
    assert (tmp_path / "ran").exists()


def doubling(form: str, levels: int = 30) -> str:
    lines = [f"a0: &a0 {form.replace('@', '1')}"]
    lines += [f"a{n}: &a{n} {form.replace('@', f'*a{n - 1}')}" for n in range(1, levels)]
    return BODY + "\n".join(lines) + "\n"


EXPENSIVE = {
    "aliases of lists": doubling("[@, @, @]"),
    "aliases of maps": doubling("{x: @, y: @}"),
    "brackets": BODY + "x: " + "[" * 100_000,
    "closed brackets": BODY + "x: " + "[" * 5_000 + "]" * 5_000,
    "braces": BODY + "x: " + "{a: " * 20_000,
    "dashes": BODY + "x:\n  " + "- " * 50_000,
    "indents": "".join(f"{' ' * n}a:\n" for n in range(1_000)),
    "a huge file": BODY + "# comment\n" * 10_000_000,
    "a long text": BODY + f"data_root: {'x' * 300_000}",
}


@pytest.mark.slow
@pytest.mark.parametrize("text", EXPENSIVE.values(), ids=EXPENSIVE)
def test_a_recipe_made_to_cost_much_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(UserError, match=r"r\.yaml"):
        load_recipe(tmp_path / "r.yaml")
    assert time.process_time() - began < 2  # a second on a quiet machine; minutes or all memory without the limits


def test_a_long_override_and_a_runs_recipe_are_limited_too(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(BODY)
    with pytest.raises(UserError, match="nested too deeply"):
        load_recipe(tmp_path / "r.yaml", ["evaluate=" + "[" * 1_000])
    with pytest.raises(UserError, match="longer than 256 kB"):
        load_recipe(tmp_path / "r.yaml", ["evaluate=" + json.dumps(["x" * 10] * 30_000)])


@pytest.mark.parametrize("head", ["", f"{FIRST_LINE}\n"])
def test_one_byte_order_mark_is_read_as_python_reads_it(tmp_path: Path, head: str) -> None:
    (tmp_path / "r.yaml").write_text(f"{head}{BODY}{LAST_LINE if head else ''}\n", encoding="utf-8-sig")
    assert load_recipe(tmp_path / "r.yaml").recipe.name
    (tmp_path / "r.yaml").write_text("import os; os.abort()\n", encoding="utf-8-sig")
    with pytest.raises(UserError, match="Nothing was executed"):
        load_recipe(tmp_path / "r.yaml")


def test_an_endless_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo.yaml")
    for name in ("zero.yaml", "fifo.yaml"):
        with pytest.raises(UserError, match="is no ordinary file"):
            load_recipe(tmp_path / name)
