"""Find where the JSON of an answer ends, to stop a model or a parser there."""

from __future__ import annotations

import json
import re
from typing import Any

_FENCE = "```json"
_OPENING = re.compile(r"\s*(?:```json\s*)?(?=[\[{])")
_DECODER = json.JSONDecoder()


class JsonEnd:
    """Follows an answer piece by piece and tells when its JSON is complete.

    The answer must begin with the JSON or a ```json fence: brackets in prose or a chain of thought do not count.
    """

    def __init__(self) -> None:
        self._head: str | None = ""
        self._prose = False
        self._depth = 0
        self._in_string = self._escaped = False

    def closed_by(self, piece: str) -> bool:
        """Whether this piece completes the JSON. Do not call it again after True."""
        if self._prose:
            return False
        if self._head is not None:
            self._head += piece
            opening = _OPENING.match(self._head)
            if opening is None:
                begun = self._head.strip()
                self._prose = not (_FENCE.startswith(begun) or begun == _FENCE)
                return False
            piece, self._head = self._head[opening.end() :], None
        for character in piece:
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped, self._in_string = character == "\\", character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "[{":
                self._depth += 1
            elif character in "]}":
                self._depth -= 1
                if self._depth <= 0:
                    return True
        return False


def first_value(text: str) -> Any:
    """The JSON value an answer begins with, after a chain of thought or a fence.

    What follows the value is not read. Raises ValueError that begins with "not JSON:".
    """
    text = text.rpartition("</think>")[2].strip()
    if text.startswith(_FENCE):
        text = text[len(_FENCE) :].lstrip()
    try:
        return _DECODER.raw_decode(text)[0]
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
