"""KL against the reference, taken from the reward token by token.

    reward_t = score of the row on its last trained token + what its turn earned, on the turn's last - beta * KL_t

KL_t falls on trained tokens of the policy's own; a demonstration's tokens were not sampled, so there KL says nothing,
and they are spared unless `on_demonstrations` is set. The estimator is given: any function of (logp, ref_logp) to one
number per token.

Three means of the same KL are measured, as (sum, count), to be added up over devices and divided once:

    kl/sequence   per row, summed over its tokens: what a target of 6 refers to; feed this one to the controller
    kl/mean       per token
    critic/kl     per row, the mean over its tokens: as the released code logs it

Invariants
    1. A row that is not `valid` gets 0 everywhere and moves no mean; so does what stands outside `trained`.
    2. Log-probs outside the counted tokens never reach the estimator, whatever they hold.
    3. A KL that is not finite costs nothing, moves no mean and is counted in `kl/not_finite`.
    4. A row without a trained token has nowhere to put its score; it earns nothing.

Example:
    >>> rows = Rows.from_lists({"trained": [[False, True, True]], "off": [[False] * 3]}, score=[1.0], valid=[True])
    >>> logp, ref_logp = torch.tensor([0.0, -1.0, -1.0]), torch.tensor([0.0, -1.5, -1.0])
    >>> kl_reward(rows, logp, ref_logp, beta=0.1, estimator=torch.sub).reward.tolist()
    [0.0, -0.05000000074505806, 1.0]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hpt_megatron.protocol.rows import Rows

Estimator = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class KlReward:
    """The reward of every token, and what was measured as (sum, count)."""

    reward: Tensor
    metrics: Mapping[str, tuple[Tensor, Tensor]]


def kl_reward(
    rows: Rows, logp: Tensor, ref_logp: Tensor, *, beta: float, estimator: Estimator, on_demonstrations: bool = False
) -> KlReward:
    """The reward column that credit is made from; reads `trained` and `off` of tokens, `score` and `valid` of rows."""
    valid = rows.per_token(rows.fields["valid"])
    trained = rows.tokens["trained"] & valid
    counted = trained if on_demonstrations else trained & ~rows.tokens["off"]
    measured = estimator(torch.where(counted, logp, 0.0), torch.where(counted, ref_logp, 0.0))
    finite = counted & torch.isfinite(measured)
    kl = torch.where(finite, measured, 0.0)
    return KlReward(reward_of_tokens(rows) - beta * kl, _means(rows, kl, finite, counted))


def reward_of_tokens(rows: Rows) -> Tensor:
    """[T] the score of each row, and what single turns earned where rows say so (`turn_reward`)."""
    reward, earned = score_on_last(rows), rows.tokens.get("turn_reward")
    if earned is None:
        return reward
    return reward + torch.where(rows.tokens["trained"] & rows.per_token(rows.fields["valid"]), earned, 0.0)


def score_on_last(rows: Rows) -> Tensor:
    """[T] the score of each valid row on its last trained token, 0 elsewhere."""
    last = rows.last(rows.tokens["trained"])
    placed = rows.fields["valid"] & (last >= 0)
    score = rows.fields["score"].to(torch.float32)
    return torch.zeros(rows.num_tokens).index_put((last[placed],), score[placed])


def _means(rows: Rows, kl: Tensor, finite: Tensor, counted: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    tokens = rows.row_sum(finite.to(kl.dtype))
    of_row = rows.row_sum(kl)
    num_rows = (tokens > 0).sum()
    return {
        "kl/sequence": (of_row.sum(), num_rows),
        "kl/mean": (of_row.sum(), finite.sum()),
        "critic/kl": ((of_row / tokens.clamp(min=1)).sum(), num_rows),
        "kl/not_finite": ((counted & ~finite).sum(), torch.tensor(1)),
    }
