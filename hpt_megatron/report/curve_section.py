"""Curves of a report: the few that say most, all of them, and whatever another section asks for.

Invariants
    1. One run: the numbers of a group lie over one another. Several runs: each number has a chart, with all runs in it.
    2. All curves of a page share one axis of steps, so that they can be read one under the other.
"""

from collections.abc import Callable, Sequence

from hpt_megatron.report.chart import Line, curves, run_colour
from hpt_megatron.report.figures import Figures, folded, grid, legend
from hpt_megatron.report.folder import VAL, Numbers, Recorded
from hpt_megatron.report.groups import Group, grouped, short_label
from hpt_megatron.report.kl_chart import against_kl
from hpt_megatron.report.series import points_of, thin, window_of

HERO = ("reward/mean", "uni/sft_data_ratio", "batch/solved", "pairs/accuracy", "pairs/loss", "val/pairs/accuracy")
"""Each names a group by its first number."""
FALLBACK = ("actor/loss", "val/demo_loss", "actor/grad_norm")
OTHERS_MOST = 120
MEMORY = "memory/"
ENGINES_IDLE, PUBLISHED = "idle_s/rollout", "timing_s/publish"
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
    """The curves that say most; of a run that imitates alone, the losses."""
    names = [*names_of(runs, steps_of), *names_of(runs, validations_of)]
    heroes = HERO if any(name in names for name in HERO if name != "uni/sft_data_ratio") else FALLBACK
    found = [pair for pair in grouped(names) if pair[1][0] in heroes]
    return grid([each for group, names in found for each in charts(runs, group, names, figures)])


def all_curves(runs: Sequence[Recorded], figures: Figures) -> list[str]:
    """Every number of the steps and of the validations."""
    main: list[tuple[Group, list[str]]] = []
    others: list[tuple[Group, list[str]]] = []
    names = [*names_of(runs, steps_of), *names_of(runs, validations_of)]
    if PUBLISHED not in names and ENGINES_IDLE in names:
        names.remove(ENGINES_IDLE)  # nothing samples, so there are no engines that could wait
    for group, own in grouped(dict.fromkeys(names)):
        (main if group.main and moves(runs, own) else others).append((group, own))
    drawn = [each for group, own in main for each in charts(runs, group, own, figures)]
    rest = [each for group, own in others[:OTHERS_MOST] for each in charts(runs, group, own, figures)]
    window = window_of(max(len(thin(points_of(run.steps, "step"))) for run in runs))
    said = f"Strong: the mean of each point and the {window - 1} before it. Thin: as it is." if window > 1 else ""
    folds = []
    if rest:
        more = len(others) - OTHERS_MOST
        left_out = f" ({more} more are in metrics.jsonl alone)" if more > 0 else ""
        folds.append(folded(f"{len(rest)} more numbers{left_out}", grid(rest)))
    drawn += against_kl(runs, figures)
    return [f'<p class="note">{said}</p>' if said else "", grid(drawn), *folds]


def moves(runs: Sequence[Recorded], names: Sequence[str]) -> bool:
    """Whether some number of a group ever changes: what stays as it is waits behind a click."""
    for run in runs:
        for source in (run.steps, run.validations):
            if any(len({numbers[name] for numbers in source if name in numbers}) > 1 for name in names):
                return True
    return False


def charts(runs: Sequence[Recorded], group: Group, names: list[str], figures: Figures) -> list[str]:
    """One chart, or one for each name where several runs are compared; none without a name."""
    if not names:
        return []
    source = validations_of if names[0].startswith(VAL) else steps_of
    axis, bytes_of = whole(runs), names[0].startswith(MEMORY)
    note = f"GiB, {group.note}" if bytes_of else group.note
    if len(runs) > 1:
        found = []
        for name in names:
            lines = [
                Line(run.name, run_colour(number), thin(points), number)
                for number, run in enumerate(runs)
                if (points := values_of(source(run), name))
            ]
            title = group.title if len(names) == 1 else f"{group.title}: {short_label(name, names)}"
            found.append(figures.add(curves(title, lines, axis), title, note))
        return found
    lines = [
        Line(short_label(name, names), number, thin(values_of(source(runs[0]), name)))
        for number, name in enumerate(names)
    ]
    keys = legend([(f"k{line.colour % 8}", "", line.label) for line in lines]) if len(lines) > 1 else ""
    return [figures.add(curves(group.title, lines, axis), group.title, note, keys)]


def values_of(steps: Sequence[Numbers], name: str) -> list[tuple[float, float]]:
    """A number over the steps; bytes as GiB."""
    scale = 2.0**-30 if name.startswith(MEMORY) else 1.0
    return [(step, value * scale) for step, value in points_of(steps, name)]


def names_of(runs: Sequence[Recorded], source: Source) -> list[str]:
    """Of all numbers, in the order of their first appearance; a step has no validation's."""
    tested = source is validations_of
    found = dict.fromkeys(name for run in runs for numbers in source(run) for name in numbers)
    return [name for name in found if name.startswith(VAL) == tested]
