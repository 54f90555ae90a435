"""One number out of several of the same name: of replicas that shared a step, or of the rounds that a step took.

                        replicas      rounds
    mean                by rows       by rows       rewards, shares, lengths: everything that is not named below
    count               sum           sum           what happened in this step: errors, flags, ends of trajectories
    since the start     sum           the last      counters that are never reset
    extreme             max           max           longest, slowest
    waited              max           sum           seconds of a stage: replicas wait side by side, rounds one by one

Example:
    >>> of_three, of_one = {"reward/mean": 1.0, "reward/errors": 1.0}, {"reward/mean": 0.0, "reward/errors": 2.0}
    >>> over_replicas([(3, of_three), (1, of_one)])
    {'reward/mean': 0.75, 'reward/errors': 3.0}
"""

from collections.abc import Callable, Mapping, Sequence

WAITED = ("timing_s/",)
SINCE_START = ("judge/", "reward/threads_left_behind", "reward/workers_replaced")
EXTREME = ("agent/turns_max", "search/p", "search/max_s", "judge/seconds_")
COUNT = (
    *("agent/finish/", "agent/seconds/", "agent/infra_events", "reward/errors", "reward/invalid", "reward/flag/"),
    *("reward/gate/", "search/queries", "search/cached", "search/failed", "search/untrusted", "search/unreadable"),
    *("search/requests", "search/retries"),
)
Part = tuple[int, Mapping[str, float]]
"""How many rows there were, and the numbers that were told of them."""
Join = Callable[[Sequence[float]], float]


def over_replicas(parts: Sequence[Part]) -> dict[str, float]:
    """Of those that shared a step."""
    return _joined(parts, {EXTREME: max, WAITED: max, SINCE_START: sum, COUNT: sum})


def over_rounds(parts: Sequence[Part]) -> dict[str, float]:
    """Of one round after the other."""
    return _joined(parts, {EXTREME: max, WAITED: sum, SINCE_START: lambda values: values[-1], COUNT: sum})


def _joined(parts: Sequence[Part], rules: Mapping[tuple[str, ...], Join]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for _, told in parts for name in told):
        has = [(rows, told[name]) for rows, told in parts if name in told]
        join = next((join for names, join in rules.items() if name.startswith(names)), None)
        found[name] = join([value for _, value in has]) if join else _by_rows(has)
    return found


def _by_rows(has: Sequence[tuple[int, float]]) -> float:
    rows = sum(rows for rows, _ in has)
    return sum(rows * value for rows, value in has) / rows if rows else has[-1][1]
