"""A sweep on a cluster: one job array, a task for each point, so many at a time.

Example: submission = as_array(plan, cluster, Path.cwd(), concurrent=4); submission.submit()
"""

from pathlib import Path

from hpt_megatron.cluster.code_version import code_version
from hpt_megatron.cluster.job import Job, Point
from hpt_megatron.cluster.submission import Submission, next_folder, problems_of
from hpt_megatron.config.cluster import ClusterConfig, nodes_of
from hpt_megatron.config.problem import counted, errors
from hpt_megatron.errors import UserError
from hpt_megatron.sweeps.plan import Plan


def as_array(plan: Plan, cluster: ClusterConfig, here: Path, concurrent: int, after: str = "") -> Submission:
    """Every point on as many nodes as the largest one takes."""
    if cluster.rollout_nodes:
        what, mend = "SLURM has no arrays of heterogeneous jobs", "cluster.rollout_nodes=0, or one `hpt submit` each"
        raise UserError(what, where="cluster.rollout_nodes", mend=mend)
    found = [(point, errors(problems_of(point.run, cluster))) for point in plan.points]
    bad = [f"{' '.join(point.given)}: {problem}" for point, problems in found for problem in problems]
    if bad:
        told = [f"nothing was submitted, for {counted(len(bad), 'error')}:", *bad]
        raise UserError("\n  ".join(told))
    submitted = next_folder(plan.folder)
    runs = tuple(point.run for point in plan.points)
    points = tuple(
        Point(point.folder, ("train", "--recorded", str(submitted / f"{point.name}.json"))) for point in plan.points
    )
    slots = max(run.trainer.n_gpus_per_node for run in runs)
    job = Job(
        name=f"hpt-{plan.folder.name}",
        points=points,
        nodes=cluster.nodes or max(nodes_of(cluster, run) for run in runs),
        slots=slots,
        devices=0 if all(run.trainer.placement == "host" for run in runs) else slots,
        trains=True,
        cluster=cluster,
        code=code_version(),
    )
    return Submission(job, submitted, here, runs, concurrent, after)
