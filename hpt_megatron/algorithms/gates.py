"""Which groups are trained, and how many prompts to draw to have enough of them.

A gate looks at the plain numbers of one group and admits it or not. Several stand in a row; the first that refuses
gives its name to the count. DAPO's dynamic sampling is the gate `spread` with a refill: groups whose scores are all
equal carry no credit, so more prompts are drawn until enough groups are left or the rounds are used up.

A prompt without any success is there to imitate: `judge` asks the gates only about groups that explore, or dynamic
sampling would take every demonstration away. Where a target is a row there is something to learn, so it passes.

Invariants
    1. A verdict depends on the group alone: not on other groups, nor on the order of its rollouts.
    2. A group of no valid rollout passes no gate.
    3. `Refill` never draws past `max_rounds` rounds nor more than `max_draw` prompts at once, and never keeps more
       groups than are wanted. Every group recorded is counted exactly once: kept, surplus, or rejected by one gate.
    4. Its state goes through JSON, at any moment of a step, and a refill that loads it continues the same.

Example:
    >>> gates = (MinimumValid(2), Spread())
    >>> groups = [Group.of([1.0, 0.0], [True, False]), Group.of([1.0, 1.0], [True, True]), Group.of([1.0], [True])]
    >>> verdicts = [rejected_by(gates, group) for group in groups]
    >>> verdicts
    [None, 'spread', 'minimum_valid']
    >>> refill = Refill(RefillSettings(wanted=2, max_rounds=3, max_draw=8))
    >>> refill.to_draw(), refill.record(verdicts), refill.to_draw()
    (2, [0], 2)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from hpt_megatron.algorithms.routing.decision import Decision
from hpt_megatron.errors import UserError


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt as numbers: n valid ones, k successes, extreme scores, how many were cut off."""

    n: int
    k: int
    lowest: float
    highest: float
    truncated: int = 0

    @staticmethod
    def of(
        scores: Sequence[float],
        success: Sequence[bool],
        truncated: Sequence[bool] | None = None,
        valid: Sequence[bool] | None = None,
    ) -> "Group":
        """From the rollouts, in any order; those that are not valid count nowhere."""
        every = range(len(scores))
        kept = [i for i in every if valid is None or valid[i]]
        return Group(
            n=len(kept),
            k=sum(success[i] for i in kept),
            lowest=min((scores[i] for i in kept), default=0.0),
            highest=max((scores[i] for i in kept), default=0.0),
            truncated=sum(truncated[i] for i in kept) if truncated is not None else 0,
        )


class Gate(Protocol):
    """Admits a group or not; the name is what is counted."""

    name: ClassVar[str]

    def admits(self, group: Group) -> bool:
        """Whether the group may be trained."""
        ...


@dataclass(frozen=True)
class MinimumValid:
    """n >= at_least; below 2 there is nothing to compare a rollout with."""

    at_least: int = 2
    name: ClassVar[str] = "minimum_valid"

    def admits(self, group: Group) -> bool:
        """n >= at_least, and never an empty group."""
        return group.n >= max(self.at_least, 1)


@dataclass(frozen=True)
class Mixed:
    """0 < k < n: DAPO's dynamic sampling. What shaping adds to the scores of an all-right group does not admit it."""

    name: ClassVar[str] = "mixed"

    def admits(self, group: Group) -> bool:
        """0 < k < n."""
        return 0 < group.k < group.n


@dataclass(frozen=True)
class Spread:
    """highest - lowest > above. With 0, scores that are all equal are refused; for graded scores."""

    above: float = 0.0
    name: ClassVar[str] = "spread"

    def admits(self, group: Group) -> bool:
        """highest - lowest > above; a score that is not a number is refused."""
        return group.highest - group.lowest > self.above


@dataclass(frozen=True)
class SuccessRate:
    """low <= k / n <= high."""

    low: float
    high: float
    name: ClassVar[str] = "success_rate"

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise UserError(f"success rates {self.low} to {self.high} are no window", mend="0 <= low <= high <= 1")

    def admits(self, group: Group) -> bool:
        """low <= k / n <= high, both ends included."""
        return group.n > 0 and self.low <= group.k / group.n <= self.high


@dataclass(frozen=True)
class TruncatedShare:
    """truncated / n <= at_most: a group that mostly ran into the length limit says little about answers."""

    at_most: float
    name: ClassVar[str] = "truncated_share"

    def __post_init__(self) -> None:
        if not 0 <= self.at_most <= 1:
            raise UserError(f"{self.at_most} is no share of truncated rollouts", mend="0 to 1")

    def admits(self, group: Group) -> bool:
        """truncated / n <= at_most."""
        return group.n > 0 and group.truncated / group.n <= self.at_most


