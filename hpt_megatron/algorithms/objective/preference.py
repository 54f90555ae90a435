"""The preference losses: `dpo`, `ipo`, `simpo`, `orpo`, `kto`, `imitate`, and `bradley_terry` for a reward model.

With S the summed log-probs of a row's trained tokens under the policy, R under the reference, l their number, c the
chosen and r the rejected row, and P pairs:

    r_i = S_i - R_i        p_i = S_i / l_i        sigma(x) = 1 / (1 + exp(-x))

The weight that each docstring names is that of a token (`pairwise.py`): above 0 it makes the token more likely.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from hpt_megatron.algorithms.objective.pairwise import PAIRWISE, Compared
from hpt_megatron.errors import UserError

MEAN_LIMIT = -1e-6  # odds p / (1 - p) end at p = 0.999999; above it their gradient is 0


@PAIRWISE.add("dpo")
@dataclass(frozen=True, kw_only=True)
class Dpo:
    """-(1 - e) log sigma(m) - e log sigma(-m), m = beta (r_c - r_r), e `label_smoothing`; arXiv 2305.18290.

    Weight beta ((1 - e) sigma(-m) - e sigma(m)) / P on chosen tokens, minus that on rejected ones.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    needs_reference, of_scores, paired = True, False, True

    def __post_init__(self) -> None:
        _above_zero("beta", self.beta)
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"{self.label_smoothing} of the pairs", where="label_smoothing", mend="0 to below 0.5")

    def __call__(self, seen: Compared) -> tuple[Tensor, Tensor]:
        """See the class."""
        chosen, rejected = seen.rewards
        margin = self.beta * (chosen - rejected)
        loss = (1 - self.label_smoothing) * logsigmoid(margin) + self.label_smoothing * logsigmoid(-margin)
        return -loss, margin


@PAIRWISE.add("ipo")
@dataclass(frozen=True, kw_only=True)
class Ipo:
    """(h - 1 / (2 beta))^2, h = r_c - r_r; arXiv 2310.12036. The margin is beta h, and 1/2 is aimed at.

    Weight -2 (h - 1 / (2 beta)) / P on chosen tokens, minus that on rejected ones. Sums as in the paper, not means.
    """

    beta: float = 0.1
    needs_reference, of_scores, paired = True, False, True

    def __post_init__(self) -> None:
        _above_zero("beta", self.beta)

    def __call__(self, seen: Compared) -> tuple[Tensor, Tensor]:
        """See the class."""
        chosen, rejected = seen.rewards
        return (chosen - rejected - 1 / (2 * self.beta)).square(), self.beta * (chosen - rejected)


@PAIRWISE.add("simpo")
@dataclass(frozen=True, kw_only=True)
class Simpo:
    """-log sigma(m - gamma), m = beta (p_c - p_r); no reference; arXiv 2405.14734.

    Weight beta sigma(gamma - m) / (l_c P) on chosen tokens, -beta sigma(gamma - m) / (l_r P) on rejected ones.
    """

    beta: float = 2.0
    gamma: float = 1.0
    needs_reference, of_scores, paired = False, False, True

    def __post_init__(self) -> None:
        _above_zero("beta", self.beta)

    def __call__(self, seen: Compared) -> tuple[Tensor, Tensor]:
        """See the class."""
        chosen, rejected = seen.means
        margin = self.beta * (chosen - rejected)
        return -logsigmoid(margin - self.gamma), margin


@PAIRWISE.add("orpo")
@dataclass(frozen=True, kw_only=True)
class Orpo:
    """-p_c - odds_coef log sigma(m), m = o_c - o_r, o = p - log(1 - exp(p)); no reference; arXiv 2403.07691.

    The first term is imitation of what is chosen, the second the odds ratio; both are in the weights:
    (1 + odds_coef sigma(-m) / (1 - exp(p_c))) / (l_c P) on chosen tokens, and on rejected ones
    -odds_coef sigma(-m) / (1 - exp(p_r)) / (l_r P). p is held at MEAN_LIMIT inside the odds, which have no end.
    """

    odds_coef: float = 0.1
    needs_reference, of_scores, paired = False, False, True

    def __call__(self, seen: Compared) -> tuple[Tensor, Tensor]:
        """See the class."""
        chosen, rejected = seen.means
        margin = log_odds(chosen) - log_odds(rejected)
        return -chosen - self.odds_coef * logsigmoid(margin), margin


