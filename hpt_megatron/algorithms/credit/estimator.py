"""What a credit estimator sees and what it answers.

It sees rows (`hpt_megatron.protocol.rows`) with the token columns `trained` (bool), `off` (bool: a demonstration's
token), `reward` (float: what each token earned; a score for the whole row stands on its last trained token) and, where
there is a critic, `value`; and the fields `prompt` (rows of one group share it), `off` (the row is a demonstration) and
`valid`. It answers one number per token, 0 where `trained` is false.

Invariants
    1. The order of rows and of groups does not matter; neither do other groups, unless the estimator whitens.
    2. A row that is not `valid` gets 0 and moves no statistic.
    3. No input makes a not-a-number: single rows, equal scores, empty groups and huge scores are defined.
    4. Statistics leave demonstrations out unless `adv_include_demo` is set or the estimator says so.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hpt_megatron.protocol.rows import Rows
from hpt_megatron.registry import Registry

STD_FLOOR = 1e-6  # added to a standard deviation before dividing, as in the released code


@dataclass(frozen=True)
class Credit:
    """Per token: the advantage and, where a critic learns from it, the return."""

    advantage: Tensor
    returns: Tensor


@dataclass(frozen=True, kw_only=True)
class CreditSettings:
    """What estimators read; each names in its docstring what it uses."""

    use_std: bool = False
    include_demo: bool = False
    gamma: float = 1.0
    lam: float = 0.95
    pass_k: int = 1


class Estimator(Protocol):
    """A function from rows to credit."""

    def __call__(self, rows: Rows, settings: CreditSettings) -> Credit:
        """The credit of every token."""
        ...


ESTIMATORS: Registry[Estimator] = Registry("credit estimator", "hpt_megatron.credit")


def row_scores(rows: Rows) -> Tensor:
    """[R] what each row earned in all."""
    return rows.row_sum(torch.where(rows.tokens["trained"], rows.tokens["reward"], 0.0))


def spread(rows: Rows, of_row: Tensor) -> Tensor:
    """[T] the number of each row at its trained tokens, 0 elsewhere; rows that are not valid get 0."""
    of_row = torch.where(rows.fields["valid"], of_row, 0.0)
    return torch.where(rows.tokens["trained"], rows.per_token(of_row), 0.0)


def group_sums(rows: Rows, of_row: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count over the counted rows of each row's group, both [R]."""
    _, group = torch.unique(rows.fields["prompt"], return_inverse=True)
    groups = int(group.max()) + 1 if len(group) else 0
    kept = torch.where(counted, of_row, 0.0)
    total = kept.new_zeros(groups).index_add(0, group, kept)[group]
    count = kept.new_zeros(groups).index_add(0, group, counted.to(kept.dtype))[group]
    return total, count
