"""Metrics as (sum, count) over the tokens that have a weight, so that any split of the batch adds up to the same."""

import torch
from torch import Tensor

from hpt_megatron.algorithms.objective.part import View


def tally(view: View, of_token: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count of a number, or of a yes (1) and no (0), per token."""
    used = view.weight != 0
    number = of_token.detach().to(view.logp.dtype)
    return torch.where(used, number, 0.0).sum(), used.to(number.dtype).sum()
