"""Correction for the gap between the engine that sampled a token and the trainer that scores it.

Both hold the same weights, yet their kernels differ, and one may run at lower precision. With
gap = old_logp - rollout_logp (trainer minus engine, both before the update) the policy loss of a token is multiplied by

    rho   token: exp(gap_t)    sequence: exp(sum of the row's gaps)    geometric: exp(mean of the row's gaps)
    tis   min(rho, high)                           truncated importance sampling
    mis   rho where low <= rho <= high, else 0     masked importance sampling
    none  1

Both columns are stored, so the factor has no gradient. In effect it replaces the reference policy pi_old by the
engine's, up to the bound. A gap over a long row makes `sequence` swing widely; `geometric` is the same test per token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hpt_megatron.algorithms.objective.part import View
from hpt_megatron.algorithms.objective.ratio import exp_limited, old_logp
from hpt_megatron.algorithms.objective.tally import tally

Metrics = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Which factor; `low` is read by mis alone."""

    kind: Literal["none", "tis", "mis"] = "none"
    level: Literal["token", "sequence", "geometric"] = "token"
    low: float = 0.5
    high: float = 2.0

    @property
    def reads(self) -> tuple[str, ...]:
        """The stored columns that it needs."""
        return () if self.kind == "none" else ("rollout_logp",)

    def factor(self, view: View) -> tuple[Tensor, Metrics]:
        """The factor of every token, and what it did; the gap is reported wherever the engine's log-probs are kept."""
        if self.kind == "none" and "rollout_logp" not in view.stored:
            return torch.ones_like(view.weight), {}
        gap = old_logp(view) - view.stored["rollout_logp"]
        metrics = {"correction/abs_gap": tally(view, gap.abs())}
        if self.kind == "none":
            return torch.ones_like(view.weight), metrics
        rho = exp_limited(self._over_level(view, gap))
        if self.kind == "tis":
            factor, cut = rho.clamp(max=self.high), rho > self.high
        else:
            cut = (rho < self.low) | (rho > self.high)
            factor = torch.where(cut, 0.0, rho)
        return factor, metrics | {"correction/factor": tally(view, factor), "correction/cut": tally(view, cut)}

    def _over_level(self, view: View, gap: Tensor) -> Tensor:
        if self.level == "token":
            return gap
        return view.sum_by_row(gap) if self.level == "sequence" else view.mean_by_row(gap)


NO_CORRECTION = Correction()
