"""Several methods from the same start over several seeds, each run the command that a user would give.

    FOLDER/start/seed_1/         the run that makes the start, and its weights in the hub's form (`hub/`)
    FOLDER/METHOD/seed_1/        a run, whole: `hpt report` reads it, `hpt train` goes on with it

Decision: every run is a process of its own (`hpt train`), so one that fails ends nobody else, and what is compared is
what anybody gets. `jobs` of them are at work side by side.

Invariants
    1. All runs of a seed have the same start, the same prompts to train on and the same to validate on.
    2. What is done is not done again: the same command goes on where it was stopped.
    3. SIGTERM and SIGUSR1 end it as they end a run (75), and its runs with it, each saved.

Example: compare(read_comparison("tiny-compare"), Path("runs/compared"), jobs=2, shown=sys.stdout)
"""

from pathlib import Path
from typing import TextIO

from hpt_megatron.config.comparison import START, Comparison, run_folder
from hpt_megatron.config.load import load_run
from hpt_megatron.data.tasks.place import CORPUS, TRAIN, VAL, task_folder
from hpt_megatron.driver.loop.checkpoints import Checkpoints
from hpt_megatron.driver.loop.run import CHECKPOINTS, stoppable
from hpt_megatron.errors import HptError
from hpt_megatron.recipes.side_by_side import Job, run_all
from hpt_megatron.weights.execute.exporting import export_checkpoint

HUB = "hub"


@stoppable()
def compare(comparison: Comparison, folder: Path, jobs: int, shown: TextIO) -> list[Path]:
    """Runs what is missing; answers the folders of the runs that failed."""
    comparison.check(folder)
    starts = [Job(folder / START / f"seed_{seed}", comparison.start_of(seed, folder)) for seed in comparison.seeds]
    failed = run_all(starts, jobs, shown)
    if failed:
        raise HptError("a start failed, and nothing can be compared without it", where=str(failed[0]))
    runs = []
    for seed, start in zip(comparison.seeds, starts, strict=True):
        handed = handed_over(start)
        for method in comparison.methods:
            given = [*comparison.run_of(method, seed, folder), *handed]
            runs.append(Job(run_folder(folder, method, seed), given))
    return run_all(runs, jobs, shown)


def handed_over(start: Job) -> list[str]:
    """Overrides: the start's weights, and the prompts and pages that it made for itself, if it did."""
    hub = start.folder / HUB
    if not hub.is_dir():
        newest = Checkpoints(start.folder / CHECKPOINTS, 1).newest()
        assert newest is not None, "a run that ended has saved its last step"
        export_checkpoint(newest / "trainer", hub)
    handed = [f"model.path={hub}"]
    data = load_run(list(start.given)).data
    if data.make is not None and not data.train_files:
        own = task_folder(start.folder, data.make)
        handed += ["data.make=null", f"data.train_files=[{own / TRAIN}]", f"data.val_files=[{own / VAL}]"]
        if (own / CORPUS).is_dir():
            handed.append(f"rollout.search_corpus_root={own / CORPUS}")
    return handed
