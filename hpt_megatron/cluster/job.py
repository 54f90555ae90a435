"""What the nodes of a job are to do, as one file that they all read.

Example: job = read_job(Path(os.environ["HPT_JOB"])); point = job.point(os.environ)
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.config.cluster import ClusterConfig
from hpt_megatron.config.typed import read
from hpt_megatron.errors import HptError

JOB, SCRIPT, RUN = "job.json", "job.sbatch", "run.json"


@dataclass(frozen=True)
class Point:
    """One thing to do: a folder, and the arguments of `hpt`."""

    folder: Path
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """All of it. `points` has more than one entry where the job is an array."""

    name: str
    points: tuple[Point, ...]
    nodes: int
    slots: int
    """Processes of the trainer, or of the engines, that a node holds: one for each device, where there are some."""
    devices: int
    """GPUs of a node that a run uses; 0 where it uses none."""
    trains: bool
    """Whether it is a run, which needs a Ray cluster and has checkpoints."""
    cluster: ClusterConfig
    code: Mapping[str, Any]

    @property
    def all_nodes(self) -> int:
        """Of both components."""
        return self.nodes + self.cluster.rollout_nodes

    def point(self, environment: Mapping[str, str]) -> Point:
        """The one that a task of the array stands for."""
        return self.points[int(environment.get("SLURM_ARRAY_TASK_ID", "0"))]

    def write(self, path: Path) -> None:
        """For the nodes."""
        told = asdict(self)
        told["points"] = [{"folder": str(each.folder), "arguments": list(each.arguments)} for each in self.points]
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read_job(path: Path) -> Job:
    """As it was written."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        cluster, problems = read(ClusterConfig, told.pop("cluster"), {})
        points = tuple(Point(Path(each["folder"]), tuple(each["arguments"])) for each in told.pop("points"))
        job = Job(points=points, cluster=cluster, **told)
    except (OSError, ValueError, KeyError, TypeError) as error:
        mend = "the folder must be on a file system that every node of the job sees"
        raise HptError(f"cannot be read here ({error})", where=str(path), mend=mend) from error
    if problems:
        raise HptError(f"was written by another version: {problems[0]}", where=str(path), mend="submit it again")
    return job
