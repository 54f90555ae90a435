"""Policy losses on the ratio r = pi / pi_old of a token: unclipped, clipped, dual clip. Stream `rl`.

A is the column `credit`, rho the factor of the correction (1 without one). The loss is minus the objective; "weight"
below is what the gradient of the token's log-prob is multiplied by in the objective, before the token's own weight.

Invariants
    1. The share of clipped tokens counts those where the clip wins, so where the gradient is off; it is counted before
       the maximum is taken, not read from what is left of it.
    2. r is limited as in `ratio`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hpt_megatron.algorithms.objective.correction import NO_CORRECTION, Correction
from hpt_megatron.algorithms.objective.part import COMPONENTS, Part, View
from hpt_megatron.algorithms.objective.ratio import exp_limited, old_logp
from hpt_megatron.algorithms.objective.tally import tally
from hpt_megatron.errors import UserError


def clipped(ratio: Tensor, credit: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """max(-A r, -A clamp(r, 1 - low, 1 + high)), and where the second is the larger one."""
    plain = -credit * ratio
    held = -credit * ratio.clamp(1.0 - low, 1.0 + high)
    acts = held > plain
    return torch.where(acts, held, plain), acts


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """What every policy loss shares: the stream, the correction, the metrics."""

    correction: Correction = NO_CORRECTION
    name = "rl"

    @property
    def reads(self) -> tuple[str, ...]:
        """The stored columns that it needs, and `entropy` where it needs that."""
        return ("credit", *self.correction.reads)

    @abstractmethod
    def surrogate(self, view: View, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of every token, and where it is held."""

    def __call__(self, view: View) -> Part:
        """The surrogate times the correction."""
        log_ratio = view.logp - old_logp(view)
        loss, held = self.surrogate(view, log_ratio)
        factor, metrics = self.correction.factor(view)
        loss = factor * loss
        own = {
            "actor/on_pg_loss": tally(view, loss),
            "actor/pg_clipfrac": tally(view, held),
            "actor/ppo_kl": tally(view, -log_ratio),
            "actor/ratio_mean": tally(view, exp_limited(log_ratio)),
        }
        return Part(view.weighted(loss), own | dict(metrics))


@COMPONENTS.add("none")
@dataclass(frozen=True, kw_only=True)
class Unclipped(Policy):
    """-A r rho; weight A r rho. With pi_old = pi this is REINFORCE."""

    def surrogate(self, view: View, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        loss = -view.stored["credit"] * exp_limited(log_ratio)
        return loss, torch.zeros_like(loss, dtype=torch.bool)


@COMPONENTS.add("clip")
@dataclass(frozen=True, kw_only=True)
class Clip(Policy):
    """max(-A r, -A clamp(r, 1 - clip_low, 1 + clip_high)) rho; weight A r rho, and 0 where the clip acts.

    It acts where A > 0 and r > 1 + clip_high, or A < 0 and r < 1 - clip_low. Equal bounds are PPO's; a larger
    clip_high is DAPO's clip-higher.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2

    def surrogate(self, view: View, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        return clipped(exp_limited(log_ratio), view.stored["credit"], self.clip_low, self.clip_high)


@COMPONENTS.add("dual_clip")
@dataclass(frozen=True, kw_only=True)
class DualClip(Clip):
    """As clip; where A < 0 the loss is at most -A clip_dual. Weight as clip, and 0 where A < 0 and r > clip_dual."""

    clip_dual: float = 3.0

    def __post_init__(self) -> None:
        if self.clip_dual <= 1:
            raise UserError(f"{self.clip_dual} would hold tokens that never moved", where="clip_dual", mend="above 1")

    def surrogate(self, view: View, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        loss, held = super().surrogate(view, log_ratio)
        credit = view.stored["credit"]
        most = -credit * self.clip_dual
        over = (credit < 0) & (loss > most)
        return torch.where(over, most, loss), held | over
