"""SRFT: imitation and exploration weighed by the entropy of the row. `srft_sft` on stream `sft`, `srft_rl` on `rl`.

H is the mean entropy over the tokens of the row that have a weight in the stream; no gradient flows through it. The
third part of SRFT, off-policy RL on the demonstrations, is the component `off_policy`.

What differs from the released code
    1. A failed row has the loss + log pi, which falls without bound. Here its tokens stop once their log-prob is below
       `negative_floor` (default -10, a probability of 0.00005): no token adds less than the floor, and its gradient is
       off below. `negative_floor=-inf` is the released form.
    2. With clipping on, the released code clamps the log-prob itself to [0.8, 1.2]. Here the ratio pi / pi_old is
       clamped: a success stops above 1 + clip_high, a failure below 1 - clip_low.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log1p
from typing import Literal

import torch
from torch import Tensor

from hpt_megatron.algorithms.objective.part import COMPONENTS, Part, View
from hpt_megatron.algorithms.objective.policy import Policy
from hpt_megatron.algorithms.objective.ratio import exp_limited, old_logp
from hpt_megatron.algorithms.objective.tally import tally
from hpt_megatron.errors import HptError, UserError

FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "paper": lambda logp, old: logp,
    "exp": lambda logp, old: logp.exp(),
    "classic_rl": lambda logp, old: exp_limited(logp - old),
    "minus_old": lambda logp, old: logp - old,
}


def row_entropy(view: View) -> Tensor:
    """H of each token's row."""
    if view.entropy is None:
        raise HptError("srft weighs rows by their entropy, and the view has none")
    return view.mean_by_row(view.entropy.detach())


@COMPONENTS.add("srft_sft")
@dataclass(frozen=True, kw_only=True)
class SrftSft:
    """-scale exp(-H) log pi; weight scale exp(-H). What the policy is unsure of is imitated less."""

    scale: float = 0.5
    name = "sft"
    reads = ("entropy",)

    def __call__(self, view: View) -> Part:
        """See the class."""
        entropy = row_entropy(view)
        coefficient = self.scale * exp_limited(-entropy)
        metrics = {
            "actor/sft_loss": tally(view, -view.logp),
            "srft/sft_coef": tally(view, coefficient),
            "srft/demo_H": tally(view, entropy),
        }
        return Part(view.weighted(-coefficient * view.logp), metrics)


@COMPONENTS.add("srft_rl")
@dataclass(frozen=True, kw_only=True)
class SrftRl(Policy):
    """-A' g(l) rho with A' = scale exp(H) where the column `success` is 1, else -1; weight A' g'(l) rho, 0 where held.

        l    log pi, held: for successes at most log pi_old + log(1 + clip_high); for failures at least
             log pi_old + log(1 - clip_low), and at least negative_floor
        g    form paper: l    exp: exp(l)    classic_rl: exp(l) / pi_old    minus_old: l - log pi_old

    The bounds by ratio are off where they are None.
    """

    scale: float = 0.1
    form: Literal["paper", "exp", "classic_rl", "minus_old"] = "paper"
    clip_low: float | None = None
    clip_high: float | None = None
    negative_floor: float = -10.0

    def __post_init__(self) -> None:
        if self.clip_low is not None and not 0 <= self.clip_low < 1:
            raise UserError(f"{self.clip_low} leaves no lower bound on a ratio", where="clip_low", mend="0 to below 1")

    @property
    def reads(self) -> tuple[str, ...]:
        """The stored columns that it needs, and the entropy."""
        return ("success", "entropy", *self.correction.reads)

    def __call__(self, view: View) -> Part:
        """As every policy loss, with the row's entropy and what came of it."""
        part = super().__call__(view)
        own = {"srft/H": tally(view, row_entropy(view)), "srft/on_coef": tally(view, self.coefficient(view))}
        return Part(part.loss, {**part.metrics, **own})

    def surrogate(self, view: View, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        old = old_logp(view)
        won = view.stored["success"] != 0
        least = old + (-inf if self.clip_low is None else log1p(-self.clip_low))
        most = old + (inf if self.clip_high is None else log1p(self.clip_high))
        least = torch.where(won, -inf, least.clamp(min=self.negative_floor))
        held = view.logp.clamp(least, torch.where(won, most, inf))
        return -self.coefficient(view) * FORMS[self.form](held, old), held != view.logp

    def coefficient(self, view: View) -> Tensor:
        """A' of every token."""
        return torch.where(view.stored["success"] != 0, self.scale * exp_limited(row_entropy(view)), -1.0)
