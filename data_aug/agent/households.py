"""ALFWorld-style trajectories in small invented households.

The scene is simulated: available actions and observations follow from its state, and a plan with an action that is not
available raises an error.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, Final

from adapters.data_aug.data_files import read_data
from adapters.rewards.agent_formats import write

# Rooms: their places ("+" opens and closes) and what may lie in them. Changes: verb -> where, and its result.
_DATA = read_data("agent/households.json")
CHANGES: Final[dict[str, dict[str, str]]] = _DATA["changes"]


@dataclass
class Scene:
    """A room's state: numbered receptacles, what lies in them, where the agent is."""

    receptacles: list[str]
    doors: frozenset[str]
    closed: set[str]
    inside: dict[str, list[str]]
    at: str | None = None
    holding: str | None = None

    def actions(self) -> list[str]:
        """The available actions, in a fixed order."""
        here, holding = self.at, self.holding
        actions = [f"go to {r}" for r in self.receptacles if r != here]
        if here in self.doors:
            actions.append(f"{'open' if here in self.closed else 'close'} {here}")
        if here is not None and here not in self.closed:
            actions += (
                [f"put {holding} in/on {here}"] if holding else [f"take {o} from {here}" for o in self.inside[here]]
            )
        if here is not None and holding:
            actions += [f"{verb} {holding} with {here}" for verb in _changes_at(here)]
        if here is not None and here.startswith("lamp "):
            actions.append(f"use {here}")
        return [*actions, "inventory", "look"]

    def do(self, action: str) -> str:
        """Take an available action and return the observation, or raise ValueError."""
        if action not in self.actions():
            raise ValueError(f"{action!r} is not available")
        verb, _, rest = action.partition(" ")
        if verb == "inventory":
            return f"You hold the {self.holding}." if self.holding else "Your hands are empty."
        if verb == "go":
            self.at = rest.removeprefix("to ")
        if verb in ("go", "look", "open", "close"):
            self.closed ^= {rest} if verb in ("open", "close") else set()
            return self._look()
        if verb == "take":
            self.holding = rest.partition(" from ")[0]
            self.inside[str(self.at)].remove(self.holding)
            return f"You now hold the {self.holding}."
        if verb == "put":
            item, self.holding = str(self.holding), None
            self.inside[str(self.at)].append(item)
            return f"The {item} is now in/on the {self.at}."
        if verb == "use":
            return f"The {self.at} is on. You see the {self.holding or 'room'} in its light."
        return f"The {self.holding} is {CHANGES[verb]['adjective']} now."

    def _look(self) -> str:
        if self.at is None:
            return "You stand in the middle of the room."
        if self.at in self.closed:
            return f"The {self.at} is closed."
        seen = ", ".join(f"a {item}" for item in self.inside[self.at]) or "nothing"
        return f"At the {self.at} you see {seen}."


def trajectory(rng: random.Random, *, unseen: bool) -> dict[str, Any]:
    """One trajectory: `env`, and `messages` with the available actions."""
    rooms = _DATA["unseen" if unseen else "seen"]
    room = rng.choice(sorted(rooms))
    scene = _scene(**rooms[room], rng=rng)
    goal, steps = _plan(scene, rng)
    opening = _opening(scene, room, rng)
    messages = [{"role": "user", "content": with_actions(f"{opening}\nYour task is to: {goal}.", scene)}]
    for n, (thought, action) in enumerate(steps):
        messages.append({"role": "assistant", "content": write("alfworld", thought, "act", action)})
        observation = scene.do(action)
        if n < len(steps) - 1:
            messages.append({"role": "user", "content": with_actions(observation, scene)})
    return {"env": "alfworld", "messages": messages}


def episode(rng: random.Random, *, unseen: bool, most: int) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """A household to act in, as a row, and the (thought, action) steps to its goal, at most so many.

    The user's message says where the thing is, so that no turn is spent on a search. `household` is the room, and the
    goal as what the last action must do: `put` a thing of a kind somewhere, changed by a verb or not, or `use` a lamp.
    """
    rooms = _DATA["unseen" if unseen else "seen"]
    while True:
        room = rng.choice(sorted(rooms))
        scene = _scene(**rooms[room], rng=rng)
        text, steps = _plan(scene, rng, most_tries=0)
        item, _, origin = next(a for _, a in steps if a.startswith("take ")).removeprefix("take ").partition(" from ")
        last = steps[-1][1]
        place = last.rpartition(" ")[0].split()[-1]
        if len(steps) <= most and place != origin.split()[0]:
            break
    change = next((verb for _, action in steps if (verb := action.split()[0]) in CHANGES), None)
    goal = {"verb": last.split()[0], "thing": item.split()[0], "place": place, "change": change}
    told = f"{_opening(scene, room, rng)}\nYour task is to: {text}. The {item} is at the {origin}."
    household = {**asdict(scene), "doors": sorted(scene.doors), "closed": sorted(scene.closed), "goal": goal}
    return {"env": "alfworld", "messages": [{"role": "user", "content": told}], "household": household}, steps


