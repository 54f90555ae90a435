"""What the critic learns: `value`. Stream `value`.

The view's column `value` is the critic's output, inside the graph; `old_value` and `returns` are stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hpt_megatron.algorithms.objective.part import COMPONENTS, Part, View
from hpt_megatron.algorithms.objective.tally import tally


@COMPONENTS.add("value")
@dataclass(frozen=True, kw_only=True)
class Value:
    """max((v - R)^2, (u - R)^2) with u = clamp(v, old - clip, old + clip); no weight on a log-prob.

    The gradient in v is 2 (v - R), and 0 where the clip acts: v has moved by more than `clip` and came closer to R.
    Without a clip (None) it is the plain squared error. There is no factor 1/2; it is in the coefficient.
    """

    clip: float | None = 0.2
    name = "value"
    reads = ("value", "old_value", "returns")

    def __call__(self, view: View) -> Part:
        """See the class."""
        value, old, returns = (view.stored[column] for column in self.reads)
        plain = (value - returns).square()
        held = plain
        if self.clip is not None:
            held = (value.clamp(old - self.clip, old + self.clip) - returns).square()
        acts = held > plain
        loss = torch.where(acts, held, plain)
        error = returns - value
        metrics = {
            "critic/vf_loss": tally(view, loss),
            "critic/vf_clipfrac": tally(view, acts),
            "critic/vpred_mean": tally(view, value),
            "critic/returns": tally(view, returns),
            "critic/returns_square": tally(view, returns.square()),
            "critic/error": tally(view, error),
            "critic/error_square": tally(view, error.square()),
        }
        return Part(view.weighted(loss), metrics)


def explained_variance(mean: Mapping[str, float]) -> float:
    """1 - Var(R - v) / Var(R) from the means of the metrics above; 0 where the returns do not vary."""
    spread = mean["critic/returns_square"] - mean["critic/returns"] ** 2
    if spread <= 0:
        return 0.0
    return 1.0 - (mean["critic/error_square"] - mean["critic/error"] ** 2) / spread
