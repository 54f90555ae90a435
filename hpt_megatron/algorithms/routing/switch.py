"""`switch`: a prompt imitates, learns off-policy from its target, or explores, by the number of its successes.

    k <= gate              imitate: rollouts go, the target becomes a row
    gate < k <= gate_off   off-policy: the same rows, but RL on the target instead of imitation
    otherwise              explore: all rollouts stay, nothing is added

With `remove` below n that many rollouts go and the others stay beside the target.

A gate is a count of successes; given as a rate r it is floor(r * n), so that it follows n when a rollout is lost to a
failure of ours. -1 (or a negative rate) never imitates; a gate of n or more always does.

Example (gate 0 and 2, n = 8): k = 0 imitates, 1 and 2 learn off-policy, 3 to 8 explore.
"""

import math
from dataclasses import dataclass

from hpt_megatron.algorithms.routing.decision import EXPLORE, IMITATE, OFF_POLICY, Decision, Mix, Outcome, Stateless

ALL = 10**9  # more rollouts than any group has


@dataclass(frozen=True)
class Switch(Stateless):
    """The three arms; `imitation` is what the first one trains the target with."""

    gate: int = 0
    gate_off: int = 0
    gate_rate: float | None = None
    gate_off_rate: float | None = None
    remove: int = ALL
    imitation: Mix = IMITATE

    def decide(self, outcome: Outcome) -> Decision:
        """The arm of one prompt."""
        if outcome.k <= threshold(self.gate, self.gate_rate, outcome.n):
            return self._demonstration(self.imitation, outcome.n, "imitate")
        if outcome.k <= threshold(self.gate_off, self.gate_off_rate, outcome.n):
            return self._demonstration(OFF_POLICY, outcome.n, "off_policy")
        return Decision(EXPLORE)

    def _demonstration(self, mix: Mix, n: int, arm: str) -> Decision:
        if self.remove < n:  # some rollouts stay beside the demonstration
            return Decision(Mix(1.0, mix.off, mix.sft), drop=self.remove, demo=True, arm="blend")
        return Decision(mix, drop=n, demo=True, arm=arm)


def threshold(count: int, rate: float | None, n: int) -> int:
    """A gate as a count of successes among n.

    >>> threshold(2, None, 8), threshold(0, 0.25, 8), threshold(0, 0.25, 6), threshold(0, -0.1, 8)
    (2, 2, 1, -1)
    """
    return count if rate is None else math.floor(rate * n + 1e-9)
