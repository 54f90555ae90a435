"""What a strategy sees of a prompt and what it answers.

    Outcome(n=8, k=0, has_target=True)  --switch, gate 0-->  Decision(Mix(on=0, off=0, sft=1), drop=8, demo=True)

Invariants
    1. A strategy decides from the outcome of the one prompt and its own state. `route` shows it all outcomes of a
       step before it asks for the first decision, so the order of prompts does not matter.
    2. A prompt without a usable target never imitates: `route` turns such a decision into what `without_target` says,
       keeping the rollouts or dropping the prompt, and counts it.
    3. A prompt without a valid rollout is dropped, and counted.
    4. State goes through `state_dict`, which holds nothing that JSON cannot, so that a resumed run decides the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from hpt_megatron.registry import Registry


@dataclass(frozen=True)
class Outcome:
    """The rollouts of one prompt: how many are valid, how many of those succeeded."""

    n: int
    k: int
    has_target: bool = True
    prompt: str = ""  # a name that stays the same over steps and runs
    demo_right: bool = True  # whether the target itself would count as a success
    reward: float | None = None  # the mean score of its valid rollouts; for the log, no strategy reads it


@dataclass(frozen=True)
class Mix:
    """The weights of a prompt's rollouts (on), of RL on its target (off) and of imitating its target (sft)."""

    on: float
    off: float
    sft: float


EXPLORE, OFF_POLICY, IMITATE = Mix(1.0, 0.0, 0.0), Mix(0.0, 1.0, 0.0), Mix(0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Decision:
    """What is done with a prompt: its weights, how many rollouts go, whether its target becomes a row."""

    mix: Mix
    drop: int = 0
    demo: bool = False
    arm: str = "explore"  # explore, imitate, off_policy, blend, skipped: what the records call it


class Strategy(Protocol):
    """One way to decide."""

    def observe(self, outcomes: Sequence[Outcome], step: int) -> None:
        """Takes in all outcomes of a step, before its first decision."""
        ...

    def decide(self, outcome: Outcome) -> Decision:
        """The decision for one prompt."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        ...


class Stateless:
    """The face of a strategy that remembers nothing."""

    def observe(self, outcomes: Sequence[Outcome], step: int) -> None:
        """Nothing to take in."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""


STRATEGIES: Registry[Callable[[Any], Strategy]] = Registry("strategy", "hpt_megatron.strategies")


@dataclass(frozen=True)
class Routing:
    """The decisions of a step, in the order of the outcomes, and what had to be counted."""

    decisions: list[Decision]
    without_target: int = 0
    without_rollout: int = 0


def route(
    strategy: Strategy,
    outcomes: Sequence[Outcome],
    step: int,
    without_target: Literal["keep", "drop"] = "keep",
) -> Routing:
    """The decision for every prompt of a step."""
    strategy.observe([outcome for outcome in outcomes if outcome.n > 0], step)
    decisions, lost, empty = [], 0, 0
    for outcome in outcomes:
        decision = strategy.decide(outcome) if outcome.n else skipped(outcome)
        if decision.demo and not outcome.has_target:
            lost += 1
            decision = Decision(EXPLORE) if without_target == "keep" else skipped(outcome)
        empty += not outcome.n
        decisions.append(replace(decision, drop=min(decision.drop, outcome.n)))
    return Routing(decisions, lost, empty)


def skipped(outcome: Outcome) -> Decision:
    """The decision to train nothing on a prompt."""
    return Decision(Mix(0.0, 0.0, 0.0), drop=outcome.n, arm="skipped")
