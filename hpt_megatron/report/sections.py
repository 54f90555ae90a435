"""The sections of a report that are drawn here: curves, decisions, time and memory, configuration.

What is looked up one by one, prompts and rollouts, is an empty frame that the script fills from the page's data.

Invariants
    1. One run: the numbers of a group lie over one another. Several runs: each number has a chart, with all runs in it.
    2. A section without anything to show says why.
"""

from collections.abc import Callable, Sequence

from hpt_megatron.report.chart import Line, arm_class, columns_chart, curves, map_of
from hpt_megatron.report.decisions import columns_of, gate_map, shares, successes
from hpt_megatron.report.differences import differences, everything
from hpt_megatron.report.figures import Figures, folded, grid, legend
from hpt_megatron.report.folder import VAL, Numbers, Recorded
from hpt_megatron.report.groups import Group, grouped, short_label
from hpt_megatron.report.series import points_of, thin, window_of
from hpt_megatron.web.page import table

TIMES = "timing_s/"
WHOLE, REST = f"{TIMES}step", "the rest"
HERO = ("reward/mean", "uni/sft_data_ratio", "batch/solved")
OTHERS_MOST = 60
Source = Callable[[Recorded], Sequence[Numbers]]


def steps_of(run: Recorded) -> Sequence[Numbers]:
    """The numbers of its steps."""
    return run.steps


def validations_of(run: Recorded) -> Sequence[Numbers]:
    """Those of its validations."""
    return run.validations


def whole(runs: Sequence[Recorded]) -> tuple[float, float]:
    """The axis that all curves share."""
    return min(run.steps[0]["step"] for run in runs), max(run.steps[-1]["step"] for run in runs)


def hero(runs: Sequence[Recorded], figures: Figures) -> str:
    """The curves that say most."""
    found = [pair for pair in grouped(_names(runs, steps_of)) if pair[1][0] in HERO]
    return grid([each for group, names in found for each in charts(runs, group, names, figures)])


def all_curves(runs: Sequence[Recorded], figures: Figures) -> list[str]:
    """Every number of the steps and of the validations."""
    main: list[tuple[Group, list[str]]] = []
    others: list[tuple[Group, list[str]]] = []
    names = [*_names(runs, steps_of), *_names(runs, validations_of)]
    for group, own in grouped(dict.fromkeys(names)):
        (main if group.main else others).append((group, own))
    drawn = [each for group, own in main for each in charts(runs, group, own, figures)]
    rest = [each for group, own in others[:OTHERS_MOST] for each in charts(runs, group, own, figures)]
    window = window_of(max(len(thin(points_of(run.steps, "step"))) for run in runs))
    said = f"Strong: the mean of each point and the {window - 1} before it. Thin: as it is." if window > 1 else ""
    folds = []
    if rest:
        more = len(others) - OTHERS_MOST
        left_out = f" ({more} more are in metrics.jsonl alone)" if more > 0 else ""
        folds.append(folded(f"{len(rest)} more numbers{left_out}", grid(rest)))
    return [f'<p class="note">{said}</p>' if said else "", grid(drawn), *folds]


def charts(runs: Sequence[Recorded], group: Group, names: list[str], figures: Figures) -> list[str]:
    """One chart, or one for each name where several runs are compared."""
    source = validations_of if names[0].startswith(VAL) else steps_of
    axis = whole(runs)
    if len(runs) > 1:
        found = []
        for name in names:
            lines = [
                Line(run.name, number, thin(points), number)
                for number, run in enumerate(runs)
                if (points := points_of(source(run), name))
            ]
            title = group.title if len(names) == 1 else f"{group.title}: {short_label(name, names)}"
            found.append(figures.add(curves(title, lines, axis), title, group.note))
        return found
    lines = [
        Line(short_label(name, names), number, thin(points_of(source(runs[0]), name)))
        for number, name in enumerate(names)
    ]
    keys = legend([(f"k{line.colour % 8}", "", line.label) for line in lines]) if len(lines) > 1 else ""
    return [figures.add(curves(group.title, lines, axis), group.title, group.note, keys)]


def decided(run: Recorded, figures: Figures) -> tuple[str, dict[str, object]]:
    """Shares, successes and the map of one run; and what the script says of a place in the map."""
    columns = columns_of(sorted({visit.step for visit in run.visits}))
    if not columns:
        return '<p class="note">No decision is written.</p>', {}
    arms, counts = shares(run.visits, columns), successes(run.visits, columns)
    found = gate_map(run.visits, columns)
    entries = [(arm_class(arm), "", arm) for arm in arms]
    parts = [
        figures.add(
            columns_chart("decisions", columns, arms, [arm_class(arm) for arm in arms]),
            "Decisions",
            "share of the prompts of a step",
            legend(entries),
        )
    ]
    if counts:
        looks = [shade(place, len(counts)) for place in range(len(counts))]
        keys = [("", look.replace("fill", "background"), name) for look, name in zip(looks, counts, strict=True)]
        chart = columns_chart("successes", columns, counts, looks)
        parts.append(
            figures.add(chart, "Successes", "share of the prompts, by how many rollouts succeeded", legend(keys))
        )
    some = f"{len(found.rows)} of {len(found.rows) + found.left_out} prompts" if found.left_out else "all prompts"
    said = (
        f"Gate map: a row for each prompt ({some}), steps from left to right; those that stop imitating soonest come "
        "first. Strong where the prompt was visited, faint where that decision still holds. A click opens the prompt."
    )
    drawn = map_of("gate map", found, columns)
    gates = f'<p class="note">{said}</p>{legend(entries)}<div class="wide"><div class="gates">{drawn}</div></div>'
    told = {"rows": [list(row) for row in found.rows], "columns": [list(each) for each in columns], "arms": found.arms}
    return grid(parts) + gates, told