def _opening(scene: Scene, room: str, rng: random.Random) -> str:
    return _say(rng, "opening", room=room, listed=", ".join(f"a {r}" for r in scene.receptacles))


def with_actions(observation: str, scene: Scene) -> str:
    """An observation with the available actions behind it."""
    first, *others = scene.actions()
    return "\n".join([f"{observation} AVAILABLE ACTIONS: {first}".lstrip(), *others])


def _scene(places: str, items: str, rng: random.Random) -> Scene:
    kinds: dict[str, int] = {}
    receptacles: list[str] = []
    doors: set[str] = set()
    for place in places.split():
        kind = place.removesuffix("+")
        kinds[kind] = kinds.get(kind, 0) + 1
        receptacles.append(f"{kind} {kinds[kind]}")
        if place.endswith("+"):
            doors.add(receptacles[-1])
    rng.shuffle(receptacles)
    inside: dict[str, list[str]] = {r: [] for r in receptacles}
    roomy = [r for r in receptacles if not r.startswith(("lamp", "microwave", "sinkbasin", "toilet "))]
    for item in rng.sample(items.split(), 5):
        inside[rng.choice(roomy)].append(f"{item} {rng.randint(1, 3)}")
    return Scene(receptacles, frozenset(doors), set(doors), inside)


def _plan(scene: Scene, rng: random.Random, most_tries: int = 2) -> tuple[str, list[tuple[str, str]]]:
    """A goal and the (thought, action) steps to it, after so many wrong places at most."""
    origin, item = rng.choice([(r, o) for r, items in scene.inside.items() for o in items])
    name = item.split()[0]
    steps: list[tuple[str, str]] = []

    def step(action: str, text: str, **values: str) -> None:
        steps.append((_say(rng, text, name=name, item=item, origin=origin, **values), action))

    places = [r for r in scene.receptacles if r != origin]
    tools = {verb: r for r in reversed(places) for verb in _changes_at(r)}  # the first place of each verb
    verbs = [verb for verb in CHANGES if verb in tools]
    lamps = [r for r in places if r.startswith("lamp ")]
    for place in rng.sample([r for r in places if r not in lamps], rng.randint(0, most_tries)):
        step(f"go to {place}", "try", place=place)
        if place in scene.closed:
            step(f"open {place}", "try_closed", place=place)
    step(f"go to {origin}", "origin_next" if steps else "origin_first")
    if origin in scene.closed:
        step(f"open {origin}", "origin_closed")
    step(f"take {item} from {origin}", "take")
    if lamps and rng.random() < 0.4:
        step(f"go to {lamps[0]}", "to_lamp")
        step(f"use {lamps[0]}", "use_lamp")
        return f"look at the {name} under the lamp", steps
    adjective = ""
    if verbs and rng.random() < 0.6:
        verb = rng.choice(verbs)
        tool = tools[verb]
        adjective = f"{CHANGES[verb]['adjective']} "
        step(f"go to {tool}", "to_tool", verb=verb, tool=tool)
        step(f"{verb} {item} with {tool}", "use_tool", verb=verb)
        places = [r for r in places if r != tool]
    target = rng.choice([r for r in places if r not in lamps])
    step(f"go to {target}", "to_target", target=target)
    if target in scene.closed and not any(action == f"open {target}" for _, action in steps):
        step(f"open {target}", "target_closed", target=target)
    step(f"put {item} in/on {target}", "put")
    return f"put a {adjective}{name} in/on the {target.split()[0]}", steps


def _changes_at(receptacle: str) -> list[str]:
    return [verb for verb, change in CHANGES.items() if receptacle.startswith(f"{change['place']} ")]


def _say(rng: random.Random, text: str, **values: str) -> str:
    template: str = rng.choice(_DATA["texts"][text])
    return template.format(**values)
