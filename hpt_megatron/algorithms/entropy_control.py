"""The coefficient of the entropy bonus, raised where the policy collapses.

    c = clip(c + step, low, high)    where the entropy of rollouts lies below the target
    c = clip(c - step, low, high)    elsewhere

`low` is `algorithm.entropy_coeff`, which is also where c begins; without a target it stays there. The entropy is the
one that the update measured, so a step's coefficient answers to the entropy of the step before (Skywork-OR1,
arXiv 2505.22312, section 4.3).

Invariants
    1. The coefficient lies in [low, high]; an entropy that is no finite number moves nothing.
    2. What `state_dict` answers goes through JSON, and a control that loads it continues bit for bit.

Example:
    >>> control = EntropyControl(low=0.0, high=0.01, step=0.004, target=1.0)
    >>> [control.observe(entropy) or control.coefficient for entropy in (0.9, 0.8, 0.7, 1.5)]
    [0.004, 0.008, 0.01, 0.006]
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class EntropyControl:
    """See the module."""

    low: float
    high: float
    step: float
    target: float | None

    def __post_init__(self) -> None:
        self.coefficient = self.low

    def observe(self, entropy: float) -> None:
        """The entropy of the rollouts of one step, in nats for each token."""
        if self.target is None or not math.isfinite(entropy):
            return
        moved = self.step if entropy < self.target else -self.step
        self.coefficient = min(max(self.coefficient + moved, self.low), self.high)

    def state_dict(self) -> dict[str, Any]:
        """What the next steps depend on."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on; bounds that were changed for the resumed run hold."""
        if self.target is not None:
            self.coefficient = min(max(float(state.get("coefficient", self.low)), self.low), self.high)
