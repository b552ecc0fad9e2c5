"""Noise on the rows of a data file, and rows before and after it, for `adapters data noise`."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

from pydantic import ValidationError
from rich.text import Text

from adapters.data.noise import make_row_noiser
from adapters.data.row_forms import conversion_hint, with_structures
from adapters.data.rows import Wanted, place, read_file
from adapters.data_aug.noise import NoisedRow, noise_row
from adapters.errors import UserError
from adapters.plugins.registry import resolve
from adapters.recipe.fields import NoiseSpec, PluginSpec
from adapters.types import Task


def noised(
    file: Path,
    *,
    use: str,
    level: str,
    policy: str,
    seed: int,
    task: str,
    variants: int = 1,
    wanted: Wanted | None = None,
) -> Iterator[NoisedRow]:
    """Rows of a file, all or the `wanted` ones, under noise, `variants` times. Raises UserError.

    Several variants have a column `variant`, and share their row's id, so that a split keeps them together. The noise
    depends on row and variant alone.
    """
    try:
        spec = NoiseSpec.model_validate({"use": use, "level": level, "policy": policy, "share": 1.0})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"--{first['loc'][0]}: {first['msg'].lower()}, not {first['input']!r}.") from None
    noise = make_row_noiser(spec, seed=seed, folder=Path(), at=()).noise
    reader: Task = resolve("tasks", PluginSpec(use=task))
    for number, read in read_file(file, strict=True, texts=[reader.text_field], wanted=wanted):
        row = with_structures(read, getattr(reader, "structures", ()))
        try:
            reader.example(row)
        except ValueError as error:
            raise UserError(f"{place(file, number)}: {error}{conversion_hint(row)}.") from None
        for n in range(variants):
            copy = {**row, "variant": n} if variants > 1 else row
            yield noise_row(
                copy, noise, seed=seed, variant=n, policy=policy, field=reader.text_field, labels=reader.labels
            )


def before_and_after(result: NoisedRow) -> Text:
    """The clean text with removed characters in red, the noisy text with inserted ones in green."""
    clean, noisy = result.noised.source, result.noised.text
    before, after = Text("before  ", style="dim"), Text("after   ", style="dim")
    for tag, a, b, c, d in SequenceMatcher(None, clean, noisy, autojunk=False).get_opcodes():
        same = tag == "equal"
        before.append(clean[a:b], style="default" if same else "bold red")
        # Line breaks and zero-width characters are made visible.
        inserted = noisy[c:d] if same else "".join(_visible(ch) for ch in noisy[c:d])
        after.append(inserted, style="default" if same else "bold green")
    names = ", ".join(result.families) or "unchanged"
    return Text("\n").join([Text(f"{result.row.get('id', '')}  {names}", style="bold"), before, after])


def _visible(character: str) -> str:
    if character == "\n":
        return "⏎\n"
    return character if character.isprintable() or character == "\t" else f"<U+{ord(character):04X}>"
