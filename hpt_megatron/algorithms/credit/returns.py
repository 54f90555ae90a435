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

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from hpt_megatron.algorithms.credit.counted import counted_rows, credit_of_rows, learned_tokens, trained_lengths
from hpt_megatron.algorithms.credit.discount import discounted, picked
from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, Credit, CreditSettings
from hpt_megatron.algorithms.credit.group import against_mean
from hpt_megatron.algorithms.credit.whiten import whiten_tokens
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.rows import Rows

CHUNK = 2**17  # tokens


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
    learned, reward = learned_tokens(rows), rows.tokens["reward"]
    advantage = torch.zeros_like(reward, dtype=torch.promote_types(reward.dtype, torch.float32))
    returns = advantage if value is None else torch.zeros_like(advantage)
    lengths = trained_lengths(rows).long()
    for these in _some_rows_at_a_time(rows.lengths):
        tokens = slice(int(rows.starts[these.start]), int(rows.starts[these.stop - 1] + rows.lengths[these.stop - 1]))
        here = learned[tokens]
        delta = picked(reward[tokens], here).double()
        if value is not None:
            critic = picked(value[tokens], here).double()
            delta += gamma * _following(critic, lengths[these]) - critic
        found = discounted(delta, lengths[these], gamma * lam)
        advantage[tokens].masked_scatter_(here, found.to(advantage.dtype))
        if value is not None:
            returns[tokens].masked_scatter_(here, (found + critic).to(returns.dtype))
    return Credit(advantage, returns)


def _following(value: Tensor, lengths: Tensor) -> Tensor:
    """The value of the next token of the row; 0 behind the last."""
    ends = lengths.cumsum(0)[lengths > 0] - 1
    return torch.cat([value[1:], value.new_zeros(min(len(value), 1))]).index_fill_(0, ends, 0.0)


def _some_rows_at_a_time(lengths: Tensor) -> Iterator[slice]:
    """Slices of rows with about CHUNK tokens each, so that what is made on the way stays in the processor's caches."""
    part = (lengths.cumsum(0) - 1).clamp(min=0) // CHUNK
    ends = [*(part.diff().nonzero()[:, 0] + 1).tolist(), len(lengths)]
    for start, end in pairwise([0, *ends]):
        if end > start:
            yield slice(start, end)
