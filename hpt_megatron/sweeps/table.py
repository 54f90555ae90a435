"""What a sweep came to, from the folders of its runs alone; so also of one in progress, and of one whose launcher died.

    SWEEP/sweep.md      a line for each point, best first: what differs, how far it is, the metric
    SWEEP/sweep.csv     the same with every number of the last validation
    SWEEP/sweep.png     the metric over the steps, a line for each point

Invariant: what is not there is not made up: a point without a validation has no number and stands behind those that
have one.

Example: rows = collected(Path("runs/gates")); print(text_of(rows, recorded(Path("runs/gates"))))
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpt_megatron.cluster.attempt import attempts, result
from hpt_megatron.errors import UserError
from hpt_megatron.report.folder import STEP, Recorded, read
from hpt_megatron.report.markdown import rows as markdown_rows
from hpt_megatron.report.paper import bands
from hpt_megatron.sweeps.plan import Asked, recorded

NAME = "sweep"
FIGURE_MOST = 8
"""Lines of the figure: more could not be told apart."""


@dataclass(frozen=True)
class Row:
    """One point: the values of the keys that differ between points, and where it stands."""

    name: str
    differs: Mapping[str, str]
    state: str
    step: int
    of: int | None
    metrics: Mapping[str, float]
    curve: Mapping[int, float]
    folder: Path


def collected(folder: Path) -> list[Row]:
    """Every point that was ever asked for, best first."""
    asked = recorded(folder)
    given = {name: dict(text.partition("=")[::2] for text in texts) for name, texts in asked.points.items()}
    keys = list(dict.fromkeys(key for values in given.values() for key in values))
    differ = [key for key in keys if len({values.get(key) for values in given.values()}) > 1]
    found = [
        _row(name, {key: values.get(key, "") for key in differ}, folder / name, asked.metric)
        for name, values in given.items()
    ]
    sign = -1.0 if asked.goal == "max" else 1.0
    none = float("inf")
    return sorted(found, key=lambda row: sign * row.metrics[asked.metric] if asked.metric in row.metrics else none)


def _row(name: str, differs: Mapping[str, str], folder: Path, metric: str) -> Row:
    run = _run_at(folder)
    tries = attempts(folder)
    last = result(tries[-1]) if tries else {}
    if run is None:
        state = "failed" if last and last["code"] and not last["again"] else ("begun" if folder.exists() else "waits")
        return Row(name, differs, state, 0, None, {}, {}, folder)
    if run.ended:
        state = "done"
    elif last and last["code"] and not last["again"]:
        state = "failed"
    else:
        state = "stopped" if last.get("again") else "under way"
    told = run.validations[-1] if run.validations else {}
    curve = {int(each[STEP]): each[metric] for each in run.validations if metric in each}
    numbers = {key: value for key, value in told.items() if key != STEP}
    return Row(name, differs, state, run.last, run.total, numbers, curve, folder)


def _run_at(folder: Path) -> Recorded | None:
    try:
        return read(folder)
    except UserError:
        return None


def text_of(found: Sequence[Row], asked: Asked) -> str:
    """As Markdown."""
    keys = list(found[0].differs) if found else []
    lines = []
    for row in found:
        number = row.metrics.get(asked.metric)
        how_far = f"{row.step}/{row.of}" if row.of else str(row.step)
        values = [row.differs[key] for key in keys]
        lines.append([row.name, *values, row.state, how_far, "-" if number is None else f"{number:.4f}"])
    return "\n".join(markdown_rows(lines, ["point", *keys, "state", "step", asked.metric])) + "\n"


def csv_of(found: Sequence[Row]) -> str:
    """Every number that any of them has."""
    names = sorted({name for row in found for name in row.metrics})
    keys = list(found[0].differs) if found else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["point", *keys, "state", "step", *names])
    for row in found:
        numbers = [row.metrics.get(name, "") for name in names]
        writer.writerow([row.name, *(row.differs[key] for key in keys), row.state, row.step, *numbers])
    return out.getvalue()


def write(folder: Path) -> list[Path]:
    """Table and figure; the figure only where there is something to draw."""
    found, asked = collected(folder), recorded(folder)
    written = [folder / f"{NAME}.md", folder / f"{NAME}.csv"]
    written[0].write_text(text_of(found, asked), encoding="utf-8")
    written[1].write_text(csv_of(found), encoding="utf-8")
    drawn = {_label(row): [row.curve] for row in found if row.curve}
    if drawn:
        best = dict(list(drawn.items())[:FIGURE_MOST])
        written.append(bands(best, asked.metric, folder / f"{NAME}.png"))
    return written


def _label(row: Row) -> str:
    """Short names of what differs; the point's own name where nothing does."""
    short = [f"{key.rpartition('.')[2]}={value}" for key, value in row.differs.items()]
    return ", ".join(short) or row.name
