"""`prefix_reward_weight_alpha` and `_beta`: how much the advantage of a demonstration's tokens weighs, and of others.

    A <- alpha A  on tokens that are `off`,  beta A  elsewhere

It comes last, after the estimator and after whitening, which would take it out again. Returns stay.

Example:
    >>> lists = {"trained": [[True, True]], "off": [[True, False]], "reward": [[0.0, 1.0]]}
    >>> rows = Rows.from_lists(lists, prompt=[0], off=[False], valid=[True])
    >>> weigh_prefix(rows, Credit(torch.ones(2), torch.ones(2)), alpha=0.5, beta=2.0).advantage.tolist()
    [0.5, 2.0]
"""

import torch

from hpt_megatron.algorithms.credit.estimator import Credit
from hpt_megatron.protocol.rows import Rows


def weigh_prefix(rows: Rows, credit: Credit, alpha: float = 1.0, beta: float = 1.0) -> Credit:
    """The credit with its advantage weighed token by token."""
    if alpha == beta == 1.0:
        return credit
    off = rows.tokens["off"]
    return Credit(torch.where(off, alpha * credit.advantage, beta * credit.advantage), credit.returns)
