"""Rows of tokens, packed one after the other without padding.

    lengths   [R]        tokens of each row
    tokens    name -> [T]   one entry per token, T = lengths.sum()
    fields    name -> [R]   one entry per row

Invariants
    1. Every column of `tokens` has T entries, every one of `fields` R, and those that say yes or no are bool; what
       breaks this is named on construction.
    2. Nothing is changed in place: every operation answers new rows that may share memory with the old ones.
    3. The order of rows means nothing to who reads them; it is kept by every operation but `select`.
    4. An operation that cannot be done names the row and the column that stand in its way.

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
        if bool((self.lengths < 0).any()):
            row = int((self.lengths < 0).nonzero()[0, 0])
            raise ValueError(f"{self.name(row)} has {int(self.lengths[row])} tokens")
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

    def name(self, row: int) -> str:
        """What a message calls a row."""
        known = [field for field in ("prompt", "sample") if len(self.fields.get(field, ())) > row]
        told = [f"{field} {int(self.fields[field][row])}" for field in known]
        return f"row {row} ({', '.join(told)})" if told else f"row {row}"

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
        total = sum(part.num_rows for part in parts)
        if missing := [row for row in order if not 0 <= row < total]:
            raise ValueError(f"row {missing[0]} is asked for, there are {total}")

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

    def only(self, tokens: Sequence[str] = (), fields: Sequence[str] = ()) -> "Rows":
        """The same rows with these columns alone."""
        kept = [_named(tokens, self.tokens, "token column"), _named(fields, self.fields, "field")]
        return Rows(self.lengths, *kept)

    def pop(self, tokens: Sequence[str] = (), fields: Sequence[str] = ()) -> tuple["Rows", "Rows"]:
        """Rows with these columns alone, and those without them."""
        left = (
            [name for name in self.tokens if name not in tokens],
            [name for name in self.fields if name not in fields],
        )
        return self.only(tokens, fields), self.only(*left)

    def rename(self, tokens: Mapping[str, str] | None = None, fields: Mapping[str, str] | None = None) -> "Rows":
        """The same columns in the same order, some of them under new names."""
        kinds = ((self.tokens, tokens or {}, "token column"), (self.fields, fields or {}, "field"))
        return Rows(self.lengths, *(_renamed(*each) for each in kinds))

    def union(self, other: "Rows") -> "Rows":
        """The columns of both, which must be the same rows; a column that both have must say the same in both."""
        if self.num_rows != other.num_rows:
            raise ValueError(f"{self.num_rows} rows here, {other.num_rows} there")
        if bool((self.lengths != other.lengths).any()):
            row = int((self.lengths != other.lengths).nonzero()[0, 0])
            raise ValueError(f"{self.name(row)} has {self.lengths[row]} tokens here, {other.lengths[row]} there")
        for name, column in other.tokens.items():
            if name in self.tokens and (at := first_difference(self.tokens[name], column)) is not None:
                row = int(self.row_of_token[at])
                where = f"token column {name!r}, {self.name(row)}, token {at - int(self.starts[row])}"
                raise ValueError(f"{where}: {self.tokens[name][at].item()} here, {column[at].item()} there")
        for name, column in other.fields.items():
            if name in self.fields and (at := first_difference(self.fields[name], column)) is not None:
                where = f"field {name!r}, {self.name(at)}"
                raise ValueError(f"{where}: {self.fields[name][at].item()} here, {column[at].item()} there")
        return Rows(self.lengths, {**self.tokens, **other.tokens}, {**self.fields, **other.fields})

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
        first, like = next(iter(tokens.items()))
        lengths = torch.tensor([len(row) for row in like], dtype=torch.int64)
        for name, rows in tokens.items():
            for number, (row, its) in enumerate(zip(rows, like, strict=False)):
                if len(row) != len(its):
                    raise ValueError(f"row {number} has {len(row)} entries of {name!r} and {len(its)} of {first!r}")

        def column(name: str, entries: Sequence[float]) -> Tensor:
            return torch.tensor(entries, dtype=torch.bool if name in MASKS else None)

        packed = {name: column(name, [item for row in rows for item in row]) for name, rows in tokens.items()}
        return Rows(lengths, packed, {name: column(name, entries) for name, entries in fields.items()})


def _unpickled(lengths: Any, tokens: Any, fields: Any) -> Rows:
    return Rows(tensors(lengths)["lengths"], tensors(tokens), tensors(fields))


def first_difference(one: Tensor, other: Tensor) -> int | None:
    """Where two columns of one length first differ; what is no number equals itself. Types must be the same."""
    if one.dtype != other.dtype:
        raise ValueError(f"{one.dtype} here, {other.dtype} there")
    same = (one == other) | ((one != one) & (other != other))
    return None if bool(same.all()) else int((~same).nonzero()[0, 0])


def _named(names: Sequence[str], columns: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    if unknown := [name for name in names if name not in columns]:
        raise ValueError(f"there is no {kind} {unknown[0]!r} among {sorted(columns)}")
    return {name: columns[name] for name in names}


def _renamed(columns: Mapping[str, Tensor], names: Mapping[str, str], kind: str) -> dict[str, Tensor]:
    _named(list(names), columns, kind)
    made = [names.get(name, name) for name in columns]
    if twice := sorted({name for name in made if made.count(name) > 1}):
        raise ValueError(f"two columns would be the {kind} {twice[0]!r}")
    return dict(zip(made, columns.values(), strict=True))


def _same_columns(parts: Sequence[Rows]) -> None:
    first = parts[0]
    for part in parts[1:]:
        odd = (part.tokens.keys() ^ first.tokens.keys()) | (part.fields.keys() ^ first.fields.keys())
        if odd:
            raise ValueError(f"rows to join differ in the columns {sorted(odd)}")
