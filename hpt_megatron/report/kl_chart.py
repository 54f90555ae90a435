"""What the score has been paid for: score, or success, against the distance from the reference.

A policy that learns gains score for little KL. One that pleases its reward goes on to the right while the score still
rises, and what it is really for, the success, falls.

Invariants
    1. Each point is a step, or the mean of some neighbours where there are more than `MOST`.
    2. The line joins running means, as those of curves do; the disc is its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hpt_megatron.report.chart import HIGH, WIDE, Chart, Frame, brief, run_colour, spread
from hpt_megatron.report.figures import Figures
from hpt_megatron.report.folder import Numbers, Recorded
from hpt_megatron.report.pair_chart import axes, place
from hpt_megatron.report.series import running, thin, window_of
from hpt_megatron.web import svg

KL = "kl/sequence"
SCORES = (
    ("Score against KL", ("reward/learned/mean", "reward/mean")),
    ("Success against KL", ("batch/solved",)),
)
NOTE = "KL to the reference from left to right; the disc is the last step"
MOST = 60


@dataclass(frozen=True)
class Way:
    """Where a run has been: its KL and its score, in the order of its steps."""

    label: str
    colour: int
    run: int
    steps: Sequence[float]
    kl: Sequence[float]
    score: Sequence[float]


def against_kl(runs: Sequence[Recorded], figures: Figures) -> list[str]:
    """A chart of the score, one of the success; none where no KL was measured."""
    found = []
    for title, names in SCORES:
        colours = [run_colour(number) for number in range(len(runs))] if len(runs) > 1 else [0]
        ways = [way for number, run in enumerate(runs) if (way := _way(run, number, names, colours[number]))]
        if ways:
            found.append(figures.add(chart_of(title, ways), title, NOTE))
    return found


def _places(frame: Frame, kl: Sequence[float], score: Sequence[float]) -> list[tuple[float, float]]:
    return [(frame.x(x), frame.y(y)) for x, y in zip(kl, score, strict=True)]


def _way(run: Recorded, number: int, names: Sequence[str], colour: int) -> Way | None:
    name = next((name for name in names if any(name in step for step in run.steps)), "")
    both: list[Numbers] = [step for step in run.steps if KL in step and name in step]
    if len(both) < 2:
        return None
    kl, score = (thin([(step["step"], step[each]) for step in both], MOST) for each in (KL, name))
    steps = [point.step for point in kl]
    return Way(run.name, colour, number, steps, [point.mean for point in kl], [p.mean for p in score])


def chart_of(said: str, ways: Sequence[Way]) -> Chart:
    """All of them over one another."""
    kl = [value for way in ways for value in way.kl]
    score = [value for way in ways for value in way.score]
    frame = Frame(spread(min(kl), max(kl)), spread(min(score), max(score)))
    parts = axes(frame)
    lines: list[list[object]] = []
    for way in ways:
        at = _places(frame, way.kl, way.score)
        window = window_of(len(at))
        means = _places(frame, running(way.kl, window), running(way.score, window))
        drawn = [svg.path(means, "mean"), svg.dots(at, "raw"), svg.dots(means[-1:], "dot", 4.5)]
        parts.append(f'<g class="k{way.colour} run{way.run}">{"".join(drawn)}</g>')
        order = sorted(range(len(at)), key=lambda one, way=way: way.kl[one])  # type: ignore[misc]
        kls = [brief(way.kl[one]) for one in order]
        lines.append([f"{way.label} in step", -1, way.run, kls, [brief(way.steps[one]) for one in order]])
        lines.append([way.label, way.colour, way.run, kls, [brief(way.score[one]) for one in order]])
    return Chart(svg.drawing(WIDE, HIGH, said, parts), [*place(frame), lines, "KL"])
