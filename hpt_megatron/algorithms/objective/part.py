"""What a loss component sees and what it answers.

The loss of an optimizer step is a plain sum over components c and tokens t:

    loss = sum_c sum_t  weight_ct * l_ct(log-probs, entropy, stored columns, row sums)

All denominators are in the weights, fixed over the whole step before its first micro-batch. So a component never
averages, and the result does not depend on micro-batches, packing, row order or layout.

Invariants
    1. A token of weight 0 adds exactly 0 to loss and gradient, whatever its columns hold (infinities and
       not-a-number included): a view holds 0 in their place, so components never meet them.
    2. A component nobody uses is an exact 0 that is still connected to `logp`, so that it takes part in every
       collective.
    3. What a component needs of the whole row comes from `sum_by_row`, which is differentiable and, under context
       parallelism, sums over the parts of the row on other ranks.

Example:
    >>> import torch
    >>> logp, weight, row_of_token = torch.tensor([-1.0, -2.0]), torch.tensor([0.5, 0.0]), torch.tensor([0, 0])
    >>> view = View.of_rows(logp, weight, row_of_token)
    >>> view.weighted(-view.logp).item()
    0.5
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from hpt_megatron.registry import Registry


@dataclass(frozen=True)
class View:
    """The tokens of one micro-batch as one component sees them; every tensor has one entry per token."""

    logp: Tensor
    weight: Tensor
    entropy: Tensor | None = None
    stored: Mapping[str, Tensor] = field(default_factory=dict)
    sum_by_row: Callable[[Tensor], Tensor] = lambda of_token: of_token

    def __post_init__(self) -> None:
        used = self.weight != 0
        put = object.__setattr__
        put(self, "logp", torch.where(used, self.logp, 0.0))
        put(self, "entropy", None if self.entropy is None else torch.where(used, self.entropy, 0.0))
        put(self, "stored", {name: torch.where(used, column, 0.0) for name, column in self.stored.items()})

    def weighted(self, loss: Tensor) -> Tensor:
        """The sum of weight times loss."""
        return (self.weight * loss).sum() + self.logp[:0].sum()  # an empty sum: connected, and 0 whatever logp is

    def mean_by_row(self, of_token: Tensor) -> Tensor:
        """The mean over the tokens with a weight of each token's row, at every token."""
        used = (self.weight != 0).to(of_token.dtype)
        return self.sum_by_row(of_token * used) / self.sum_by_row(used).clamp(min=1.0)

    @staticmethod
    def of_rows(logp: Tensor, weight: Tensor, row_of_token: Tensor, **columns: Tensor) -> "View":
        """A view of whole rows in one process; `entropy` and stored columns by name."""
        rows = int(row_of_token.max()) + 1 if len(row_of_token) else 0

        def sum_by_row(of_token: Tensor) -> Tensor:
            return of_token.new_zeros(rows).index_add(0, row_of_token, of_token)[row_of_token]

        entropy = columns.pop("entropy", None)
        return View(logp, weight, entropy, columns, sum_by_row)


@dataclass(frozen=True)
class Part:
    """What a component answers: its part of the loss, and metrics as (sum, count), added up and divided once."""

    loss: Tensor
    metrics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Component(Protocol):
    """One loss component: a value built from its settings, called once per micro-batch."""

    name: str  # which weight it reads: rl, off, sft, kl, entropy, value

    @property
    def reads(self) -> tuple[str, ...]:
        """The stored columns that it needs."""
        ...

    def __call__(self, view: View) -> Part:
        """The part of the loss over these tokens."""
        ...


OPTIONAL = ("rollout_logp", "old_logp")
"""Stored columns that a component may use where the rows have them."""
COMPONENTS: Registry[Callable[..., Any]] = Registry("loss component", "hpt_megatron.components")
