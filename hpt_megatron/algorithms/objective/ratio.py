"""Ratios of probabilities that stay finite, of tokens and of whole rows.

The trained policy can be a factor of e^1000 away from what sampled a token. An exponent is therefore held at
LOG_LIMIT: above it the ratio is constant and its gradient is off, which is one more part of the stabilisation mask.
Below there is nothing to hold: a ratio that underflows is 0, with gradient 0.

At row level a token stands for its row: it has the value of the row's mean log, and the gradient of its own log,

    at_row_level(x)_t = sg(mean over the row of x) + x_t - sg(x_t)                         sg: no gradient

so d loss_t / d x_t is what the sequence-level loss gives, and no gradient crosses tokens. That is the token form of the
GSPO paper. Where weight and credit are the same over the row (a sequence-level credit, weights of one row alike) it is
exactly the gradient of the sequence-level loss; where they differ, each token keeps its own.

Example:
    >>> import torch
    >>> exp_limited(torch.tensor([0.0, 1000.0, -1000.0])).tolist()
    [1.0, 485165184.0, 0.0]
"""

from torch import Tensor

from hpt_megatron.algorithms.objective.part import View

LOG_LIMIT = 20.0


def exp_limited(log: Tensor) -> Tensor:
    """exp(min(log, LOG_LIMIT))."""
    return log.clamp(max=LOG_LIMIT).exp()


def old_logp(view: View) -> Tensor:
    """Under the policy that a ratio compares with: a stored column, or, in rows without one, the present policy.

    So rows that are trained once, by the policy that sampled them, need no forward pass before the update.
    """
    return view.stored.get("old_logp", view.logp.detach())


def at_row_level(view: View, log: Tensor) -> Tensor:
    """The row's mean at every token, with the gradient of the token's own; see the module."""
    own = log.detach()
    return view.mean_by_row(own) + (log - own)  # exactly the mean: the bracket is exactly 0
