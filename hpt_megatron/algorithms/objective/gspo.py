"""Policy loss on the ratio of whole rows: `gspo`. Stream `rl`."""

from dataclasses import dataclass

from torch import Tensor

from hpt_megatron.algorithms.objective.part import COMPONENTS, View
from hpt_megatron.algorithms.objective.policy import Policy, clipped
from hpt_megatron.algorithms.objective.ratio import at_row_level, exp_limited


@COMPONENTS.add("gspo")
@dataclass(frozen=True, kw_only=True)
class Gspo(Policy):
    """max(-A s, -A clamp(s, 1 - clip_low, 1 + clip_high)) rho with s = exp(mean over the row of log r).

    Token form (see `ratio`): weight A s rho at every token of the row, and 0 where the clip acts, which with one
    credit per row is all of the row or nothing. The mean runs over the tokens that have a weight in this stream.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4

    def surrogate(self, view: View, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        ratio = exp_limited(at_row_level(view, log_ratio))
        return clipped(ratio, view.stored["credit"], self.clip_low, self.clip_high)
