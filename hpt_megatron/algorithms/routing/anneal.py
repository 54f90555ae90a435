"""`anneal`: the share of imitation falls on a schedule, the same for every prompt.

    share(step) = start + (end - start) * f(min(step / steps, 1))       f linear, or (1 - cos(pi x)) / 2
    Mix(on = 1 - share, sft = share)

Example (1 to 0 over 100 steps, linear): at step 25 rollouts weigh 0.25 and imitation 0.75; from step 100 on it is RL.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hpt_megatron.algorithms.routing.decision import EXPLORE, IMITATE, Decision, Mix, Outcome


@dataclass
class Anneal:
    """A schedule and where it stands."""

    start: float = 1.0
    end: float = 0.0
    steps: int = 100
    shape: Literal["linear", "cosine"] = "linear"
    imitation: Mix = IMITATE
    share: float = 1.0

    def observe(self, outcomes: Sequence[Outcome], step: int) -> None:
        """Moves to a step."""
        done = min(step / self.steps, 1.0)
        passed = done if self.shape == "linear" else (1 - math.cos(math.pi * done)) / 2
        self.share = self.start + (self.end - self.start) * passed

    def decide(self, outcome: Outcome) -> Decision:
        """The share of this step; a prompt without a target explores with full weight."""
        if self.share <= 0 or not outcome.has_target:
            return Decision(EXPLORE)
        mix = Mix(1 - self.share, self.imitation.off * self.share, self.imitation.sft * self.share)
        return Decision(mix, drop=outcome.n if self.share >= 1 else 0, demo=True, arm="blend" if mix.on else "imitate")

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        return {"share": self.share}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it back."""
        self.share = state["share"]
