"""Rows of tokens, packed one after the other without padding.

    lengths   [R]        tokens of each row
    tokens    name -> [T]   one entry per token, T = lengths.sum()
    fields    name -> [R]   one entry per row

Invariants
    1. Every column of `tokens` has T entries, every one of `fields` R, and those that say yes or no are bool; what
       breaks this is named on construction.
    2. Nothing is changed in place: every operation answers new rows that may share memory with the old ones.
    3. The order of rows means nothing to who reads them; it is kept by every operation but `select`.

Names used throughout: tokens `ids`, `response` (bool: belongs to the response), `trained` (bool: a loss falls on it; in
a rollout of several turns, observations are response and not trained), `off` (bool, the sources' `prefix_mask`: comes
from a demonstration); fields `prompt` (which prompt of the batch, so rows of one group share it), `sample` (which
rollout of the prompt), `off` (bool: the row is a demonstration), `valid` (bool: no failure of ours made it), `score`;
where an estimator needs one, `greedy` (bool: the prompt's rollout at temperature 0, compared with and never trained).

Example:
    >>> rows = Rows(torch.tensor([2, 3]), {"ids": torch.arange(5)}, {"prompt": torch.tensor([7, 8])})
    >>> rows.row_of_token.tolist(), rows.row_sum(torch.ones(5)).tolist()
    ([0, 0, 1, 1, 1], [2.0, 3.0])
    >>> rows.select(torch.tensor([1])).tokens["ids"].tolist()
    [2, 3, 4]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpt_megatron.protocol.arrays import arrays, tensors

MASKS = {"response", "trained", "off", "valid", "greedy"}


@dataclass(frozen=True)
class Rows:
    """Packed rows; see the module for the invariants."""

    lengths: Tensor
    tokens: Mapping[str, Tensor] = field(default_factory=dict)
    fields: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, column in self.tokens.items():
            if len(column) != self.num_tokens:
                raise ValueError(f"token column {name!r} has {len(column)} entries, the rows have {self.num_tokens}")
        for name, column in self.fields.items():
            if len(column) != self.num_rows:
                raise ValueError(f"field {name!r} has {len(column)} entries, there are {self.num_rows} rows")
        for name, column in [*self.tokens.items(), *self.fields.items()]:
            if name in MASKS and column.dtype != torch.bool and len(column):
                raise ValueError(f"{name!r} says yes or no, and its type is {column.dtype} instead of torch.bool")

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (arrays({"lengths": self.lengths}), arrays(self.tokens), arrays(self.fields))

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.lengths)

    @cached_property
    def num_tokens(self) -> int:
        """T."""
        return int(self.lengths.sum())

    @cached_property
    def starts(self) -> Tensor:
        """[R] where each row begins."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def row_of_token(self) -> Tensor:
        """[T] the row that each token belongs to."""
        return self.per_token(torch.arange(self.num_rows))

    @cached_property
    def position(self) -> Tensor:
        """[T] where each token stands in its row."""
        return torch.arange(self.num_tokens) - self.per_token(self.starts)

    def flag(self, name: str) -> Tensor:
        """[R] a field of yes and no; all no where the rows have none of that name."""
        return self.fields.get(name, torch.zeros(self.num_rows, dtype=torch.bool))

    def per_token(self, of_row: Tensor) -> Tensor:
        """[R] to [T]: each token gets what its row has; constants only, no gradient."""
        return torch.from_numpy(np.repeat(of_row.numpy(), self.lengths.numpy()))  # ten times faster than torch's

    def row_sum(self, of_token: Tensor) -> Tensor:
        """[T] floats to [R]: sums over the tokens of each row; differentiable."""
        if not self.num_tokens:
            return of_token.new_zeros(self.num_rows)
        return torch.segment_reduce(of_token, "sum", lengths=self.lengths, initial=0)

    def last(self, mask: Tensor) -> Tensor:
        """[R] index of the last token of each row under a mask over tokens; -1 where a row has none."""
        ends = self.starts + self.lengths - 1
        if bool((self.lengths > 0).all()) and bool(mask[ends].all()):  # the common case, without a look at every token
            return ends
        marked = np.flatnonzero(mask.numpy())
        before = np.searchsorted(marked, (self.starts + self.lengths).numpy())
        found = np.concatenate(([-1], marked))[before]
        return torch.from_numpy(np.where(found >= self.starts.numpy(), found, -1))

    def select(self, index: Tensor) -> "Rows":
        """The rows of an index (or of a mask over rows), in its order."""
        return Rows.pick([self], index.nonzero()[:, 0] if index.dtype == torch.bool else index)

    @staticmethod
    def pick(parts: Sequence["Rows"], index: Tensor) -> "Rows":
        """The rows of an index into all parts, counted through; one copy. All parts must have the same columns."""
        _same_columns(parts)
        order = index.tolist()

        def tokens(name: str) -> Tensor:
            # Whole rows at the speed of a plain copy; an index per token would take ten times as long.
            pieces = [piece for part in parts for piece in torch.split(part.tokens[name], part.lengths.tolist())]
            return torch.cat([pieces[row] for row in order]) if order else parts[0].tokens[name][:0]

        return Rows(
            torch.cat([part.lengths for part in parts])[index],
            {name: tokens(name) for name in parts[0].tokens},
            {name: torch.cat([part.fields[name] for part in parts])[index] for name in parts[0].fields},
        )

    def with_tokens(self, **columns: Tensor) -> "Rows":
        """The same rows with token columns added or replaced."""
        return Rows(self.lengths, {**self.tokens, **columns}, self.fields)

    def with_fields(self, **columns: Tensor) -> "Rows":
        """The same rows with fields added or replaced."""
        return Rows(self.lengths, self.tokens, {**self.fields, **columns})

    @staticmethod
    def concat(parts: Sequence["Rows"]) -> "Rows":
        """One after the other; all must have the same columns."""
        _same_columns(parts)
        return Rows(
            torch.cat([part.lengths for part in parts]),
            {name: torch.cat([part.tokens[name] for part in parts]) for name in parts[0].tokens},
            {name: torch.cat([part.fields[name] for part in parts]) for name in parts[0].fields},
        )

    @staticmethod
    def from_lists(tokens: Mapping[str, Sequence[Sequence[float]]], **fields: Sequence[float]) -> "Rows":
        """From nested lists, for small examples and tests; what says yes or no may be written as 1 and 0."""
        lengths = torch.tensor([len(row) for row in next(iter(tokens.values()))], dtype=torch.int64)

        def column(name: str, entries: Sequence[float]) -> Tensor:
            return torch.tensor(entries, dtype=torch.bool if name in MASKS else None)

        packed = {name: column(name, [item for row in rows for item in row]) for name, rows in tokens.items()}
        return Rows(lengths, packed, {name: column(name, entries) for name, entries in fields.items()})


def _unpickled(lengths: Any, tokens: Any, fields: Any) -> Rows:
    return Rows(tensors(lengths)["lengths"], tensors(tokens), tensors(fields))


def _same_columns(parts: Sequence[Rows]) -> None:
    first = parts[0]
    for part in parts[1:]:
        odd = (part.tokens.keys() ^ first.tokens.keys()) | (part.fields.keys() ^ first.fields.keys())
        if odd:
            raise ValueError(f"rows to join differ in the columns {sorted(odd)}")
