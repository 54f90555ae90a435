"""Every estimator a second time, as plain Python loops over plain rows: what the tests compare with.

Written from the formulas and from nothing of the package; slow, in double precision, one row after the other.
"""

from collections.abc import Callable
from itertools import combinations
from statistics import fmean, pstdev, stdev

from credit_rows import Row

from hpt_megatron.algorithms.credit.estimator import CreditSettings

FLOOR = 1e-6
WHITEN = 1e-8
Tokens = list[list[float]]


def divided(distance: float, std: float, floor: float) -> float:
    return distance / ((std if std > floor else 1.0) + floor)


def group_of(row: Row, batch: list[Row], include_demo: bool) -> list[Row]:
    return [other for other in batch if other.prompt == row.prompt and other.counted(include_demo)]


def spread(batch: list[Row], of_row: Callable[[Row], float]) -> Tokens:
    """One number on every trained token of a valid row."""
    return [[of_row(row) if row.valid and here else 0.0 for here in row.trained] for row in batch]


def against_group(batch, include_demo, of_group: Callable[[Row, list[Row]], float]) -> Tokens:
    """A row with nothing to compare with gets its score."""

    def of_row(row: Row) -> float:
        others = group_of(row, batch, include_demo)
        return of_group(row, others) if len(others) > 1 else row.score

    return spread(batch, of_row)


def mean_of(rows: list[Row]) -> float:
    return fmean(row.score for row in rows)


def grpo(batch: list[Row], settings: CreditSettings, include_demo: bool | None = None, use_std: bool | None = None):
    use_std = settings.use_std if use_std is None else use_std

    def of_row(row: Row) -> float:
        others = group_of(row, batch, settings.include_demo if include_demo is None else include_demo)
        alone = len(others) < 2
        distance = row.score - (0.0 if alone else mean_of(others))
        std = 1.0 if alone else stdev(other.score for other in others)
        return divided(distance, std, FLOOR) if use_std else distance

    return spread(batch, of_row)


def grpo_split(batch, settings):
    return grpo(batch, settings, include_demo=False)


def dr_grpo(batch, settings):
    return grpo(batch, settings, use_std=False)


def grpo_balance(batch, settings):
    return spread(batch, lambda row: 1.0 if row.score > 0 else -1.0)


def rloo(batch, settings):
    return against_group(
        batch,
        settings.include_demo,
        lambda row, others: row.score - mean_of([other for other in others if other is not row]),
    )


def opo(batch, settings):
    def of_group(row, others):
        tokens = [sum(other.trained) for other in others]
        earned = sum(length * other.score for length, other in zip(tokens, others, strict=True))
        return row.score - earned / sum(tokens)

    return against_group(batch, settings.include_demo, of_group)


def gpg(batch, settings):
    groups = {row.prompt: group_of(row, batch, settings.include_demo) for row in batch}
    compared = [rows for rows in groups.values() if len(rows) > 1]
    equal = [rows for rows in compared if stdev(row.score for row in rows) <= FLOOR]
    useful = len(compared) - len(equal)
    alpha = len(compared) / useful if useful else 1.0
    return against_group(batch, settings.include_demo, lambda row, others: alpha * (row.score - mean_of(others)))


def pass_at_k(batch, settings):
    """By writing out all draws."""

    def of_group(row, others):
        span = max(other.score for other in others) - min(other.score for other in others)
        scale = span if span > FLOOR else 1.0
        k = min(settings.pass_k, len(others))
        best = [max(other.score for other in draw) / scale for draw in combinations(others, k)]
        rest = [other for other in others if other is not row]
        with_row = [max([row.score, *(o.score for o in draw)]) / scale for draw in combinations(rest, k - 1)]
        return divided(fmean(with_row) - fmean(best), pstdev(best), FLOOR)

    return against_group(batch, settings.include_demo, of_group)


def remax(batch, settings):
    def of_row(row):
        greedy = [other for other in batch if other.prompt == row.prompt and other.greedy]
        judged = [other for other in greedy if other.valid]
        if row.greedy or (greedy and not judged):
            return 0.0
        return row.score - (mean_of(judged) if judged else 0.0)

    return spread(batch, of_row)


def gae(batch, settings):
    """One row at a time, from its last token to its first; observations are stepped over."""
    answer = []
    for row in batch:
        credit, carried, following = [0.0] * len(row.trained), 0.0, 0.0
        for t in reversed(range(len(row.trained))):
            if not row.trained[t] or not row.valid:
                continue
            delta = row.reward[t] + settings.gamma * following - row.value[t]
            carried = delta + settings.gamma * settings.lam * carried
            following = row.value[t]
            credit[t] = carried
        answer.append(credit)
    return answer


def reinforce(batch, settings):
    """Every token's return summed up on its own."""
    answer = []
    for row in batch:
        steps = [t for t, here in enumerate(row.trained) if here and row.valid]
        credit = [0.0] * len(row.trained)
        for i, t in enumerate(steps):
            credit[t] = sum(settings.gamma**j * row.reward[later] for j, later in enumerate(steps[i:]))
        answer.append(credit)
    return answer


def whitened(batch: list[Row], tokens: Tokens, include_demo: bool) -> Tokens:
    counted = [
        number
        for row, numbers in zip(batch, tokens, strict=True)
        for number, here in zip(numbers, row.trained, strict=True)
        if here and row.counted(include_demo)
    ]
    mean = fmean(counted) if counted else 0.0
    std = stdev(counted) if len(counted) > 1 else 0.0
    return [
        [
            divided(number - mean, std, WHITEN) if here and row.valid else 0.0
            for number, here in zip(numbers, row.trained, strict=True)
        ]
        for row, numbers in zip(batch, tokens, strict=True)
    ]


def reinforce_plus_plus(batch, settings):
    return whitened(batch, reinforce(batch, settings), settings.include_demo)


def reinforce_plus_plus_baseline(batch, settings):
    distance = against_group(batch, settings.include_demo, lambda row, others: row.score - mean_of(others))
    return whitened(batch, distance, settings.include_demo)


PLAIN: dict[str, Callable[[list[Row], CreditSettings], Tokens]] = {
    function.__name__: function
    for function in (
        grpo,
        grpo_split,
        grpo_balance,
        dr_grpo,
        rloo,
        opo,
        gpg,
        pass_at_k,
        remax,
        gae,
        reinforce,
        reinforce_plus_plus,
        reinforce_plus_plus_baseline,
    )
}
