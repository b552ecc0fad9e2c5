"""Words, windows and decoding of the task `mine`, without torch; the backends, below this package, use them too."""

from __future__ import annotations

from adapters.data_aug.mine.windows import read_in, windows
from adapters.data_aug.mine.words import (
    LABELS,
    Question,
    Span,
    around,
    free_places,
    label_score,
    occurrences,
    runs,
    spans_of,
    tags_of,
    words,
)

__all__ = [
    "LABELS",
    "Question",
    "Span",
    "around",
    "free_places",
    "label_score",
    "occurrences",
    "read_in",
    "runs",
    "spans_of",
    "tags_of",
    "windows",
    "words",
]
