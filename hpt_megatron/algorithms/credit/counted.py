"""Which rows move a statistic, and which tokens learn.

    counted row      valid, with a trained token, and not a demonstration unless `adv_include_demo` is set
    learned token    trained, of a valid row

A row without a trained token carries no score (the score stands on the last of them), so it is not taken for a 0.
"""

import torch
from torch import Tensor

from hpt_megatron.algorithms.credit.estimator import Credit, row_scores, spread
from hpt_megatron.protocol.rows import Rows


def trained_lengths(rows: Rows) -> Tensor:
    """[R] how many tokens of each row are trained, as float64; 0 for rows that are not valid."""
    lengths = rows.row_sum(rows.tokens["trained"].to(torch.float32)).double()
    return torch.where(rows.fields["valid"], lengths, 0.0)


def counted_rows(rows: Rows, include_demo: bool) -> Tensor:
    """[R] bool: rows that statistics are taken over."""
    on = trained_lengths(rows) > 0
    return on if include_demo else on & ~rows.fields["off"]


def learned_tokens(rows: Rows) -> Tensor:
    """[T] bool: tokens that get credit."""
    valid = rows.fields["valid"]
    return rows.tokens["trained"] if bool(valid.all()) else rows.tokens["trained"] & rows.per_token(valid)


def scores(rows: Rows) -> Tensor:
    """[R] what each row earned, in float64 for the statistics; 0 for rows that are not valid."""
    return torch.where(rows.fields["valid"], row_scores(rows).double(), 0.0)


def credit_of_rows(rows: Rows, of_row: Tensor) -> Credit:
    """One number for all learned tokens of a row, in the precision of the rewards; the return is the same."""
    advantage = spread(rows, of_row.to(torch.promote_types(rows.tokens["reward"].dtype, torch.float32)))
    return Credit(advantage, advantage)
