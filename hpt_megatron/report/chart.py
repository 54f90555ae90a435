"""The pictures of a report: curves, stacked columns, and the map of decisions, as SVG of one size each.

A curve is drawn twice: thin, as it is (a band where a point stands for several steps), and strong, as a running mean.
Every chart also answers the numbers behind it, for whoever points at it.

Invariants
    1. Heights and widths are to scale; the axis starts at 0 where the values come near it.
    2. Colours are classes: a page in a dark scheme has others.
    3. Nothing here knows what a number means.

Example: curves("reward", [Line("a", 0, thin(points))]).svg
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpt_megatron.report.decisions import NOTHING, Columns, GateMap
from hpt_megatron.report.series import Point, running, short, ticks, window_of
from hpt_megatron.web import svg

WIDE, HIGH = 400.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 10.0, 8.0, 24.0
MAP_WIDE, ROW = 800.0, 5.0
COLOURS = 8
FEW = 40  # points that are drawn as dots as well
FEW_COLUMNS = 10
OF_RUNS = (2, 3, 6, 5, 4, 7, 0, 1)
"""Colours of runs, in their order: those of the arms come last, so that the two are not taken for one another."""
KNOWN_ARMS = ("imitate", "explore", "blend", "off_policy", "skipped")


@dataclass(frozen=True)
class Line:
    """One curve; `colour` is a number, `run` the one that it belongs to."""

    label: str
    colour: int
    points: Sequence[Point]
    run: int = 0


@dataclass(frozen=True)
class Chart:
    """A picture, and the numbers in it: where its steps lie, and each curve's steps and values."""

    svg: str
    numbers: list[Any]


@dataclass(frozen=True)
class Frame:
    """From steps and values to places in a picture."""

    steps: tuple[float, float]
    values: tuple[float, float]

    def x(self, step: float) -> float:
        """From left to right."""
        low, high = self.steps
        return LEFT + (WIDE - LEFT - RIGHT) * ((step - low) / (high - low) if high > low else 0.5)

    def y(self, value: float) -> float:
        """From the bottom to the top."""
        low, high = self.values
        return HIGH - BOTTOM - (HIGH - TOP - BOTTOM) * (value - low) / (high - low)

    def axes(self, unit: str = "") -> list[str]:
        """Lines at round values, and the steps below."""
        parts = []
        for value in ticks(*self.values):
            parts.append(svg.line(LEFT, self.y(value), WIDE - RIGHT, self.y(value)))
            parts.append(svg.text(LEFT - 6, self.y(value) + 4, short(value) + unit, "end", "soft"))
        return [*parts, *steps_below([(self.x(step), step) for step in ticks(*self.steps, 7)], HIGH, WIDE)]


def steps_below(places: Sequence[tuple[float, float]], height: float, width: float) -> list[str]:
    """The whole steps of an axis; the last one stands within the picture."""
    whole = [(x, step) for x, step in places if step == int(step)]
    return [svg.text(x, height - 7, f"{step:,.0f}", "end" if x > width - 20 else "middle", "soft") for x, step in whole]


def curves(name: str, lines: Sequence[Line], steps: tuple[float, float] | None = None) -> Chart:
    """Some curves over one another; `steps` widens the axis to what other charts show."""
    every = [point for line in lines for point in line.points]
    ends = steps or (min(point.step for point in every), max(point.step for point in every))
    frame = Frame(ends, spread(min(point.low for point in every), max(point.high for point in every)))
    parts = frame.axes()
    for line in lines:
        parts.append(f'<g class="k{line.colour % COLOURS} run{line.run}">{"".join(_curve(frame, line))}</g>')
    numbers = []
    for line in lines:
        steps_of, values = [brief(p.step) for p in line.points], [brief(p.mean) for p in line.points]
        numbers.append([line.label, line.colour % COLOURS, line.run, steps_of, values])
    return Chart(svg.drawing(WIDE, HIGH, name, parts), [LEFT, WIDE - LEFT - RIGHT, *map(brief, ends), numbers])


def _curve(frame: Frame, line: Line) -> list[str]:
    means = [point.mean for point in line.points]
    window = window_of(len(means))
    at = [frame.x(point.step) for point in line.points]
    raw = list(zip(at, map(frame.y, means), strict=True))
    parts = []
    if any(point.high > point.low for point in line.points):
        above = [(x, frame.y(point.high)) for x, point in zip(at, line.points, strict=True)]
        below = [(x, frame.y(point.low)) for x, point in zip(at, line.points, strict=True)]
        parts.append(svg.path([*above, *reversed(below)], "band", close=True))
    elif window > 1:
        parts.append(svg.path(raw, "raw"))
    parts.append(svg.path(zip(at, map(frame.y, running(means, window)), strict=True), "mean"))
    return [*parts, svg.dots(raw, "dot")] if len(raw) <= FEW and window == 1 else parts


