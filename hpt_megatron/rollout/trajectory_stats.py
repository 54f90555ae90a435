"""What a trajectory file says of time and of ends: latency by event, trajectories by what ended them.

    event                 one entry for each
    generation            turn that the policy sampled
    search, bbox, ...     tool that was called, by its action
    frozen_generator      answer of another model
    trajectory            whole trajectory

Percentiles are by nearest rank, so each is a time that occurred.

Example:
    >>> latency([0.1, 0.2, 0.3, 4.0])["p95"]
    4.0
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpt_megatron.errors import UserError

COLUMNS = ("count", "mean", "p50", "p95", "p99", "max")


@dataclass
class Stats:
    """Seconds by event, ends, and lines that are no trajectory (the last one of a file that still grows)."""

    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    finishes: Counter[str] = field(default_factory=Counter)
    unread: int = 0

    def table(self) -> dict[str, dict[str, float]]:
        """Latency by event."""
        return {event: latency(times) for event, times in sorted(self.seconds.items())}


def latency(times: Sequence[float]) -> dict[str, float]:
    """The numbers of `COLUMNS`; at least one time."""
    ordered = sorted(times)

    def percentile(share: float) -> float:
        return ordered[max(math.ceil(share * len(ordered)), 1) - 1]

    told = (len(ordered), sum(ordered) / len(ordered), percentile(0.5), percentile(0.95), percentile(0.99), ordered[-1])
    return dict(zip(COLUMNS, map(float, told), strict=True))


def stats_of(lines: Iterable[str], stats: Stats | None = None) -> Stats:
    """Of all trajectories in some lines, added to what is given."""
    stats = stats or Stats()
    for line in lines:
        try:
            _add(stats, json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            stats.unread += 1
    return stats


def _add(stats: Stats, told: Mapping[str, Any]) -> None:
    times = [("trajectory", float(told["seconds"]["total_s"]))]
    for turn in told["turns"]:
        times.append(("generation", float(turn["generate_s"])))
        if turn["outcome"]:
            times.append((str(turn["action"]), float(turn["tool_s"])))
    if "generator_s" in told["seconds"]:
        times.append(("frozen_generator", float(told["seconds"]["generator_s"])))
    stats.finishes[str(told["finish"])] += 1
    for event, seconds in times:
        stats.seconds[event].append(seconds)


def stats_of_files(paths: Sequence[Path]) -> Stats:
    """Of several files together; one without a single trajectory is refused."""
    stats = Stats()
    for path in paths:
        before = stats.finishes.total()
        try:
            own = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot be read: {error}", where=str(path)) from error
        if stats_of(own, stats).finishes.total() == before:
            raise UserError("holds no trajectory", where=str(path), mend="give a file of trajectories, a line each")
    return stats
