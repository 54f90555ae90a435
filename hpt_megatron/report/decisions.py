"""What was decided, over the steps: shares of the arms, successes, and a map of prompts by steps.

    shares(visits, columns)      how many prompts of each column imitated, explored, ...
    successes(visits, columns)   how many prompts had 0, 1, ... n successes
    gate_map(visits, columns)    for each of some prompts, what was last decided about it at each column

A column is one step, or several neighbouring ones where a run has more steps than `MOST_COLUMNS`.

Invariants
    1. A map of more prompts than fit is a sample of them, the same every time, and says how many it leaves out.
    2. A prompt that no column visits keeps what was decided last; before its first visit there is nothing.

Example:
    >>> seen = [Visit(1, "a", 8, 0, "imitate", 0.0, 8, True), Visit(3, "a", 8, 5, "explore", 1.0, 0, False)]
    >>> columns_of([1, 2, 3]), gate_map(seen, columns_of([1, 2, 3])).rows
    ([(1, 1), (2, 2), (3, 3)], [('a', 'AaB')])
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from zlib import crc32

from hpt_megatron.report.folder import Visit

ARMS = ("imitate", "blend", "off_policy", "explore", "skipped")
MOST_COLUMNS, MOST_ROWS = 150, 96
MOST_CLASSES = 17  # of successes; beyond that, shares of the rollouts in steps of an eighth
NOTHING = "."
"""In a map: never visited so far."""

Columns = Sequence[tuple[int, int]]


def columns_of(steps: Sequence[int], most: int = MOST_COLUMNS) -> Columns:
    """First and last step of each column."""
    size = max(1, ceil(len(steps) / most))
    return [(steps[start], steps[min(start + size, len(steps)) - 1]) for start in range(0, len(steps), size)]


def arms_of(visits: Sequence[Visit]) -> list[str]:
    """Those that occur: known ones in the order of `ARMS`, then others by name."""
    found = {visit.arm for visit in visits}
    return [*(arm for arm in ARMS if arm in found), *sorted(found - {*ARMS})]


def shares(visits: Sequence[Visit], columns: Columns) -> dict[str, list[int]]:
    """Prompts of each column by arm."""
    found = {arm: [0] * len(columns) for arm in arms_of(visits)}
    for visit, place in _placed(visits, columns):
        found[visit.arm][place] += 1
    return found


def successes(visits: Sequence[Visit], columns: Columns) -> dict[str, list[int]]:
    """Prompts of each column by their successes; those that nothing was sampled for are not counted."""
    most = max((visit.n for visit in visits), default=0)
    names = [f"{k} of {most}" for k in range(most + 1)]
    if most >= MOST_CLASSES:
        names = ["none", *(f"up to {12.5 * part:g} %" for part in range(1, 9))]
    found = {name: [0] * len(columns) for name in names} if most else {}
    for visit, place in _placed(visits, columns):
        if visit.n:
            share = min(1.0, visit.k / visit.n)
            found[names[ceil(share * (len(names) - 1) - 1e-9)]][place] += 1
    return found


@dataclass(frozen=True)
class GateMap:
    """A row for each prompt, a letter for each column: the arm's number as `A`, `B`, ... where it was visited, as `a`,
    `b`, ... where it holds since, `.` before."""

    arms: Sequence[str]
    rows: Sequence[tuple[str, str]]
    left_out: int


def gate_map(visits: Sequence[Visit], columns: Columns, most_rows: int = MOST_ROWS) -> GateMap:
    """The prompts that explore soonest come first."""
    own, arms = histories(visits), arms_of(visits)
    several = [uid for uid, seen in own.items() if len(seen) > 1]
    pool = several if len(several) >= most_rows // 2 else list(own)
    chosen = sorted(pool, key=lambda uid: (crc32(uid.encode("utf-8", "replace")), uid))[:most_rows]
    letter = {arm: chr(ord("A") + min(number, 25)) for number, arm in enumerate(arms)}
    chosen.sort(key=lambda uid: (_first_explored(own[uid]), own[uid][0].step, uid))
    rows = []
    for uid in chosen:
        at = {place: letter[visit.arm] for visit, place in _placed(own[uid], columns)}
        held, cells = NOTHING, []
        for place in range(len(columns)):
            held = at.get(place, held.lower())
            cells.append(held)
        rows.append((uid, "".join(cells)))
    return GateMap(arms, rows, len(own) - len(rows))


def histories(visits: Sequence[Visit]) -> Mapping[str, list[Visit]]:
    """The visits of each prompt, in the order of their steps."""
    found: defaultdict[str, list[Visit]] = defaultdict(list)
    for visit in visits:
        found[visit.uid].append(visit)
    return found


def flips(seen: Sequence[Visit]) -> int:
    """How often the decision changed from one visit to the next."""
    return sum(before.arm != after.arm for before, after in pairwise(seen))


def kinds(visits: Sequence[Visit]) -> Counter[str]:
    """Prompts by what became of them.

    `learned`: the last visit with rollouts has more successes than the first; `lost`: fewer; `always`, `never`: all or
    none of all rollouts; `same`: as many; `unseen`: nothing was ever sampled.
    """
    return Counter(kind_of(seen) for seen in histories(visits).values())


def kind_of(seen: Sequence[Visit]) -> str:
    """See `kinds`."""
    rates = [visit.k / visit.n for visit in seen if visit.n]
    if not rates:
        return "unseen"
    if set(rates) in ({0.0}, {1.0}):
        return "always" if rates[0] else "never"
    return "learned" if rates[-1] > rates[0] else "lost" if rates[-1] < rates[0] else "same"


def _first_explored(seen: Sequence[Visit]) -> float:
    return next((visit.step for visit in seen if visit.arm != "imitate"), float("inf"))


def _placed(visits: Sequence[Visit], columns: Columns) -> list[tuple[Visit, int]]:
    """Each visit with the column of its step; a step that no column holds is left out."""
    ends = [last for _, last in columns]
    placed = [(visit, bisect_left(ends, visit.step)) for visit in visits]
    return [(visit, place) for visit, place in placed if place < len(columns) and columns[place][0] <= visit.step]
