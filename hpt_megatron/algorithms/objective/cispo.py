"""Policy loss that bounds the importance weight and drops no token: `cispo`. Stream `rl`."""

from dataclasses import dataclass

from torch import Tensor

from hpt_megatron.algorithms.objective.part import COMPONENTS, View
from hpt_megatron.algorithms.objective.policy import Policy
from hpt_megatron.algorithms.objective.ratio import exp_limited


@COMPONENTS.add("cispo")
@dataclass(frozen=True, kw_only=True)
class Cispo(Policy):
    """-sg(clamp(r, 1 - clip_low, 1 + clip_high)) A log pi rho; weight A clamp(r, ...) rho.

    The bound holds the weight, not the gradient: tokens that PPO would drop still learn. With clip_low 1 there is no
    lower bound. The share of clipped tokens counts weights out of bounds, whatever the sign of A.
    """

    clip_low: float = 1.0
    clip_high: float = 4.0

    def surrogate(self, view: View, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        ratio = exp_limited(log_ratio.detach())
        held = ratio.clamp(1.0 - self.clip_low, 1.0 + self.clip_high)
        return -held * view.stored["credit"] * view.logp, held != ratio
