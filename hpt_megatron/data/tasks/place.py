"""Where a run keeps the embedded task that it made for itself."""

from pathlib import Path

TRAIN, WARMUP, VAL = "train.parquet", "warmup.parquet", "val.parquet"
CORPUS = "corpus"
"""A folder of pages, of a task that has some to search."""


def task_folder(run_dir: Path, task: str) -> Path:
    """In the folder of the run.

    >>> task_folder(Path("runs/a"), "count").as_posix()
    'runs/a/data/count'
    """
    return run_dir / "data" / task
