"""Credit along the tokens of a row: lambda-returns with a critic, discounted returns without.

Time runs over the learned tokens t of a row, with reward r and value V:

    delta_t = r_t + gamma V_(t+1) - V_t
    A_t     = delta_t + gamma lam A_(t+1)            V and A are 0 after the last
    G_t     = A_t + V_t

    gae                           A, and G for the critic; whitening is an option (`whiten_advantage`)
    reinforce                     G of V = 0, lam = 1: the discounted return
    reinforce_plus_plus           the same, whitened over the learned tokens of the batch (arXiv 2501.03262)
    reinforce_plus_plus_baseline  the score minus its group's mean (`group.against_mean`), whitened the same way

Invariants
    1. Tokens that are not trained (the observations of an agent, padding) take no time: reward and value there are
       not looked at, and the token after an observation follows the one before it.
    2. The result is that of each row alone; only whitening looks at the batch.
    3. Sums run in float64.

Example:
    >>> lists = {"trained": [[True, False, True]], "reward": [[0.0, 9.0, 1.0]], "value": [[0.5, 9.0, 0.25]]}
    >>> rows = Rows.from_lists(lists, prompt=[0], off=[False], valid=[True])
    >>> gae(rows, CreditSettings(lam=1.0)).advantage.tolist()
    [0.5, 0.0, 0.75]
"""

import torch
from torch import Tensor

from hpt_megatron.algorithms.credit.counted import counted_rows, credit_of_rows, learned_tokens, trained_lengths
from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, Credit, CreditSettings
from hpt_megatron.algorithms.credit.group import against_mean
from hpt_megatron.algorithms.credit.whiten import whiten_tokens
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.rows import Rows


@ESTIMATORS.add("gae")
def gae(rows: Rows, settings: CreditSettings) -> Credit:
    """Reads `gamma` and `lam`, and the token column `value`."""
    value = rows.tokens.get("value")
    if value is None:
        raise UserError(
            "gae needs a critic, and the rows carry no values",
            where="algorithm.adv_estimator",
            mend="train a critic, or choose an estimator without one, such as grpo",
        )
    return lambda_returns(rows, value, settings.gamma, settings.lam)


@ESTIMATORS.add("reinforce")
def reinforce(rows: Rows, settings: CreditSettings) -> Credit:
    """Reads `gamma`."""
    return lambda_returns(rows, None, settings.gamma, 1.0)


@ESTIMATORS.add("reinforce_plus_plus")
def reinforce_plus_plus(rows: Rows, settings: CreditSettings) -> Credit:
    """Reads `gamma` and `include_demo`."""
    returns = reinforce(rows, settings).returns
    return Credit(whiten_tokens(rows, returns, settings), returns)


@ESTIMATORS.add("reinforce_plus_plus_baseline")
def reinforce_plus_plus_baseline(rows: Rows, settings: CreditSettings) -> Credit:
    """Reads `include_demo`."""
    distance, _ = against_mean(rows, counted_rows(rows, settings.include_demo))
    advantage = whiten_tokens(rows, credit_of_rows(rows, distance).advantage, settings)
    return Credit(advantage, advantage)


def lambda_returns(rows: Rows, value: Tensor | None, gamma: float, lam: float) -> Credit:
    """A and G of every token; without values the two are the same."""
    learned = learned_tokens(rows)
    reward, critic = rows.tokens["reward"][learned], None if value is None else value[learned]
    advantage = _backwards(reward, critic, trained_lengths(rows).long(), gamma, lam)
    shown = advantage.new_zeros(rows.num_tokens).masked_scatter_(learned, advantage)
    if critic is None:
        return Credit(shown, shown)
    return Credit(shown, torch.zeros_like(shown).masked_scatter_(learned, advantage + critic))


def _backwards(reward: Tensor, value: Tensor | None, lengths: Tensor, gamma: float, lam: float) -> Tensor:
    """A of tokens without gaps: one step per position counted from the end, for all rows at once.

    Rows stand by falling length, so those that still have a token at a step are the first ones.
    """
    end = lengths.cumsum(0) - 1
    lengths, order = lengths.sort(descending=True)
    end = end[order]
    longest = int(lengths[0]) if len(lengths) else 0
    alive = len(lengths) - torch.searchsorted(lengths.flip(0), torch.arange(longest), right=True)
    advantage = torch.empty_like(reward, dtype=torch.promote_types(reward.dtype, torch.float32))
    carried = torch.zeros(len(lengths), dtype=torch.float64)
    following = torch.zeros(len(lengths), dtype=torch.float64)
    for step, rows in enumerate(alive.tolist()):
        at = end[:rows] - step
        carried = reward[at] + gamma * lam * carried[:rows]
        if value is not None:
            here = value[at].double()
            carried += gamma * following[:rows] - here
            following = here
        advantage[at] = carried.to(advantage.dtype)
    return advantage
