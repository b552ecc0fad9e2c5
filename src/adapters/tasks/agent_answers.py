"""The `agent` task's example row, plausible wrong responses, and alignment with the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from adapters.rewards.agent import examine, same_action
from adapters.rewards.agent_formats import read
from adapters.types import Aligned, Row

_QUESTION = "How many boats are longer than 12 metres?\nTable `boats`, columns `Name`, `Metres`."
ROW: Final[Row] = {
    "id": "made-1",
    "env": "dbbench",
    "messages": [{"role": "user", "content": _QUESTION}],
    "completion": "One count answers this.\nAction: Operation\n"
    "```sql\nSELECT COUNT(*) FROM `boats` WHERE `Metres` > 12;\n```",
}
OTHER: Final = {"operate": "SELECT 'none of these';", "answer": '["none of these"]', "act": "wait a moment"}


def wrong(gold: Mapping[str, Any], completion: str) -> dict[str, str]:
    """Plausible wrong responses, by name; only those that this turn allows."""
    turn = read(gold["env"], completion)
    out = {
        "chatty": f"Certainly! I'd be happy to help.\n{completion}",
        "invented observation": f"{completion}\nObservation: that worked, all is done.",
    }
    if turn.thought and turn.thought in completion:
        out["endless thought"] = completion.replace(turn.thought, turn.thought + " and then some more" * 150, 1)
    offered = [a for a in gold.get("actions") or () if " ".join(a.lower().split()) != turn.argument]
    other = offered[0] if offered else OTHER.get(str(turn.kind))
    # The parser lowers the case of actions, so the place is looked for without it.
    at = completion.lower().rfind(turn.argument.lower()) if turn.argument else -1
    if at >= 0:
        before, after = completion[:at], completion[at + len(turn.argument) :]
        if other is not None:
            out["another action"] = before + other + after
        if offered:
            out["unavailable action"] = before + OTHER["act"] + after
    return out


def align(gold: Mapping[str, Any], completion: str, thought: int, filler: Sequence[str]) -> list[Aligned]:
    """The action's kind and argument aligned with the reference's, then each check that the response fails."""
    turn = read(gold["env"], completion)
    wanted = gold.get("action") or {}
    same_kind = bool(wanted) and turn.kind == wanted.get("kind")
    kind = Aligned("kind", wanted.get("kind"), turn.kind, same_kind)
    matched = bool(wanted and same_action(turn, gold))
    action = Aligned("action", wanted.get("argument"), turn.argument or None, matched)
    checks = examine(completion, turn, gold, thought=thought, filler=filler)
    failed = [Aligned("fails", None, name.replace("_", " ")) for name, value in checks.items() if value is False]
    return [*(row for row in (kind, action) if row.gold or row.pred), *failed]
