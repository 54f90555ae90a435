"""A search instead of a grid: Optuna is asked for points and told what they came to.

Decision: Optuna's own ask and tell, and no sweeper of Hydra, which pins an old release. The study is a file of JSON
lines in the sweep's folder, so a search goes on where it was stopped, and its points have names like any others.

    SWEEP/study.log     what was asked and told

Invariants
    1. Every choice and both ends of every range are checked before the first run.
    2. A point that was asked for and not told, because this was stopped, is asked for again, and its run goes on. One
       whose run failed is no good.

Example: search(read_sweep("tiny-search"), [], Path("runs/searched"), jobs=2, shown=sys.stdout)
"""

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from hpt_megatron.config.load import load
from hpt_megatron.config.sweep import Axis, Range, SweepFile
from hpt_megatron.driver.loop.run import stoppable
from hpt_megatron.errors import UserError
from hpt_megatron.recipes.side_by_side import run_all
from hpt_megatron.sweeps.here import jobs_of
from hpt_megatron.sweeps.plan import Plan, point_of, refuse
from hpt_megatron.sweeps.table import collected

STUDY = "study.log"


@stoppable()
def search(
    sweep: SweepFile, given: Sequence[str], folder: Path, jobs: int, shown: TextIO, config_folder: Path | None = None
) -> list[Path]:
    """Until so many points have ended; answers the folders of the runs that failed."""
    refuse([load([*sweep.base, *given, *values], config_folder) for values in _ends(sweep)])
    study = _study(sweep, folder)
    failed: list[Path] = []
    while (left := sweep.trials - len(_over(study))) > 0:
        trials = [study.ask() for _ in range(min(left, jobs))]
        asked = {}
        for trial in trials:
            values = [f"{key}={_word(_ask(trial, key, axis))}" for key, axis in sweep.search.items()]
            loaded = load([*sweep.base, *given, *values], config_folder)
            refuse([loaded])
            point = point_of(loaded, folder)
            asked[trial.number] = (trial, point)
        points = [point for _, point in asked.values()]
        Plan(folder, tuple(points), sweep.metric, sweep.goal).write()
        failed += run_all(jobs_of(points, folder), jobs, shown)
        _tell(study, asked, sweep, folder, shown)
    best = study.best_trial if _ended(study) else None
    if best is not None:
        shown.write(f"best: {sweep.metric} {best.value:.4f} with {json.dumps(best.params)}\n")
    return failed


def _ends(sweep: SweepFile) -> Iterator[list[str]]:
    """Points at the ends of every axis, and at each choice: what is between two numbers is sound where both are."""
    ends = {key: (axis.low, axis.high) if isinstance(axis, Range) else axis for key, axis in sweep.search.items()}
    for turn in range(max(map(len, ends.values()))):
        yield [f"{key}={_word(_whole(sweep.search[key], values[turn % len(values)]))}" for key, values in ends.items()]


def _whole(axis: Axis, value: Any) -> Any:
    return int(value) if isinstance(axis, Range) and axis.whole else value


def _optuna() -> Any:
    try:
        return importlib.import_module("optuna")
    except ModuleNotFoundError as error:
        raise UserError(
            "a search needs optuna", where="hpt sweep", mend="pip install 'hpt_megatron[search]'"
        ) from error


def _study(sweep: SweepFile, folder: Path) -> Any:
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storages = importlib.import_module("optuna.storages.journal")
    folder.mkdir(parents=True, exist_ok=True)
    kept = optuna.storages.JournalStorage(storages.JournalFileBackend(str(folder / STUDY)))
    study = optuna.create_study(
        study_name=sweep.name,
        storage=kept,
        direction="maximize" if sweep.goal == "max" else "minimize",
        load_if_exists=True,
    )
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # one that goes on does not begin again
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False):
        if trial.state == states.RUNNING:  # whoever asked for it is gone
            study.tell(trial.number, state=states.FAIL)
            study.enqueue_trial(trial.params)
    return study


def _over(study: Any) -> list[Any]:
    """Ended, or given up for good; not those that are asked for again."""
    states = _optuna().trial.TrialState
    return [each for each in study.get_trials(deepcopy=False) if each.state in (states.COMPLETE, states.PRUNED)]


def _ended(study: Any) -> list[Any]:
    states = _optuna().trial.TrialState
    return [each for each in study.get_trials(deepcopy=False) if each.state == states.COMPLETE]


def _ask(trial: Any, key: str, axis: Axis) -> Any:
    if not isinstance(axis, Range):
        return trial.suggest_categorical(key, list(axis))
    if axis.whole:
        return trial.suggest_int(key, int(axis.low), int(axis.high), log=axis.log)
    return trial.suggest_float(key, axis.low, axis.high, log=axis.log)


def _word(value: Any) -> str:
    """As an override."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return repr(value) if isinstance(value, float) else str(value)


def _tell(study: Any, asked: dict[int, Any], sweep: SweepFile, folder: Path, shown: TextIO) -> None:
    states = _optuna().trial.TrialState
    rows = {row.name: row for row in collected(folder)}
    for trial, point in asked.values():
        row = rows[point.name]
        if row.state == "done" and sweep.metric in row.metrics:
            study.tell(trial, row.metrics[sweep.metric])
            shown.write(
                f"{point.name}: {sweep.metric} {row.metrics[sweep.metric]:.4f} with {json.dumps(trial.params)}\n"
            )
        else:
            study.tell(trial, state=states.PRUNED)  # a run that fails is a point that is no good
            shown.write(f"{point.name}: {row.state}, with {json.dumps(trial.params)}\n")
        shown.flush()
