"""Figures for a paper, drawn with matplotlib: the curves of a report, at the width of a column.

Invariant: a figure is drawn from the same thinned numbers as the page, and its file says nothing of when it was made,
so the same run gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from hpt_megatron.errors import UserError
from hpt_megatron.report.chart import run_colour
from hpt_megatron.report.decisions import arms_of, columns_of, shares
from hpt_megatron.report.folder import Recorded
from hpt_megatron.report.series import points_of, running, thin, window_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = {
    "reward": ("reward/mean", "mean reward"),
    "success": ("batch/solved", "share of successes"),
    "sft_share": ("uni/sft_data_ratio", "SFT share"),
    "response_length": ("agent/sampled_tokens_mean", "sampled tokens"),
    "grad_norm": ("actor/grad_norm", "gradient norm"),
    "loss": ("actor/loss", "loss"),
    "pairs_accuracy": ("pairs/accuracy", "accuracy on pairs"),
    "pairs_margin": ("pairs/margin", "margin of pairs"),
}
COLOURS = ("#2f6fb3", "#d0722b", "#3a8f63", "#8a5fb0", "#ad8419", "#2a97a3", "#b8487a", "#6b7480")  # of the page
ARM_COLOURS = {
    "imitate": "#d0722b",
    "explore": "#2f6fb3",
    "blend": "#8a5fb0",
    "off_policy": "#2a97a3",
    "skipped": "#b4bcc5",
}
SIZE, DPI = (3.4, 2.3), 300  # inches: a column of a paper
ROOM = (0.17, 0.17, 0.8, 0.72)  # of a figure, for its axes


def draw(runs: Sequence[Recorded], folder: Path, curves: Mapping[str, tuple[str, str]] = CURVES) -> list[Path]:
    """Writes every figure that the runs have numbers for."""
    written = []
    several = len(runs) > 1
    for name, (metric, said) in curves.items():
        found = [(number, run, points) for number, run in enumerate(runs) if (points := points_of(run.steps, metric))]
        if found:
            figure = _figure(SIZE)
            axes = figure.add_axes(ROOM)
            for number, run, points in found:
                colour = COLOURS[run_colour(number) if several else 0]
                curve(axes, run.name if several else "", points, colour)
            finish(axes, said, several)
            written.append(save(figure, folder / f"{name}.png"))
    for number, run in enumerate(runs):
        if run.visits:
            figure = _figure(SIZE)
            decisions(figure.add_axes(ROOM), run)
            end = f"_{number + 1}" if several else ""
            written.append(save(figure, folder / f"decisions{end}.png"))
    return written


def bands(curves: Mapping[str, Sequence[Mapping[int, float]]], said: str, path: Path) -> Path:
    """By name, the curves of several seeds where all have a value: their mean, and a band from least to most."""
    figure = _figure((2 * SIZE[0], 1.6 * SIZE[1]))
    axes = figure.add_axes((ROOM[0] / 2, ROOM[1] / 1.6, ROOM[2], ROOM[3]))
    for number, (name, seeds) in enumerate(curves.items()):
        steps = sorted(set.intersection(*(set(each) for each in seeds))) if seeds else []
        values = [[each[step] for each in seeds] for step in steps]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(steps, [fmean(each) for each in values], color=colour, linewidth=1.4, label=name)
        least, most = [min(each) for each in values], [max(each) for each in values]
        axes.fill_between(steps, least, most, color=colour, alpha=0.15, linewidth=0)
    finish(axes, said, False)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save(figure, path)


def _figure(size: tuple[float, float]) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("figures need matplotlib", where="--png", mend="pip install matplotlib") from error
    return Figure(size)


def curve(axes: "Axes", label: str, points: Sequence[tuple[float, float]], colour: str) -> None:
    """A running mean, and behind it the values themselves."""
    thinned = thin(points)
    steps, means = [point.step for point in thinned], [point.mean for point in thinned]
    window = window_of(len(means))
    if window > 1:
        axes.plot(steps, means, color=colour, linewidth=0.6, alpha=0.35)
    axes.plot(steps, running(means, window), color=colour, linewidth=1.4, label=label or None)


def decisions(axes: "Axes", run: Recorded) -> None:
    """Shares of the arms, stacked."""
    columns = columns_of(sorted({visit.step for visit in run.visits}))
    found = shares(run.visits, columns)
    sums = [sum(values) or 1 for values in zip(*found.values(), strict=True)]
    bottom = [0.0] * len(columns)
    for arm in arms_of(run.visits):
        heights = [value / total for value, total in zip(found[arm], sums, strict=True)]
        left, wide = [first - 0.5 for first, _ in columns], [last - first + 1 for first, last in columns]
        axes.bar(left, heights, wide, bottom, align="edge", color=ARM_COLOURS.get(arm, "#6b7480"), label=arm)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    finish(axes, "share of prompts", False)
    axes.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)  # it hides nothing


def finish(axes: "Axes", said: str, legend: bool) -> None:
    """Axes as a paper has them."""
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylabel(said, fontsize=8)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.margins(x=0.01)
    if legend:
        axes.legend(fontsize=7, frameon=False)


def save(figure: "Figure", path: Path) -> Path:
    """As a file, the same bytes for the same numbers."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path), mend="another --out") from error
    return path
