"""Where seconds and memory of a run go."""

from collections.abc import Sequence

from hpt_megatron.report.chart import COLOURS, columns_chart
from hpt_megatron.report.curve_section import charts, names_of, steps_of
from hpt_megatron.report.decisions import columns_of
from hpt_megatron.report.figures import Figures, grid, legend
from hpt_megatron.report.folder import Numbers, Recorded
from hpt_megatron.report.groups import MOST_TOGETHER, USAGE, Group
from hpt_megatron.web.page import table

TIMES = "timing_s/"
WHOLE, REST = f"{TIMES}step", "the rest"
INSIDE = ("reward",)
"""Stages that are a part of another one, which is drawn."""
MOST_COLUMNS = 100


def times(run: Recorded, figures: Figures) -> str:
    """The stages of the steps, stacked, and as a table."""
    stages = stages_of(run)
    if not stages:
        return '<p class="note">No times are written.</p>'
    columns = columns_of([int(numbers["step"]) for numbers in run.steps], MOST_COLUMNS)
    parts: dict[str, list[float]] = {name: [] for name in stages}
    for first, last in columns:
        own = [numbers for numbers in run.steps if first <= numbers["step"] <= last]
        for name in stages:
            parts[name].append(sum(seconds_of(numbers, name, stages) for numbers in own) / len(own))
    looks = [look_of(number) for number in range(len(stages))]
    drawn = columns_chart("seconds of a step", columns, parts, looks, share=False)
    keys = legend([("", look.replace("fill", "background"), name) for look, name in zip(looks, stages, strict=True)])
    sums = {name: sum(seconds_of(numbers, name, stages) for numbers in run.steps) for name in stages}
    total = sum(sums.values()) or 1.0
    rows = [
        [name, f"{own / len(run.steps):.3f}", f"{100 * own / total:.1f} %"]
        for name, own in sorted(sums.items(), key=lambda pair: -pair[1])
    ]
    longest = max(run.steps, key=lambda numbers: numbers.get(WHOLE, 0.0))
    said = f"by stage; the longest is step {longest['step']:.0f} with {longest.get(WHOLE, 0.0):.1f} s"
    shown = figures.add(drawn, "Seconds of a step", said, keys)
    return f'<div class="beside">{shown}{table(rows, ["stage", "s a step", "share"], [1, 2])}</div>'


def look_of(number: int) -> str:
    """The colour of a stage; the ninth has the first one's, paler."""
    colour = f"var(--c{number % COLOURS})"
    return f"fill:{colour}" if number < COLOURS else f"fill:color-mix(in oklab, {colour} 45%, var(--paper))"


def stages_of(run: Recorded) -> list[str]:
    """The stages of its steps in the order of their first appearance, and what is left of the step."""
    found = dict.fromkeys(
        name.removeprefix(TIMES)
        for numbers in run.steps
        for name in numbers
        if name.startswith(TIMES) and name != WHOLE and name.removeprefix(TIMES) not in INSIDE
    )
    return [*found, REST] if any(WHOLE in numbers for numbers in run.steps) else list(found)


def seconds_of(numbers: Numbers, stage: str, stages: Sequence[str]) -> float:
    """Of one stage of one step."""
    if stage != REST:
        return numbers.get(TIMES + stage, 0.0)
    known = sum(numbers.get(TIMES + name, 0.0) for name in stages if name != REST)
    return max(0.0, numbers.get(WHOLE, known) - known)


def usage(runs: Sequence[Recorded], figures: Figures) -> str:
    """Whatever the steps say of memory and use: a chart for each place that is measured, a line for each stage."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for name in names_of(runs, steps_of):
        if name.startswith(USAGE):
            what, _, rest = name.partition("/")
            stage, _, place = rest.rpartition("/")
            kinds.setdefault((what, place if stage else ""), []).append(name)
    found = []
    for (what, place), names in kinds.items():
        for start in range(0, len(names), MOST_TOGETHER):
            title, said = ("Memory", "most of a stage") if what == "memory" else ("Use", "mean share of a stage")
            group = Group(", ".join(filter(None, (title, place))), (), said)
            found += charts(runs, group, names[start : start + MOST_TOGETHER], figures)
    return grid(found) or '<p class="note">The steps say nothing of memory.</p>'
