"""Text of models and data, prepared for the page."""

from __future__ import annotations

import difflib
import re

from markupsafe import Markup, escape

MOST = 3000
"""Characters of a model's output that are shown; a looping model writes thousands."""
# Control characters except tab and line ends, and marks that reorder or hide text.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def seen(text: object) -> str:
    """The text with invisible and reordering characters written as code points."""
    return _UNSEEN.sub(lambda m: f"\u27e8{ord(m[0]):04X}\u27e9", str(text))


def cut(text: str, most: int = MOST) -> str:
    """The beginning of a long text, and how many characters follow."""
    return text if len(text) <= most else f"{text[:most]} \u2026 ({len(text) - most:,} more characters)"


def side_by_side(gold: str, pred: str) -> Markup:
    """The predicted text with what differs from the gold marked."""
    gold, pred = seen(gold[:500]), seen(pred[:500])
    out = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, gold, pred, autojunk=False).get_opcodes():
        if kind != "equal" and i < j:
            out.append(Markup("<del>{}</del>").format(gold[i:j]))
        if k < m:
            out.append(escape(pred[k:m]) if kind == "equal" else Markup("<ins>{}</ins>").format(pred[k:m]))
    return Markup("").join(out)
