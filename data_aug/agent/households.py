"""ALFWorld-style trajectories in small invented households.

The scene is simulated: available actions and observations follow from its state, and a plan with an action that is not
available raises an error.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from adapters.rewards.agent_formats import write

# Room -> receptacles ("+" opens and closes) and what may lie in them.
ROOMS: Final = {
    "kitchen": (
        "cabinet+ cabinet+ drawer+ fridge+ microwave+ countertop sinkbasin diningtable",
        "apple tomato potato mug cup plate knife spoon egg bowl",
    ),
    "bathroom": (
        "cabinet+ drawer+ shelf shelf sinkbasin toilet countertop garbagecan",
        "soapbar cloth towel candle spraybottle toiletpaper sponge",
    ),
    "bedroom": (
        "bed desk drawer+ drawer+ shelf sidetable dresser lamp",
        "book pillow pen alarmclock cellphone keychain laptop watch",
    ),
    "living room": (
        "sofa armchair coffeetable shelf cabinet+ tvstand sidetable lamp",
        "newspaper remotecontrol vase magazine creditcard box statue",
    ),
}
UNSEEN: Final = {
    "workshop": (
        "workbench toolbox+ locker+ rack shelf stool basket lamp",
        "hammer wrench tape screwdriver gloves paintbrush nail",
    ),
    "laundry": (
        "washer+ dryer+ basket shelf sinkbasin hamper ironingboard closet+",
        "sock shirt detergent hanger peg brush scarf",
    ),
}
CHANGES: Final = {"clean": ("sinkbasin", "cleaned"), "heat": ("microwave", "hot"), "cool": ("fridge", "cooled")}


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
            tools = {verb: kind for verb, (kind, _) in CHANGES.items() if here.startswith(f"{kind} ")}
            actions += [f"{verb} {holding} with {here}" for verb in tools]
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
        return f"The {self.holding} is {CHANGES[verb][1]} now."

    def _look(self) -> str:
        if self.at is None:
            return "You stand in the middle of the room."
        if self.at in self.closed:
            return f"The {self.at} is closed."
        seen = ", ".join(f"a {item}" for item in self.inside[self.at]) or "nothing"
        return f"At the {self.at} you see {seen}."


def trajectory(rng: random.Random, *, unseen: bool) -> dict[str, Any]:
    """One trajectory: `env`, and `messages` with the available actions."""
    rooms = UNSEEN if unseen else ROOMS
    room = rng.choice(sorted(rooms))
    scene = _scene(*rooms[room], rng)
    goal, steps = _plan(scene, rng)
    listed = ", ".join(f"a {r}" for r in scene.receptacles)
    opening = _say(
        rng, f"You are in the {room}. Around you there are {listed}.", f"This is a {room}. You see {listed}."
    )
    messages = [{"role": "user", "content": _with_actions(f"{opening}\nYour task is to: {goal}.", scene)}]
    for n, (thought, action) in enumerate(steps):
        messages.append({"role": "assistant", "content": write("alfworld", thought, "act", action)})
        observation = scene.do(action)
        if n < len(steps) - 1:
            messages.append({"role": "user", "content": _with_actions(observation, scene)})
    return {"env": "alfworld", "messages": messages}


def _with_actions(observation: str, scene: Scene) -> str:
    return "\n".join([f"{observation} AVAILABLE ACTIONS: {scene.actions()[0]}", *scene.actions()[1:]])


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


def _plan(scene: Scene, rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """A goal and the (thought, action) steps to it, after a wrong place or two."""
    home, item = rng.choice([(r, o) for r, items in scene.inside.items() for o in items])
    name = item.split()[0]
    places = [r for r in scene.receptacles if r != home]
    verbs = [verb for verb, (kind, _) in CHANGES.items() if any(r.startswith(f"{kind} ") for r in places)]
    lamps = [r for r in places if r.startswith("lamp ")]
    steps: list[tuple[str, str]] = []
    for r in rng.sample([p for p in places if p not in lamps], rng.randint(0, 2)):
        steps.append((_say(rng, f"The {name} may be at the {r}.", f"I check the {r} for the {name}."), f"go to {r}"))
        if r in scene.closed:
            steps.append((_say(rng, f"The {r} is closed; I open it.", f"I look inside the {r}."), f"open {r}"))
    next_place = f"No {name} yet; I try the {home}." if steps else f"The {home} is a likely place."
    steps.append((_say(rng, next_place, f"I look for the {name} at the {home}."), f"go to {home}"))
    if home in scene.closed:
        steps.append((_say(rng, f"The {home} is closed, so I open it.", "It may be inside."), f"open {home}"))
    steps.append((_say(rng, f"Here is the {item}; I take it.", f"I found the {item}."), f"take {item} from {home}"))
    if lamps and rng.random() < 0.4:
        steps.append((_say(rng, f"I hold the {item}; now to the lamp.", "The lamp comes next."), f"go to {lamps[0]}"))
        steps.append((_say(rng, f"I look at the {item} under the light.", "I switch it on."), f"use {lamps[0]}"))
        return f"look at the {name} under the lamp", steps
    adjective = ""
    if verbs and rng.random() < 0.6:
        verb = rng.choice(verbs)
        tool = next(r for r in places if r.startswith(f"{CHANGES[verb][0]} "))
        adjective = f"{CHANGES[verb][1]} "
        steps.append((_say(rng, f"To {verb} it I need the {tool}.", f"Now I go to the {tool}."), f"go to {tool}"))
        steps.append(
            (_say(rng, f"I {verb} the {item} here.", "This is the place for it."), f"{verb} {item} with {tool}")
        )
        places = [p for p in places if p != tool]
    goal = rng.choice([p for p in places if p not in lamps])
    kind = goal.split()[0]
    steps.append((_say(rng, f"The {name} belongs at the {goal}.", f"I bring it to the {goal}."), f"go to {goal}"))
    if goal in scene.closed and not any(action == f"open {goal}" for _, action in steps):
        steps.append((_say(rng, f"The {goal} is closed; I open it.", "It has to be open first."), f"open {goal}"))
    steps.append((_say(rng, f"I put the {item} down to finish.", "One step is left."), f"put {item} in/on {goal}"))
    return f"put a {adjective}{name} in/on the {kind}", steps


def _say(rng: random.Random, *texts: str) -> str:
    return rng.choice(texts)
