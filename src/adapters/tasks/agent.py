"""The `agent` task: one turn, a thought and an action in the format of its environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from adapters.data.preference import conversation as read_conversation
from adapters.data.preference import meta as read_meta
from adapters.data.preference import side
from adapters.data_aug.noise import Label
from adapters.rewards.agent import CHECKS, FILLER, THOUGHT, check_settings, examine, same_action
from adapters.rewards.agent_formats import ENVS, Env, available, env_of, read
from adapters.tasks import agent_answers
from adapters.types import Aligned, Counts, Example, Message, Row

DBBENCH: Final = """You answer questions about one table of a MySQL database.
In every turn, say in a sentence or two what you do and why, then do exactly one of two things.
To run one SQL statement, write
Action: Operation
```sql
SELECT ...;
```
with the statement on one line; the database's reply is the next message. To give the answer, write
Action: Answer
Final Answer: ["first", "second"]
with the answer as a list of strings. After changing data any answer will do. Write nothing after the action."""
ALFWORLD: Final = """You act in a household to fulfil a task.
Every message describes what you see and lists the AVAILABLE ACTIONS. Choose one of them and answer in this form:
THOUGHT: why, in a sentence
 ACTION: the action, as it is listed
Only a listed action counts. Write nothing after it."""
FC: Final = """You solve a task by calling functions.
Say in a sentence or two what you do and why, then make exactly one call:
<tool_call>
{"name": "...", "arguments": {...}}
</tool_call>
The functions are execute_sql (query: one SQL statement), commit_final_answer (answers: a list of strings) and
take_action (action: one of the available actions). Use those that fit the task. Write nothing after the call; the reply
is the next message."""
REACT: Final = """Solve the task step by step.
In each turn write a line that starts with "Thought:", then either a line that starts with "Action:", or, when you are
done, one that starts with "Final Answer:". Write nothing after it; the environment replies in the next message."""


@dataclass(frozen=True)
class AgentTask:
    """Rows hold a conversation up to the agent's turn, and that turn as `completion`.

    The conversation is either `prompt`, complete, or `messages`, which the environment's instructions (`dbbench`,
    `alfworld`, `fc` and `react` below) and a short assent are put in front of. `env` is the environment's profile, here
    or in the row. A row may also have `actions` (those available; read from the last message of the user when it lists
    them) and `table` (`{name, columns, rows}`, on which SQL is compared by what it does).

    With `learn: all` in a row SFT learns the agent's earlier turns too, if the environment reads an action from them.

    `thought` and `filler` are the limits of the discipline metric, as in the reward.
    """

    env: Env | None = None
    dbbench: str = DBBENCH
    alfworld: str = ALFWORLD
    fc: str = FC
    react: str = REACT
    thought: int = THOUGHT
    filler: tuple[str, ...] = FILLER
    text_field: str = "prompt"
    example_row: ClassVar[Row] = agent_answers.ROW
    form_fields: ClassVar[tuple[str, ...]] = ("discipline", *CHECKS)
    structures: ClassVar[tuple[str, ...]] = ("actions", "table", "messages")
    modes: ClassVar[dict[str, str]] = {
        "turn": "P, R and F1 are all the share of turns on which a check holds, of those it applies to; discipline is "
        "all checks at once, same action that the reference's action is taken"
    }
    field_meanings: ClassVar[dict[str, str]] = {
        "discipline": "every check that applies to the turn holds",
        "parse_ok": "the environment reads an action in the turn",
        "exactly_one_action": "it reads one, not several",
        "action_is_last": "nothing follows the action",
        "no_filler": "no greeting or offer of help",
        "no_invented_observation": "the turn does not write the environment's reply itself",
        "short_thought": "the thought has no more tokens than `thought` allows",
        "in_available_actions": "the action is one of those on offer, where the environment lists them",
        "answer_is_json_list": "the final answer is a JSON list, where the environment asks for one",
        "no_repeat3": "the turn is not the third of the same text in a row",
        "same_action": "the action does what the reference's does",
    }

    def __post_init__(self) -> None:
        check_settings(self.thought, self.filler)

    def example(self, row: Row, *, source: str = "", id: str = "") -> Example:
        """One turn. Raises ValueError for a bad row, such as one with an unreadable target."""
        prompt, completion, gold = self._prompt(row), self._completion(row), self.gold(row)
        if completion is not None and gold["action"] is None:
            raise ValueError(f"the {gold['env']} environment finds no action in the target: {completion[-80:]!r}")
        # The whole conversation: many queries return the same last message, such as "[(2,)]".
        text = "\n".join(m["content"] for m in self._conversation(row))
        earlier = [n for n, m in enumerate(prompt) if m["role"] == "assistant" and read(gold["env"], m["content"]).kind]
        learned = tuple(earlier) if row.get("learn") == "all" else ()
        return Example(
            id, source, prompt, completion, gold=gold, meta={**read_meta(row), "text": text}, learned=learned
        )

    def gold(self, row: Row) -> dict[str, Any]:
        """What a response is scored against: env, actions, previous responses, target's action."""
        env = env_of(row.get("env") or self.env)
        actions, history = row.get("actions"), self._conversation(row)
        if actions is None and env == "alfworld" and history:
            actions = available(history[-1]["content"])
        if actions is not None and not (isinstance(actions, list) and all(isinstance(a, str) for a in actions)):
            raise ValueError("actions must be a list of texts")
        turn = read(env, self._completion(row) or "")
        action = {"kind": turn.kind, "argument": turn.argument} if turn.kind else None
        previous = [m["content"] for m in history if m["role"] == "assistant"][-2:]
        return {"env": env, "actions": actions, "previous": previous, "action": action, "table": _table(row)}

    def labels(self, row: Row) -> Iterator[Label]:
        """None: noise does not touch an agent's turns."""
        return iter(())

    def adversarial(self, example: Example) -> dict[str, str]:
        """Plausible wrong responses, for testing rewards."""
        return agent_answers.wrong(example.gold, example.completion or "")

    def align(self, gold: Any, completion: str) -> list[Aligned]:
        """The action aligned with the reference's, and the checks that fail."""
        return agent_answers.align(gold, completion, self.thought, self.filler)

    def counts(self, gold: Any, completion: str) -> dict[str, Mapping[str, Counts]]:
        """Each check as 1 of 1 or 0 of 1, and 0 of 0 where it does not apply; `discipline` is all of them at once."""
        if not isinstance(gold, Mapping) or not gold.get("env"):
            return {"turn": dict.fromkeys(("discipline", *CHECKS, "same_action"), Counts(0, 0, 0))}
        turn = read(gold["env"], completion)
        checks = examine(completion, turn, gold, thought=self.thought, filler=self.filler)
        results = {"discipline": False not in checks.values(), **checks, "same_action": same_action(turn, gold)}
        return {"turn": {k: Counts(0, 0, 0) if ok is None else Counts(1, 1, int(ok)) for k, ok in results.items()}}

    def is_well_formed(self, completion: str) -> bool:
        """Whether any profile (the task's own, if it has one) reads an action."""
        return any(read(env, completion).kind for env in ([self.env] if self.env else ENVS))

    def _conversation(self, row: Row) -> tuple[Message, ...]:
        column = "prompt" if "prompt" in row else "messages"
        return () if row.get(column) is None else read_conversation(row, column)

    def _prompt(self, row: Row) -> tuple[Message, ...]:
        conversation = self._conversation(row)
        if not conversation:
            raise ValueError("a row needs its conversation as prompt (complete) or messages (without instructions)")
        if "prompt" in row:
            return conversation
        instructions = {"dbbench": self.dbbench, "alfworld": self.alfworld, "fc": self.fc, "react": self.react}
        first = instructions[env_of(row.get("env") or self.env)]
        opening: tuple[Message, ...] = ({"role": "user", "content": first}, {"role": "assistant", "content": "OK."})
        if conversation[0]["role"] == "system":  # templates take a system message at the start only
            return (conversation[0], *opening, *conversation[1:])
        if tools := conversation[0].get("tools"):
            rest: Any = {key: value for key, value in conversation[0].items() if key != "tools"}
            return ({**opening[0], "tools": tools}, opening[1], rest, *conversation[1:])
        return (*opening, *conversation)

    def _completion(self, row: Row) -> str | None:
        if row.get("completion") is not None:
            return side(row, "completion")
        return side(row, "chosen") if row.get("chosen") is not None else None


def _table(row: Row) -> Mapping[str, Any] | None:
    table = row.get("table")
    if table is None:
        return None
    parsed = dict(table) if isinstance(table, Mapping) else {}
    columns, rows = parsed.get("columns"), parsed.get("rows")
    lists = isinstance(parsed.get("name"), str) and isinstance(columns, list) and isinstance(rows, list)
    if not lists or any(not isinstance(row, list | tuple) or len(row) != len(columns or ()) for row in rows or ()):
        raise ValueError("table must have a name, columns, and rows as long as the columns")
    return parsed
