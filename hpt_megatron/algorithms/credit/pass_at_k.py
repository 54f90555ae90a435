"""Pass@k as credit: what a row adds to the best of k (arXiv 2508.10751, the analytic form).

Draw k of the n counted rows of a group, all draws equally likely, and reward the draw with its best score M:

    A(row) = (E[M | row drawn] - E[M]) / (sd[M] + STD_FLOOR)

which for two values (success, failure) is the paper's equations 11 to 15: with p = 1 - C(n_fail, k) / C(n, k) and
sd = sqrt(p (1 - p)), successes get (1 - p) / sd and failures (1 - p - C(n_fail - 1, k - 1) / C(n - 1, k - 1)) / sd.
With k = 1 it is grpo with the biased standard deviation. Here scores may have more than two values, so no threshold
has to say what a success is.

How: sort a group; the row with b counted rows below it is the best of a draw in C(b, k - 1) of C(n, k) cases.

Invariants
    1. Only the order and the relative distances of a group's scores matter: they are scaled to [-1, 0] first, unless
       they lie within STD_FLOOR of one another.
    2. The credit of the counted rows of a group sums to 0. Where every draw has the same best, all get 0.
    3. `pass_k` above n means n: the one draw has one best, so the credit is 0.
    4. A group with fewer than two counted rows: each row gets its score. A demonstration that is not counted gets
       what it would add to a draw of k - 1 counted rows.

Example:
    >>> lists = {"trained": [[True]] * 4, "off": [[False]] * 4, "reward": [[1.0], [0.0], [0.0], [0.0]]}
    >>> rows = Rows.from_lists(lists, prompt=[0] * 4, off=[False] * 4, valid=[True] * 4)
    >>> [round(a, 3) for a in pass_at_k(rows, CreditSettings(pass_k=2)).advantage.tolist()]
    [1.0, -0.333, -0.333, -0.333]
"""

import torch
from torch import Tensor

from hpt_megatron.algorithms.credit.counted import counted_rows, credit_of_rows, scores
from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, STD_FLOOR, Credit, CreditSettings
from hpt_megatron.algorithms.credit.whiten import divisor
from hpt_megatron.protocol.rows import Rows


@ESTIMATORS.add("pass_at_k")
def pass_at_k(rows: Rows, settings: CreditSettings) -> Credit:
    """Reads `pass_k` and `include_demo`."""
    score, counted = scores(rows), counted_rows(rows, settings.include_demo)
    _, group = torch.unique(rows.fields["prompt"], return_inverse=True)
    order = score.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    added, count = _added_to_best(score[order], counted[order].double(), group[order], settings.pass_k)
    credit = torch.empty_like(score)
    credit[order] = torch.where(count < 2, score[order], added)
    return credit_of_rows(rows, credit)


def _added_to_best(score: Tensor, counted: Tensor, group: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """For rows sorted by group, then score: their credit, and the counted rows of their group."""
    place, first = torch.arange(len(group)), torch.searchsorted(group, group)
    end = torch.searchsorted(group, group, right=True)
    count, below = _between(counted, first, end), _between(counted, first, place)
    best, worst = _extremes(score, counted, group)
    span = best - worst
    level = (score - best) / torch.where(span > STD_FLOOR, span, 1.0)
    n = count.clamp(min=1)
    drawn = n.clamp(max=max(k, 1))
    is_best = counted * _ratio(below, drawn - 1, n, drawn)
    mean = _between(is_best * level, first, end)
    sd = _between(is_best * (level - mean) ** 2, first, end).sqrt()
    # The same, given that the row itself is drawn: it is the best, or one above it is.
    given = [counted * level * _ratio(below - own, drawn - 2, n - own, drawn - 1) for own in (0, 1)]
    above = [_between(of_row, place + 1, end) for of_row in given]
    itself = level * _ratio(below, drawn - 1, n - counted, drawn - 1)
    expected = itself + torch.where(counted > 0, above[1], above[0])
    return (expected - mean) / divisor(sd, STD_FLOOR), count


def _between(of_row: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Sums over start <= row < stop; never below 0 for numbers that are not, which a root may rely on."""
    running = torch.cat([of_row.new_zeros(1), of_row.cumsum(0)])
    return running[stop] - running[start]


def _extremes(score: Tensor, counted: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """The best and the worst counted score of each row's group; 0 without any."""
    groups = int(group[-1]) + 1 if len(group) else 0
    best = score.new_full((groups,), -torch.inf)
    best = best.scatter_reduce(0, group, torch.where(counted > 0, score, -torch.inf), "amax")
    worst = score.new_full((groups,), torch.inf)
    worst = worst.scatter_reduce(0, group, torch.where(counted > 0, score, torch.inf), "amin")
    some = best > -torch.inf
    return torch.where(some, best, 0.0)[group], torch.where(some, worst, 0.0)[group]


def _ratio(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """C(a, b) / C(c, d), with C(a, b) = 0 outside 0 <= b <= a; by logarithms, for C(64, 32) has 19 digits."""
    some = (b >= 0) & (b <= a)
    return torch.where(some, (_log_choose(a.clamp(min=0), b.clamp(min=0)) - _log_choose(c, d)).exp(), 0.0)


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    return (n + 1).lgamma() - (k + 1).lgamma() - ((n - k).clamp(min=0) + 1).lgamma()
