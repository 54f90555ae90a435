"""What a reward component sees and what it answers, and the components by name.

Decision: text reaches a component as the turns of the policy, cut out by the loss mask (`policy_turns`). Rewards that
read the decoded conversation instead also read the environment's help text, and one that shows example tags there
pays for every invalid action.

Invariants
    1. `Result.valid` is false where the row says nothing about the policy: no gold answer, or a failure of ours. A
       wrong or missing answer is valid.
    2. Flags are short fixed words, to be counted; what is particular to a row goes into `details`.
    3. A component that cannot answer raises; `ComponentError` gives the failure a flag of its own.

Where a component runs is its class attribute `place`: `here` (a thread of ours), or `process` (a worker that can be
killed). Those of this package run here unless they say otherwise, those of another package in a process.

Example:
    >>> policy_turns([5, 6, 7, 8, 9], loss_mask=[0, 1, 1, 0, 1], turn_id=[-1, 1, 1, -2, 2])
    [[6, 7], [9]]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from hpt_megatron.registry import Registry

Place = Literal["here", "process"]

NO_GOLD = "no_gold"
NO_ANSWER = "no_answer"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One trajectory as the rewards see it."""

    turns: tuple[str, ...]  # the policy's own text, decoded without special tokens
    answer: str | None = None  # the answer extracted from it; None where there is none
    golds: tuple[str, ...] = ()  # any of them is right
    choices: tuple[str, ...] = ()  # of a multiple choice question, in the order of their letters
    question: str = ""
    retrieved: tuple[str, ...] = ()  # pages in the order in which they were shown; crops are no pages
    reference: tuple[str, ...] = ()  # pages that hold the answer
    tokens: int = 0  # sampled by the policy
    modality: str = "text"
    data_source: str = ""


@dataclass(frozen=True)
class Result:
    """What a component makes of a sample."""

    score: float
    flags: tuple[str, ...] = ()
    details: Mapping[str, str | float] = field(default_factory=dict)
    valid: bool = True
    turns: tuple[float, ...] = ()  # a score for each turn, of a component that has them
    failed: bool = False  # the component could not answer; set by who asked it


class ComponentError(Exception):
    """A failure that says nothing about the policy: the row leaves with this flag and is not valid."""

    def __init__(self, flag: str, what: str = "") -> None:
        self.flag = flag
        super().__init__(what or flag)


class Component(Protocol):
    """A part of a reward; its settings are the fields of its dataclass."""

    def score(self, sample: Sample) -> Result:
        """The worth of one sample, by this component alone."""
        ...


COMPONENTS: Registry[type[Component]] = Registry("reward component", "hpt_megatron.rewards")


def policy_turns(ids: Sequence[int], loss_mask: Sequence[int], turn_id: Sequence[int]) -> list[list[int]]:
    """The sampled ids of every turn, in order: turns count from 1, the prompt and observations are negative.

    What the environment adds inside a turn, such as an end that was not sampled, has mask 0 and stays out.
    """
    turns: dict[int, list[int]] = {}
    for token, sampled, turn in zip(ids, loss_mask, turn_id, strict=True):
        if sampled and turn > 0:
            turns.setdefault(turn, []).append(token)
    return [turns[turn] for turn in sorted(turns)]


def place_of(component: Component) -> Place:
    """Where a component runs."""
    ours = type(component).__module__.startswith("hpt_megatron.")
    place: Place = getattr(component, "place", "here" if ours else "process")
    return place


def on_turn_ends(scores: Sequence[float], loss_mask: Sequence[int], turn_id: Sequence[int]) -> list[float]:
    """Scores of turns, each on the last token that the policy sampled in its turn; 0 elsewhere.

    >>> on_turn_ends([0.5, 1.0], loss_mask=[0, 1, 1, 0, 1], turn_id=[-1, 1, 1, -2, 2])
    [0.0, 0.0, 0.5, 0.0, 1.0]
    """
    last = {turn: i for i, (sampled, turn) in enumerate(zip(loss_mask, turn_id, strict=True)) if sampled and turn > 0}
    placed = [0.0] * len(turn_id)
    for score, turn in zip(scores, sorted(last), strict=True):
        placed[last[turn]] = score
    return placed


def of_golds(sample: Sample, scores: Sequence[float]) -> Result:
    """The best of the scores against each gold; without an answer 0, without a gold not valid."""
    if not sample.golds:
        return Result(0.0, (NO_GOLD,), valid=False)
    if sample.answer is None:
        return Result(0.0, (NO_ANSWER,))
    return Result(max(scores))
