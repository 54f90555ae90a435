"""From what somebody asks for to a job in SLURM's queue: everything is checked first, then written, then submitted.

Invariants
    1. What cannot run is refused here, all of it together, with nothing written.
    2. A job runs what was resolved now, and not what the configurations say when its turn comes.

Example: job = run_job([run], cluster); submit(job, Path("runs/a"), Path.cwd())
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hpt_megatron.cluster.code_version import code_version
from hpt_megatron.cluster.job import JOB, RUN, SCRIPT, Job, Point
from hpt_megatron.cluster.sbatch import sbatch
from hpt_megatron.cluster.script import script
from hpt_megatron.config.cluster import ClusterConfig, check_room, nodes_of
from hpt_megatron.config.problem import Problem
from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import UserError

SUBMITTED = "submitted_"


@dataclass(frozen=True)
class Submission:
    """A job, what its files hold, and where they go."""

    job: Job
    folder: Path
    here: Path
    runs: Sequence[RunConfig] = ()
    concurrent: int = 0
    after: str = ""

    def text(self) -> str:
        """The script."""
        return script(self.job, self.folder, self.here, self.concurrent, self.after)

    def write(self) -> Path:
        """Its files; answers the script's."""
        self.folder.mkdir(parents=True)
        for run, point in zip(self.runs, self.job.points, strict=bool(self.runs)):
            path = Path(point.arguments[-1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(run), indent=1) + "\n", encoding="utf-8")
        self.job.write(self.folder / JOB)
        path = self.folder / SCRIPT
        path.write_text(self.text(), encoding="utf-8")
        path.chmod(0o755)
        return path

    def submit(self) -> str:
        """Into the queue; answers the number. Where SLURM refuses it, nothing of it is left."""
        path = self.write()
        try:
            number = sbatch(path)
        except UserError:
            shutil.rmtree(self.folder)  # made a moment ago
            if not any(self.folder.parent.iterdir()):
                self.folder.parent.rmdir()
            raise
        (self.folder / "number").write_text(number + "\n", encoding="utf-8")
        return number


def next_folder(folder: Path) -> Path:
    """Where the files of another submission go."""
    number = 1
    while (folder / f"{SUBMITTED}{number}").exists():
        number += 1
    return folder / f"{SUBMITTED}{number}"


def of_run(run: RunConfig, cluster: ClusterConfig, here: Path, after: str = "") -> Submission:
    """One run on the nodes that it takes."""
    folder = (here / run.trainer.run_dir).absolute()
    run = replace(run, trainer=replace(run.trainer, run_dir=str(folder)))
    submitted = next_folder(folder)
    job = Job(
        name=f"hpt-{folder.name}",
        points=(Point(folder, ("train", "--recorded", str(submitted / RUN))),),
        nodes=cluster.nodes or nodes_of(cluster, run),
        slots=run.trainer.n_gpus_per_node,
        devices=0 if run.trainer.placement == "host" else run.trainer.n_gpus_per_node,
        trains=True,
        cluster=cluster,
        code=code_version(),
    )
    return Submission(job, submitted, here, (run,), after=after)


def of_command(
    verb: str, arguments: Sequence[str], folder: Path, devices: int, cluster: ClusterConfig, here: Path
) -> Submission:
    """Any other verb, on one node."""
    job = Job(
        name=f"hpt-{folder.name}",
        points=(Point(folder, (verb, *arguments)),),
        nodes=1,
        slots=1,
        devices=devices,
        trains=False,
        cluster=replace(cluster, rollout_nodes=0),
        code=code_version(),
    )
    return Submission(job, next_folder(folder), here)


def problems_of(run: RunConfig, cluster: ClusterConfig) -> list[Problem]:
    """What the rules of a run alone do not see."""
    from hpt_megatron.planning import answer
    from hpt_megatron.rewards import build

    return [*check_room(cluster, run), *build.problems_of(run), *answer.problems_of(run)]
