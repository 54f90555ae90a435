"""RL on demonstrations with the reference policy 1 (LUFFY's off-policy part): `off_policy`. Stream `off`.

`off_policy_loss_impl=seq` asks in the released code for statistics that nothing computes. Here it is the sequence-level
form of the same loss: every token of the row is judged by the row's likelihood per token instead of by its own.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from hpt_megatron.algorithms.objective.part import COMPONENTS, Part, View
from hpt_megatron.algorithms.objective.ratio import at_row_level
from hpt_megatron.algorithms.objective.reshape import RESHAPES
from hpt_megatron.algorithms.objective.tally import tally

TARGET_FLOOR = 1e-6  # added to the target's probability before dividing, as in the released code
DRAWN = "classic_reject_token"


@COMPONENTS.add("off_policy")
@dataclass(frozen=True, kw_only=True)
class OffPolicy:
    """-A clamp(f(p), min_clip, max_clip); weight A f'(log p), and 0 where a bound acts.

        impl token    p = pi of the token
        impl seq      p = exp(mean over the row of log pi), the geometric mean; token form, see `ratio`
        f             the shape `reshape`; with `target_probs` p / (q + 1e-6) instead, q from the column `target_logp`
                      (what wrote the demonstration), at the same level as p

    `classic_reject_token` keeps the tokens whose column `accept` is 1. It was drawn beforehand, with probability p and
    with a seed, so the loss itself draws nothing and every rank and every repetition agrees.
    """

    reshape: str = "no_reshape"
    reshape_weight: float = 0.1
    reshape_exponent: float = 0.5
    impl: Literal["token", "seq"] = "token"
    target_probs: bool = False
    max_clip: float | None = None
    min_clip: float | None = None
    name = "off"

    @property
    def reads(self) -> tuple[str, ...]:
        """The stored columns that it needs."""
        if self.target_probs:
            return ("credit", "target_logp")
        return ("credit", "accept") if self.reshape == DRAWN else ("credit",)

    def __call__(self, view: View) -> Part:
        """See the class."""
        shaped = self._shaped(view)
        bounded = shaped
        if self.max_clip is not None or self.min_clip is not None:
            bounded = shaped.clamp(min=self.min_clip, max=self.max_clip)
        loss = -view.stored["credit"] * bounded
        metrics = {
            "actor/off_pg_loss": tally(view, loss),
            "actor/off_policy_prob": tally(view, view.logp.exp()),
            "actor/off_ratio_mean": tally(view, bounded),
            "actor/off_ratio_max_clip_frac": tally(view, shaped > bounded),
            "actor/off_ratio_min_clip_frac": tally(view, shaped < bounded),
        }
        return Part(view.weighted(loss), metrics)

    def _shaped(self, view: View) -> Tensor:
        log_p = self._at_level(view, view.logp)
        if self.target_probs:
            return log_p.exp() / (self._at_level(view, view.stored["target_logp"]).exp() + TARGET_FLOOR)
        shaped = RESHAPES.get(self.reshape)(log_p, self.reshape_weight, self.reshape_exponent)
        return shaped * view.stored["accept"] if self.reshape == DRAWN else shaped

    def _at_level(self, view: View, log: Tensor) -> Tensor:
        return at_row_level(view, log) if self.impl == "seq" else log