def spread(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis: with 0 where the values come near it, with a little room elsewhere.

    >>> spread(0.1, 0.9), spread(5.0, 5.0), spread(-3e-3, 1.0)
    ((0.0, 0.945), (4.75, 5.25), (-0.05315, 1.05015))
    """
    if low == high:
        room = abs(low) * 0.05 or 0.5
        return low - room, high + room
    if 0 <= low < 0.6 * high:
        return 0.0, round(high * 1.05, 12)
    if 0 >= high > 0.6 * low:
        return round(low * 1.05, 12), 0.0
    room = (high - low) * 0.05
    return round(low - room, 12), round(high + room, 12)


def columns_chart(
    name: str, columns: Columns, parts: Mapping[str, Sequence[float]], looks: Sequence[str], share: bool = True
) -> Chart:
    """Stacked columns, the first part at the bottom; as shares of each column's sum, or as they are.

    A look is a class, or the value of a `style`. A column far beyond all others is cut at the edge (`edge_of`).
    """
    sums = [sum(values) for values in zip(*parts.values(), strict=True)]
    most = 1.0 if share else edge_of(sums)
    frame = Frame((columns[0][0] - 0.5, columns[-1][1] + 0.5), (0.0, most if share else most * 1.05))
    drawn = frame.axes()
    heights = [0.0] * len(columns)
    for (_, values), look in zip(parts.items(), looks, strict=True):
        found = []
        for place, value in enumerate(values):
            scaled = (value / sums[place] if sums[place] else 0.0) if share else value
            scaled = min(scaled, frame.values[1] - heights[place])
            if scaled > 0:
                left, right = frame.x(columns[place][0] - 0.5), frame.x(columns[place][1] + 0.5)
                top = frame.y(heights[place] + scaled)
                found.append((left, top, right - left, frame.y(heights[place]) - top))
                heights[place] += scaled
        drawn.append(svg.boxes(found, look if ":" not in look else "column", f' style="{look}"' if ":" in look else ""))
    steps_of = [last for _, last in columns]
    lines = [[label, -1, 0, steps_of, [brief(value) for value in values]] for label, values in parts.items()]
    ends = [brief(end) for end in frame.steps]
    return Chart(svg.drawing(WIDE, HIGH, name, drawn), [LEFT, WIDE - LEFT - RIGHT, *ends, lines])


def edge_of(sums: Sequence[float]) -> float:
    """How high the columns are drawn: up to the highest, or up to most of them where few stand far beyond.

    >>> edge_of([1.0, 3.0, 2.0]), edge_of([1.0] * 19 + [50.0])
    (3.0, 1.5)
    """
    high = max(sums, default=0.0) or 1.0
    usual = 1.5 * sorted(sums)[int(0.9 * (len(sums) - 1))] if sums else high
    return usual if len(sums) >= FEW_COLUMNS and high > 2 * usual > 0 else high


def map_of(name: str, found: GateMap, columns: Columns) -> str:
    """A row for each prompt, its decisions from left to right; strong where it was visited, faint where it holds."""
    height = len(found.rows) * ROW + BOTTOM
    width = MAP_WIDE / len(columns)
    cells: dict[str, list[tuple[float, float, float, float]]] = {}
    for row, (_, letters) in enumerate(found.rows):
        for start, end in _stretches(letters):
            box = (start * width, row * ROW, (end - start) * width, ROW - 1)
            cells.setdefault(letters[start], []).append(box)
    parts = []
    for letter, boxes in sorted(cells.items()):
        arm = found.arms[ord(letter.upper()) - ord("A")]
        parts.append(svg.boxes(boxes, arm_class(arm) + (" held" if letter.islower() else "")))
    ends = (columns[0][0], columns[-1][1])
    places = [(_place(columns, step) * width, step) for step in ticks(*ends, 8)]
    parts += steps_below(places, height, MAP_WIDE)
    return svg.drawing(MAP_WIDE, height, name, parts, ' class="map"')


def _place(columns: Columns, step: float) -> float:
    """Where a step's column lies, in columns."""
    return next((place + 0.5 for place, (_, last) in enumerate(columns) if last >= step), len(columns))


def _stretches(letters: str) -> list[tuple[int, int]]:
    """From where to where a letter stays the same; a visit is a stretch of its own."""
    found: list[tuple[int, int]] = []
    for place, letter in enumerate(letters):
        if letter == NOTHING:
            continue
        if found and found[-1][1] == place and letters[place - 1] == letter and letter.islower():
            found[-1] = (found[-1][0], place + 1)
        else:
            found.append((place, place + 1))
    return found


def run_colour(run: int) -> int:
    """The number of a run's colour."""
    return OF_RUNS[run % len(OF_RUNS)]


def arm_class(arm: str) -> str:
    """The class of an arm's colour."""
    return f"arm-{arm}" if arm in KNOWN_ARMS else "arm-other"


def brief(value: float) -> float:
    """Five digits, enough to point at.

    >>> brief(0.123456789), brief(1234567.0), brief(7)
    (0.12346, 1234567, 7)
    """
    return int(value) if value == int(value) and abs(value) < 1e9 else float(f"{value:.5g}")
