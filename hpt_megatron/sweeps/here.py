"""A sweep on this host: its points as runs side by side, each going on where it stopped.

Example: failed = run_here(plan, jobs=2, shown=sys.stdout)
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from hpt_megatron.driver.loop.run import stoppable
from hpt_megatron.recipes.side_by_side import Job, run_all
from hpt_megatron.sweeps.plan import Plan, SweepPoint


@stoppable()
def run_here(plan: Plan, jobs: int, shown: TextIO) -> list[Path]:
    """Answers the folders of the runs that failed."""
    plan.write()
    return run_all(jobs_of(plan.points, plan.folder), jobs, shown)


def jobs_of(points: Sequence[SweepPoint], folder: Path) -> list[Job]:
    """Each with its configuration as it was resolved when the sweep was checked."""
    made = []
    for point in points:
        recorded = folder / f"{point.name}.json"
        recorded.write_text(json.dumps(asdict(point.run), indent=1) + "\n", encoding="utf-8")
        made.append(Job(point.folder, ["--recorded", str(recorded)]))
    return made
