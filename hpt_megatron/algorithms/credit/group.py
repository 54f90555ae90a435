"""The score of a row against its group: the rows of one prompt.

With s the score of a row, n the counted rows of its group (`hpt_megatron.algorithms.credit.counted`), mean and std
over these (std unbiased, n - 1):

    grpo          s - mean, with `grpo_use_std` over (std + STD_FLOOR)
    grpo_split    the same, statistics from rollouts alone whatever `adv_include_demo` says
    dr_grpo       s - mean, never divided
    rloo          s - mean of the other counted rows
    opo           s - sum(l s) / sum(l), l the trained tokens of a row: least variance (arXiv 2505.23585)
    gpg           alpha (s - mean), alpha = B / (B - M) over the batch (arXiv 2504.02546)
    grpo_balance  1 if s > 0, else -1; no group

Every trained token of a row gets the same number. A demonstration that is not counted is measured against the same
statistics.

Invariants
    1. A group with fewer than two counted rows has mean 0 and std 1: each of its rows gets its score. So a
       demonstration that stands alone, and every row of a group without a rollout, keeps its reward.
    2. Equal scores give 0. A std at or below STD_FLOOR counts as 0 and becomes 1 (`whiten.divisor`), in grpo and
       grpo_split alike: a demonstration beside equal rollouts gets its plain distance from them.
    3. Statistics are float64.

Example:
    >>> from hpt_megatron.algorithms.credit.estimator import ESTIMATORS
    >>> lists = {"trained": [[True]] * 4, "off": [[False]] * 4, "reward": [[1.0], [0.0], [0.0], [0.0]]}
    >>> rows = Rows.from_lists(lists, prompt=[0] * 4, off=[False] * 4, valid=[True] * 4)
    >>> ESTIMATORS.get("rloo")(rows, CreditSettings()).advantage.tolist()
    [1.0, -0.3333333432674408, -0.3333333432674408, -0.3333333432674408]
"""

from dataclasses import replace

import torch
from torch import Tensor

from hpt_megatron.algorithms.credit.counted import counted_rows, credit_of_rows, scores, trained_lengths
from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, STD_FLOOR, Credit, CreditSettings, group_sums
from hpt_megatron.algorithms.credit.whiten import divisor
from hpt_megatron.protocol.rows import Rows


def against_mean(rows: Rows, counted: Tensor) -> tuple[Tensor, Tensor]:
    """[R] the score minus its group's mean, and how many rows that mean was taken over."""
    score = scores(rows)
    total, count = group_sums(rows, score, counted)
    return torch.where(count < 2, score, score - total / count.clamp(min=1)), count


@ESTIMATORS.add("grpo")
def grpo(rows: Rows, settings: CreditSettings) -> Credit:
    """Reads `use_std` and `include_demo`."""
    counted = counted_rows(rows, settings.include_demo)
    distance, count = against_mean(rows, counted)
    if settings.use_std:
        square, _ = group_sums(rows, distance**2, counted)
        std = torch.where(count < 2, 1.0, (square / (count - 1).clamp(min=1)).sqrt())
        distance = distance / divisor(std, STD_FLOOR)
    return credit_of_rows(rows, distance)


@ESTIMATORS.add("grpo_split")
def grpo_split(rows: Rows, settings: CreditSettings) -> Credit:
    """Reads `use_std`."""
    return grpo(rows, replace(settings, include_demo=False))


@ESTIMATORS.add("grpo_balance")
def grpo_balance(rows: Rows, settings: CreditSettings) -> Credit:
    """Reads nothing."""
    return credit_of_rows(rows, torch.where(scores(rows) > 0, 1.0, -1.0))


@ESTIMATORS.add("dr_grpo")
def dr_grpo(rows: Rows, settings: CreditSettings) -> Credit:
    """Reads `include_demo`."""
    return grpo(rows, replace(settings, use_std=False))


@ESTIMATORS.add("rloo")
def rloo(rows: Rows, settings: CreditSettings) -> Credit:
    """Reads `include_demo`. A row that is not counted has all counted ones for others."""
    score, counted = scores(rows), counted_rows(rows, settings.include_demo)
    total, count = group_sums(rows, score, counted)
    others = (total - torch.where(counted, score, 0.0)) / (count - counted.double()).clamp(min=1)
    return credit_of_rows(rows, torch.where(count < 2, score, score - others))


@ESTIMATORS.add("opo")
def opo(rows: Rows, settings: CreditSettings) -> Credit:
    """Reads `include_demo`."""
    score, length = scores(rows), trained_lengths(rows)
    counted = (length > 0) & (settings.include_demo | ~rows.fields["off"])
    earned, count = group_sums(rows, length * score, counted)
    tokens, _ = group_sums(rows, length, counted)
    return credit_of_rows(rows, torch.where(count < 2, score, score - earned / tokens.clamp(min=1)))


@ESTIMATORS.add("gpg")
def gpg(rows: Rows, settings: CreditSettings) -> Credit:
    """Reads `include_demo`.

    alpha = B / (B - M): B groups of at least two counted rows, M of them with equal scores, which give no gradient;
    1 where all are equal. The authors' F_norm is 1 here. Rows with nothing to compare with keep their score, unscaled.
    The paper's resampling below a share of useful groups belongs to the sampler, not here. Unlike the other
    estimators of this file, alpha looks at the whole batch.
    """
    counted = counted_rows(rows, settings.include_demo)
    distance, count = against_mean(rows, counted)
    square, _ = group_sums(rows, distance**2, counted)
    compared = counted & (count > 1)
    useful = compared & ((square / (count - 1).clamp(min=1)).sqrt() > STD_FLOOR)
    groups = (compared / count.clamp(min=1)).sum()
    learning = (useful / count.clamp(min=1)).sum()
    alpha = torch.where(learning > 0, groups / learning.clamp(min=0.5), 1.0)
    return credit_of_rows(rows, torch.where(count < 2, distance, alpha * distance))