@PAIRWISE.add("kto")
@dataclass(frozen=True, kw_only=True)
class Kto:
    """desirable (1 - sigma(m)), m = beta (r - z), on chosen rows; undesirable (1 - sigma(m)), m = beta (z - r), on
    rejected ones; arXiv 2402.01306. Rows need no partner.

    z = max(drift, 0) is the policy's distance from the reference on mismatched rows and carries no gradient
    (`mismatched_drift`). Weight desirable beta sigma(m) sigma(-m) / rows, and -undesirable beta sigma(m) sigma(-m) /
    rows.
    """

    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0
    needs_reference, of_scores, paired = True, False, False

    def __post_init__(self) -> None:
        _above_zero("beta", self.beta)

    def __call__(self, seen: Compared) -> tuple[Tensor, Tensor]:
        """See the class."""
        chosen, rejected = seen.rewards
        distance = max(seen.drift, 0.0)
        margins = self.beta * (chosen - distance), self.beta * (distance - rejected)
        losses = self.desirable * (-margins[0]).sigmoid(), self.undesirable * (-margins[1]).sigmoid()
        return torch.cat(losses), torch.cat(margins)


@PAIRWISE.add("imitate")
@dataclass(frozen=True, kw_only=True)
class Imitate:
    """-S_c / l_c: the preferred answer is imitated, the rejected one only says that there was a choice.

    Over a prompt's best rollout this is rejection sampling fine-tuning. Weight 1 / (l_c P) on chosen tokens.
    """

    needs_reference, of_scores, paired = False, False, True

    def __call__(self, seen: Compared) -> tuple[Tensor, Tensor]:
        """See the class."""
        chosen, rejected = seen.means
        return -chosen, chosen - rejected


@PAIRWISE.add("bradley_terry")
@dataclass(frozen=True, kw_only=True)
class BradleyTerry:
    """-log sigma(s_c - s_r - margin) + center (s_c + s_r)^2, s the score of a row; the loss of a reward model.

    The margin is the pair's own where it has one, plus the constant here. Weight sigma(margin - s_c + s_r) / P on the
    chosen row's score and minus that on the other's; `center` pulls both towards 0, which the first term leaves open.
    """

    margin: float = 0.0
    center: float = 0.0
    needs_reference, of_scores, paired = False, True, True

    def __call__(self, seen: Compared) -> tuple[Tensor, Tensor]:
        """See the class."""
        chosen, rejected = seen.policy[seen.chosen], seen.policy[seen.rejected]
        loss = -logsigmoid(chosen - rejected - seen.margin - self.margin)
        return loss + self.center * (chosen + rejected).square(), chosen - rejected


def mismatched_drift(policy: Tensor, reference: Tensor) -> float:
    """KTO's drift: the mean log-ratio of rows whose response belongs to another prompt; 0 without any."""
    ratio = (policy - reference).double()
    ratio = ratio[torch.isfinite(ratio)]
    return float(ratio.mean()) if len(ratio) else 0.0


def log_odds(mean: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = exp(mean).

    >>> round(log_odds(torch.tensor(0.8, dtype=torch.float64).log()).exp().item(), 6)
    4.0
    """
    held = mean.clamp(max=MEAN_LIMIT)
    return held - (-held.expm1()).log()


def _above_zero(name: str, value: float) -> None:
    if value <= 0:
        raise UserError(f"{value} leaves nothing to compare", where=name, mend="above 0, such as 0.1")
