"""`adaptive`: explore when a group of n rollouts is more likely than not to hold a success; nothing to tune by hand.

A group without a success teaches RL nothing, so what matters is the chance that the next group holds one. With the
success rate p of the prompt that chance is

    chance = 1 - (1 - p)^n

and p is estimated from this group, from what the prompt did before, and from how the batch does, in that order of
weight: with q the prompt's running estimate (the batch's, when the prompt is new),

    p = (k + prior * q) / (n + prior)        q <- p,   batch <- (1 - rate) * batch + rate * mean(k / n)

A prompt starts to explore at chance >= 3/4 and goes back to imitation below 1/4; in between it stays what it was (a new
prompt: explore from 1/2). So a lucky rollout does not flip it to and fro. While it explores below 3/4 its target is
imitated beside the rollouts, with weight (3/4 - chance) / (3/4 - 1/4): switch and soft in one. A group without a single
success imitates in either mode, for its rollouts have nothing to tell apart.

Example (n = 8, prior 4, one prompt over seven steps):
    k = 0 -> p 0.000, chance 0.00: imitate
    k = 1 -> p 0.083, chance 0.50: still imitate
    k = 3 -> p 0.278, chance 0.93: explore
    k = 1 -> p 0.176, chance 0.79: explore
    k = 1 -> p 0.142, chance 0.71: still explore, with imitation at 0.09 beside it
    k = 0 -> p 0.047, chance 0.32: nothing to learn from these rollouts: imitate, and stay ready to explore
    k = 0 -> p 0.016, chance 0.12: imitate
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hpt_megatron.algorithms.routing.decision import EXPLORE, IMITATE, Decision, Mix, Outcome
from hpt_megatron.algorithms.routing.switch import ALL


@dataclass
class Adaptive:
    """Running estimates and the mode of every prompt seen."""

    low: float = 0.25
    high: float = 0.75
    prior: float = 4.0
    rate: float = 0.1
    imitation: Mix = IMITATE
    batch: float | None = None
    estimates: dict[str, float] = field(default_factory=dict)
    exploring: dict[str, bool] = field(default_factory=dict)

    def observe(self, outcomes: Sequence[Outcome], step: int) -> None:
        """Moves the batch's estimate, then each prompt's, then each prompt's mode."""
        if not outcomes:
            return
        mean = math.fsum(outcome.k / outcome.n for outcome in outcomes) / len(outcomes)  # exact in any order
        known = mean if self.batch is None else self.batch
        self.batch = (1 - self.rate) * known + self.rate * mean
        for outcome in together(outcomes):
            before = self.estimates.get(outcome.prompt, known)
            self.estimates[outcome.prompt] = (outcome.k + self.prior * before) / (outcome.n + self.prior)
            chance = self.chance(outcome)
            stays = self.exploring.get(outcome.prompt, chance >= (self.low + self.high) / 2)
            self.exploring[outcome.prompt] = chance >= self.low if stays else chance >= self.high

    def chance(self, outcome: Outcome) -> float:
        """The estimated chance that n rollouts of the prompt hold a success."""
        return 1.0 - (1.0 - self.estimates[outcome.prompt]) ** outcome.n

    def decide(self, outcome: Outcome) -> Decision:
        """Imitate, or explore with as much imitation as the chance leaves room for."""
        if not self.exploring[outcome.prompt] or (outcome.k == 0 and outcome.has_target):
            return Decision(self.imitation, drop=ALL, demo=True, arm="imitate")
        short = min(max((self.high - self.chance(outcome)) / (self.high - self.low), 0.0), 1.0)
        if not short or not outcome.has_target:
            return Decision(EXPLORE)
        blend = Mix(1.0, self.imitation.off * short, self.imitation.sft * short)
        return Decision(blend, demo=True, arm="blend")

    def state_dict(self) -> dict[str, Any]:
        """The estimates and modes."""
        return {"batch": self.batch, "estimates": dict(self.estimates), "exploring": dict(self.exploring)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them back."""
        self.batch = state["batch"]
        self.estimates, self.exploring = dict(state["estimates"]), dict(state["exploring"])


def together(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One outcome per prompt, so that a prompt drawn twice in a step counts once, in any order."""
    sums: dict[str, list[int]] = {}
    for outcome in outcomes:
        n, k = sums.setdefault(outcome.prompt, [0, 0])
        sums[outcome.prompt] = [n + outcome.n, k + outcome.k]
    return [Outcome(n, k, prompt=prompt) for prompt, (n, k) in sums.items()]
