"""The tags of one turn: its action, and whether it is well formed.

A turn is an optional `<think>`, then one action: `<search>`, `<bbox>`, `<answer>` or `<search_complete>`. The first
complete action of a turn is the one that counts; a tag is found by a regular expression, never by an XML parser.

Format is graded turn by turn: the tags are exactly those, in that order, none inside another; the action's body can be
carried out; the last turn ends the trajectory and no earlier one does; `strict` allows nothing but space outside tags.

Invariants
    1. Linear in the length of the text, whatever the tags: each is looked at a fixed number of times.
    2. An empty answer is well formed (and wrong).

Example:
    >>> first_action("<think>so</think><search> red  fox </search>")
    Action(name='search', body='red fox')
    >>> Format().score(Sample(turns=("<search>fox</search>", "<answer>4</answer>"))).score
    1.0
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from hpt_megatron.rewards.component import COMPONENTS, Result, Sample

ACTIONS = ("search", "bbox", "answer", "search_complete")
ENDING = ("answer", "search_complete")
NAMES = "think|search_complete|search|bbox|answer"
TAG = re.compile(rf"<(/?)({NAMES})>")
LONGEST_QUERY = 512
LONGEST_BOX = 200  # characters; four numbers need no more, and nothing deep is parsed

Think = Literal["none", "first_turn", "every_turn"]


@dataclass(frozen=True)
class Action:
    """What a turn asks for; the body without the space around it, in a search also without runs of space."""

    name: str
    body: str


@lru_cache(maxsize=64)
def tags_of(tools: tuple[str, ...]) -> re.Pattern[str]:
    """The tags that exist, with those of further tools."""
    return re.compile(rf"<(/?)({'|'.join(map(re.escape, tools))}|{NAMES})>") if tools else TAG


def first_action(turn: str, tools: tuple[str, ...] = ()) -> Action | None:
    """The leftmost complete action; `tools` names those of an agent's further tools."""
    opened: dict[str, list[int]] = {}
    best: tuple[int, str, int, int] | None = None
    closed: set[str] = set()
    for tag in tags_of(tools).finditer(turn):
        name = tag[2]
        if name == "think" or name in closed:
            continue
        if not tag[1]:
            opened.setdefault(name, []).append(tag.end())
        elif name in opened:
            closed.add(name)  # the leftmost of its name: from its first opening to the first closing after that
            found = (opened[name][0], name, opened[name][0], tag.start())
            best = found if best is None else min(best, found)
    return _action(best[1], turn[best[2] : best[3]]) if best else None


def _action(name: str, body: str) -> Action:
    return Action(name, " ".join(body.split()) if name == "search" else body.strip())


def final_answer(turns: Sequence[str]) -> str | None:
    """The answer that ends a trajectory: the action of its last turn, where that is an answer."""
    action = first_action(turns[-1]) if turns else None
    return action.body if action and action.name == "answer" else None


def can_be_done(action: Action, tools: Sequence[str] = ()) -> bool:
    """Whether the body is one that the environment carries out; a further tool judges its own, which is not empty."""
    body = action.body
    if action.name in tools:
        return bool(body)
    if action.name == "search":
        return 1 <= len(body) <= LONGEST_QUERY and "<" not in body and ">" not in body
    if action.name == "bbox":
        return _is_box(body)
    return action.name == "answer" or body.casefold() == "true"


def _is_box(body: str) -> bool:
    if len(body) > LONGEST_BOX:
        return False
    try:
        box = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(box, list) or len(box) != 4:
        return False
    return all(isinstance(side, (int, float)) and not isinstance(side, bool) and math.isfinite(side) for side in box)


def fault(turn: str, *, last: bool, think: bool, strict: bool, tools: tuple[str, ...] = ()) -> str | None:
    """The first thing wrong with a turn, as a flag; None where it is well formed."""
    tags = list(tags_of(tools).finditer(turn))
    names = [tag[1] + tag[2] for tag in tags]
    thinks = names[:2] == ["think", "/think"]
    if think and not thinks:
        return "no_think"
    names, action_tags = (names[2:], tags[2:]) if thinks else (names, tags)
    if len(names) != 2 or names[0] not in (*ACTIONS, *tools) or names[1] != f"/{names[0]}":
        return "bad_tags"
    if strict:
        edges = [0, *(place for tag in tags for place in tag.span()), len(turn)]
        # Of every four edges the first two bound what is outside tags.
        if any(turn[edges[i] : edges[i + 1]].strip() for i in range(0, len(edges), 4)):
            return "text_outside_tags"
    action = _action(names[0], turn[action_tags[0].end() : action_tags[1].start()])
    if not can_be_done(action, tools):
        return "bad_body"
    if (action.name in ENDING) != last:
        return "no_end" if last else "early_end"
    return None


@COMPONENTS.add("format")
@dataclass(frozen=True)
class Format:
    """1 where every turn is well formed, else 0; `graded`: the share of turns that are. `tools`: further actions."""

    think: Think = "none"
    strict: bool = False
    graded: bool = False
    tools: tuple[str, ...] = ()

    def score(self, sample: Sample) -> Result:
        """Of the turns alone; a trajectory of no turn is not well formed."""
        faults = [self._fault(sample.turns, i) for i in range(len(sample.turns))]
        good = sum(found is None for found in faults)
        flags = tuple(sorted({found for found in faults if found})) if faults else ("no_turn",)
        share = good / len(faults) if faults else 0.0
        turns = tuple(float(found is None) for found in faults)
        return Result(share if self.graded else float(share == 1.0), flags, {"turns": float(len(faults))}, turns=turns)

    def _fault(self, turns: Sequence[str], i: int) -> str | None:
        think = self.think == "every_turn" or (self.think == "first_turn" and i == 0)
        return fault(turns[i], last=i == len(turns) - 1, think=think, strict=self.strict, tools=tuple(self.tools))