def shade(place: int, count: int) -> str:
    """The colour of so many successes: from faint to strong."""
    part = 10 + 90 * place / max(1, count - 1)
    return f"fill:color-mix(in oklab, var(--c0) {part:.0f}%, var(--none))"


def time(run: Recorded, figures: Figures) -> str:
    """Where the seconds of the steps go."""
    stages = stages_of(run)
    if not stages:
        return '<p class="note">No times are written.</p>'
    columns = columns_of([int(numbers["step"]) for numbers in run.steps], 100)
    ends = [last for _, last in columns]
    parts = {name: [0.0] * len(columns) for name in stages}
    counts = [0] * len(columns)
    place = 0
    for numbers in run.steps:
        while numbers["step"] > ends[place]:
            place += 1
        counts[place] += 1
        for name in stages:
            parts[name][place] += seconds_of(numbers, name, stages)
    means = {name: [value / count for value, count in zip(own, counts, strict=True)] for name, own in parts.items()}
    looks = [f"k{number % 8}" for number in range(len(stages))]
    sums = {name: sum(own) for name, own in parts.items()}
    total = sum(sums.values()) or 1.0
    chart = columns_chart("seconds of a step", columns, means, [f"{look} column" for look in looks], share=False)
    drawn = figures.add(
        chart, "Seconds of a step", "by stage", legend([(k, "", n) for k, n in zip(looks, stages, strict=True)])
    )
    rows = [
        [name, f"{own / len(run.steps):.3g}", f"{own / total:.1%}".replace("%", " %")]
        for name, own in sorted(sums.items(), key=lambda pair: -pair[1])
    ]
    return f'<div class="beside">{drawn}{table(rows, ["stage", "s a step", "share"], [1, 2])}</div>'


def stages_of(run: Recorded) -> list[str]:
    """The stages of its steps in the order of their first appearance, and what is left of the step."""
    found = dict.fromkeys(
        name.removeprefix(TIMES)
        for numbers in run.steps
        for name in numbers
        if name.startswith(TIMES) and name != WHOLE
    )
    return [*found, REST] if any(WHOLE in numbers for numbers in run.steps) else list(found)


def seconds_of(numbers: Numbers, stage: str, stages: Sequence[str]) -> float:
    """Of one stage of one step."""
    if stage != REST:
        return numbers.get(TIMES + stage, 0.0)
    known = sum(numbers.get(TIMES + name, 0.0) for name in stages if name != REST)
    return max(0.0, numbers.get(WHOLE, known) - known)


def memory(runs: Sequence[Recorded], figures: Figures) -> str:
    """Whatever the steps say of it, numbers of one kind together."""
    kinds: dict[str, list[str]] = {}
    for name in _names(runs, steps_of):
        if name.startswith("memory/"):
            kinds.setdefault(name.rpartition("/")[0], []).append(name)
    found = []
    for kind, names in sorted(kinds.items()):
        for start in range(0, len(names), 6):
            group = Group(kind.replace("/", ", "), (), "")
            found += charts(runs, group, sorted(names)[start : start + 6], figures)
    return grid(found) or '<p class="note">The steps of this run say nothing of memory.</p>'


def configuration(runs: Sequence[Recorded]) -> str:
    """Differences between runs, and all keys of each."""
    parts = []
    if len(runs) > 1:
        found = differences([run.config for run in runs])
        heads = ["key", *(run.name for run in runs)]
        parts.append(table([[key, *values] for key, values in found], heads) if found else "<p>No key differs.</p>")
    for run in runs:
        keys = everything(run.config)
        inside = table([list(pair) for pair in keys], ["key", "value"])
        title = f"{run.name}: " if len(runs) > 1 else ""
        parts.append(folded(f"{title}all {len(keys)} keys", inside) if keys else '<p class="note">No run.json.</p>')
    return "".join(parts)


def _names(runs: Sequence[Recorded], source: Source) -> list[str]:
    """Of all numbers, in the order of their first appearance; a step has no validation's."""
    tested = source is validations_of
    found = dict.fromkeys(name for run in runs for numbers in source(run) for name in numbers)
    return [name for name in found if name.startswith(VAL) == tested]
