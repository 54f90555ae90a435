"""`hpt data make`: an embedded task as files, the same bytes for the same seed.

OUT/train.parquet      with demonstrations as the task has them
OUT/warmup.parquet     `count` and `grid`: the part of the task that a run's supervised warm-up shows
OUT/val.parquet        without demonstrations
OUT/corpus/            `lookup`, `lookup2` and `search`: page images and pages.jsonl, which the search service reads
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hpt_megatron.data.corpus import Page, write_pages
from hpt_megatron.data.files import write_rows
from hpt_megatron.data.record import Record
from hpt_megatron.data.rows import row_of
from hpt_megatron.data.tasks import several, single
from hpt_megatron.data.tasks.grid import grid
from hpt_megatron.data.tasks.place import CORPUS
from hpt_megatron.errors import UserError


@dataclass(frozen=True)
class Task:
    """How an embedded task is made."""

    rows: Callable[[random.Random, int, str, int], list[Record]]
    parts: tuple[str, ...] = ("train", "val")
    pages: Callable[[int], several.Pages] | None = None
    count: int = 512


def _unseeded(make: Callable[[random.Random, int, str], list[Record]]) -> Callable[..., list[Record]]:
    return lambda chance, count, part, seed: make(chance, count, part)


TASKS = {
    "color": Task(_unseeded(single.color)),
    "count": Task(_unseeded(single.count), ("train", "warmup", "val")),
    "grid": Task(_unseeded(grid), ("train", "warmup", "val"), count=2048),
    "digitsum": Task(_unseeded(single.digitsum)),
    "lookup": Task(several.lookup, pages=several.lookup_pages),
    "lookup2": Task(several.lookup2, pages=several.lookup2_pages),
    "search": Task(several.search, pages=several.lookup_pages),
    "zoom": Task(_unseeded(several.zoom)),
    "pref": Task(_unseeded(single.pref)),
}


def records(task: str, part: str, count: int, seed: int) -> list[Record]:
    """The rows of a part of a task; validation has no demonstrations, but for pairs, which are judged."""
    if task not in TASKS:
        raise UserError(f"no such task: {task}", mend=f"one of {', '.join(TASKS)}")
    made = TASKS[task].rows(random.Random(f"{task}/{part}/{seed}"), count, part, seed)
    strip = part == "val" and task != "pref"
    return [replace(row, target=None, target_images=()) if strip else row for row in made]


def make(task: str, out: str | Path, count: int | None = None, val_count: int = 128, seed: int = 0) -> dict[str, int]:
    """Writes the files of a task; returns the rows (pages, of a corpus) of each. Without a count: the task's own."""
    if count is None:
        count = TASKS[task].count if task in TASKS else 1
    if min(count, val_count) < 1 or seed < 0:
        raise UserError(f"{count} and {val_count} rows of seed {seed}", mend="1 or more rows, a seed from 0")
    folder, written = Path(out), {}
    for part in TASKS[task].parts if task in TASKS else ("train",):
        rows = records(task, part, val_count if part == "val" else count, seed)
        written[f"{part}.parquet"] = write_rows(folder / f"{part}.parquet", map(row_of, rows))
    pages = TASKS[task].pages
    if pages is not None:
        found = [Page(name, f"{name}.png", text, image.read()) for name, (image, text) in pages(seed).items()]
        written[f"{CORPUS}/pages.jsonl"] = write_pages(folder / CORPUS, found)
    return written
