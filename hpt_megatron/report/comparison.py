"""What methods came to over seeds: a table, a figure, and the numbers of both.

    comparison.json   every run: method, seed, the last validation, the curve
    comparison.md     a line for each method: mean and standard deviation over its seeds, best first
    comparison.png    the first metric over the steps: means, and in a band the least and the most of the seeds

Invariant: what is not there is not made up. A run that has not ended is left out of the table and named under it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from hpt_megatron.config.comparison import Comparison, run_folder
from hpt_megatron.errors import UserError
from hpt_megatron.report.folder import STEP, Recorded, read
from hpt_megatron.report.markdown import rows
from hpt_megatron.report.paper import bands

NAME = "comparison"


@dataclass(frozen=True)
class Done:
    """One run that ended."""

    method: str
    seed: int
    metrics: Mapping[str, float]
    curve: Sequence[tuple[int, float]]
    seconds: float


def collected(comparison: Comparison, folder: Path) -> tuple[list[Done], list[str]]:
    """The runs that ended, and the names of those that did not."""
    done, missing = [], []
    for method in comparison.methods:
        for seed in comparison.seeds:
            run = _run_at(run_folder(folder, method, seed))
            if run is None or not run.ended or not run.validations:
                missing.append(f"{method}/seed_{seed}")
            else:
                done.append(_done(run, method, seed, comparison.metrics))
    return done, missing


def _run_at(folder: Path) -> Recorded | None:
    try:
        return read(folder)
    except UserError:
        return None


def _done(run: Recorded, method: str, seed: int, metrics: Sequence[str]) -> Done:
    last = run.validations[-1]
    curve = [(int(told[STEP]), told[metrics[0]]) for told in run.validations if metrics[0] in told]
    seconds = sum(step.get("timing_s/step", 0.0) for step in run.steps)
    return Done(method, seed, {name: last[name] for name in metrics if name in last}, curve, seconds)


def table(done: Sequence[Done], metrics: Sequence[str], missing: Sequence[str]) -> str:
    """As Markdown."""
    by_method: dict[str, list[Done]] = {}
    for one in done:
        by_method.setdefault(one.method, []).append(one)
    ordered = sorted(by_method.items(), key=lambda pair: -_mean(pair[1], metrics[0]))
    lines = [
        [method, str(len(runs)), *(_spread(runs, name) for name in metrics), f"{fmean(r.seconds for r in runs):.0f}"]
        for method, runs in ordered
    ]
    text = "\n".join(rows(lines, ["method", "seeds", *metrics, "seconds of steps"]))
    return text + (f"\n\nNot ended: {', '.join(missing)}.\n" if missing else "\n")


def _values(runs: Iterable[Done], name: str) -> list[float]:
    return [run.metrics[name] for run in runs if name in run.metrics]


def _mean(runs: Sequence[Done], name: str) -> float:
    values = _values(runs, name)
    return fmean(values) if values else float("-inf")


def _spread(runs: Sequence[Done], name: str) -> str:
    values = _values(runs, name)
    if not values:
        return "-"
    return f"{fmean(values):.3f} +- {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """All three files."""
    done, missing = collected(comparison, folder)
    if not done:
        raise UserError("no run has ended yet", where=str(folder), mend="`hpt compare` runs what is missing")
    numbers = [{**vars(one), "metrics": dict(one.metrics), "curve": list(one.curve)} for one in done]
    written = [folder / f"{NAME}.json", folder / f"{NAME}.md"]
    written[0].write_text(json.dumps({"comparison": comparison.name, "runs": numbers}, indent=1), encoding="utf-8")
    written[1].write_text(table(done, comparison.metrics, missing), encoding="utf-8")
    curves = {name: [dict(one.curve) for one in done if one.method == name] for name in comparison.methods}
    return [*written, bands(curves, comparison.metrics[0], folder / f"{NAME}.png")]