def rejected_by(gates: Sequence[Gate], group: Group) -> str | None:
    """The name of the first gate that refuses the group; None where all admit it."""
    return next((gate.name for gate in gates if not gate.admits(group)), None)


def judge(gates: Sequence[Gate], groups: Sequence[Group], decisions: Sequence[Decision]) -> list[str | None]:
    """One verdict per prompt, for `Refill.record`; a prompt on which nothing is trained is `skipped`."""
    verdicts: list[str | None] = []
    for group, decision in zip(groups, decisions, strict=True):
        if decision.demo:
            verdicts.append(None)
        else:
            verdicts.append(rejected_by(gates, group) if decision.mix.on else "skipped")
    return verdicts


@dataclass(frozen=True, kw_only=True)
class RefillSettings:
    """How many groups a step wants, and what it may spend on them."""

    wanted: int
    max_rounds: int
    max_draw: int  # prompts in one round, at most
    memory: float = 0.9  # what an earlier step still counts for in the estimated admit rate

    def __post_init__(self) -> None:
        if self.wanted < 1 or self.max_rounds < 1 or self.max_draw < 1:
            what = f"wanted {self.wanted}, max_rounds {self.max_rounds}, max_draw {self.max_draw}"
            raise UserError(f"a refill of {what} draws nothing", mend="1 or more of each")
        if not 0 <= self.memory <= 1:
            raise UserError(f"{self.memory} is no share of memory", mend="0 (this step alone) to 1 (all steps alike)")


class Refill:
    """Bookkeeping of one step's rounds; it holds no prompts and no rollouts, only counts.

    The admit rate is (admitted + 1) / (judged + 1), over this step and earlier ones fading by `memory`. So a run
    begins by drawing as many as it wants, and draws more once groups are refused.
    """

    def __init__(self, settings: RefillSettings) -> None:
        self.settings = settings
        self._admits, self._judged = 0.0, 0.0
        self._reset()

    def _reset(self) -> None:
        self.kept, self.rounds, self.surplus = 0, 0, 0
        self.rejected: dict[str, int] = {}

    def begin(self) -> None:
        """A new step: its counts are empty, the admit rate is remembered."""
        self._admits *= self.settings.memory
        self._judged *= self.settings.memory
        self._reset()

    @property
    def rate(self) -> float:
        """The estimated share of drawn groups that all gates admit, above 0 and at most 1."""
        return (self._admits + 1) / (self._judged + 1)

    @property
    def missing(self) -> int:
        """Groups still wanted. Once `to_draw` answers 0, the step trains with so many fewer."""
        return self.settings.wanted - self.kept

    def to_draw(self) -> int:
        """Prompts to draw in the next round; 0 when there are enough groups or no rounds left."""
        if self.missing == 0 or self.rounds >= self.settings.max_rounds:
            return 0
        return min(math.ceil(self.missing / self.rate), self.settings.max_draw)

    def record(self, verdicts: Sequence[str | None]) -> list[int]:
        """One round's verdicts, as `rejected_by` gives them; answers which of the groups to keep.

        The first admitted ones are kept. The others are surplus: they would be stale in the next step.
        """
        admitted = [i for i, gate in enumerate(verdicts) if gate is None]
        keep = admitted[: self.missing]
        for gate in verdicts:
            if gate is not None:
                self.rejected[gate] = self.rejected.get(gate, 0) + 1
        self.kept += len(keep)
        self.surplus += len(admitted) - len(keep)
        self.rounds += 1
        self._admits += len(admitted)
        self._judged += len(verdicts)
        return keep

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next rounds depend on, in JSON's types."""
        return {
            "kept": self.kept,
            "rounds": self.rounds,
            "surplus": self.surplus,
            "rejected": dict(self.rejected),
            "admits": self._admits,
            "judged": self._judged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where another refill stopped; where fewer groups are wanted now, the step has enough."""
        self.kept = min(int(state["kept"]), self.settings.wanted)
        self.rounds, self.surplus = int(state["rounds"]), int(state["surplus"])
        self.rejected = {str(gate): int(count) for gate, count in state["rejected"].items()}
        self._admits, self._judged = float(state["admits"]), float(state["judged"])
