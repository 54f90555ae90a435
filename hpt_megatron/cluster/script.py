"""The text that SLURM gets: `slurm/job.sbatch` with its fields filled.

Invariant: whatever a field holds, it is one word of the shell, or one line that the profile's author wrote as shell
(`cluster.setup`); a path that SLURM would read otherwise than the shell is refused.

Example: text = script(job, Path("runs/a/submitted_1"), Path.cwd())
"""

import shlex
import sys
from pathlib import Path

from hpt_megatron.cluster.job import JOB, Job
from hpt_megatron.config.files import slurm_folder
from hpt_megatron.errors import UserError

TEMPLATE = "job.sbatch"
KEPT = ("HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "USER")
"""What a job has of the environment of whoever submits it. Values stand in no file."""
READ_OTHERWISE = set("%\\\"'\n")


def script(job: Job, submitted: Path, here: Path, concurrent: int = 0, after: str = "") -> str:
    """Filled for a job whose files lie in `submitted`; relative paths of its run are of `here`."""
    cluster = job.cluster
    for path in (submitted, here, *(point.folder for point in job.points)):
        if set(str(path)) & READ_OTHERWISE:
            raise UserError("SLURM reads % and quotes in a path otherwise", where=str(path), mend="rename the folder")
    groups = "--het-group=0,1 " if cluster.rollout_nodes else ""
    first = "--het-group=0 " if cluster.rollout_nodes else ""
    cpus = f" --cpus-per-task={cluster.cpus_per_node}" if cluster.cpus_per_node else ""
    fields = {
        "HEADER": header(job, submitted, concurrent, after),
        "FOLDER": shlex.quote(str(here)),
        "SETUP": "\n".join(cluster.setup) or "# nothing to set up",
        "JOB": shlex.quote(str(submitted / JOB)),
        "ENVIRONMENT": "\n".join(_exports(job)) or "# no variables",
        "STEP": f"{groups}--overlap --export=ALL --cpu-bind=none --kill-on-bad-exit=1{cpus}",
        "FIRST": f"{first}--overlap --export=ALL --cpu-bind=none --nodes=1 --ntasks=1",
        "CONTAINER": container(job, submitted, here),
        "PYTHON": shlex.quote(cluster.python or (sys.executable if cluster.container == "none" else "python3")),
    }
    text = (slurm_folder() / TEMPLATE).read_text(encoding="utf-8")
    for name, value in fields.items():
        text = text.replace(f" @{name}@ ", f" {value} " if value else " ").replace(f"@{name}@", value)
    return text


def header(job: Job, submitted: Path, concurrent: int = 0, after: str = "") -> str:
    """What SLURM reads; a second component where engines have nodes of their own."""
    cluster = job.cluster
    log = "job-%A_%a.log" if len(job.points) > 1 else "job-%j.log"
    common = [
        f'--job-name="{job.name}"',
        f'--output="{submitted.parent / log}"',
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{cluster.signal_s}",
        f"--export={','.join(dict.fromkeys([*KEPT, *cluster.forward]))}",
    ]
    if len(job.points) > 1:
        most = f"%{concurrent}" if concurrent else ""
        common.append(f"--array=0-{len(job.points) - 1}{most}")
    if after:
        common.append(f"--dependency=afterany:{after}")
    if cluster.comment:
        common.append(f'--comment="{cluster.comment}"')
    lines = [*common, *_component(job, job.nodes, cluster.partition)]
    if cluster.rollout_nodes:
        second = _component(job, cluster.rollout_nodes, cluster.rollout_partition or cluster.partition)
        lines += ["hetjob", *second]
    return "\n".join(f"#SBATCH {line}" for line in lines)


def _component(job: Job, nodes: int, partition: str | None) -> list[str]:
    cluster = job.cluster
    lines = [f"--nodes={nodes}", "--ntasks-per-node=1", f"--time={cluster.time}"]
    if partition:
        lines.append(f"--partition={partition}")
    for name in ("account", "qos", "constraint", "reservation", "exclude"):
        if value := getattr(cluster, name):
            lines.append(f"--{name}={value}")
    if cluster.exclusive:
        lines.append("--exclusive")
    if cluster.cpus_per_node:
        lines.append(f"--cpus-per-task={cluster.cpus_per_node}")
    if cluster.memory:
        lines.append(f"--mem={cluster.memory}")
    kind = f"{cluster.gpu_type}:" if cluster.gpu_type else ""
    if job.devices and cluster.gpus == "gpus-per-node":
        lines.append(f"--gpus-per-node={kind}{job.devices}")
    elif job.devices and cluster.gpus == "gres":
        lines.append(f"--gres=gpu:{kind}{job.devices}")
    return lines


def _exports(job: Job) -> list[str]:
    pairs = [text.partition("=") for text in job.cluster.environment]
    return [f"export {name}={shlex.quote(value)}" for name, _, value in pairs]


def container(job: Job, submitted: Path, here: Path) -> str:
    """What starts the image, with every folder that the job needs in it."""
    cluster = job.cluster
    if cluster.container == "none":
        return ""
    own = [submitted.parent, *(point.folder for point in job.points), here, Path(cluster.scratch)]
    mounts = ",".join(dict.fromkeys([*(f"{path}:{path}" for path in own), *cluster.mounts]))
    image = str(cluster.image)
    if cluster.container == "pyxis":
        words = [f"--container-image={image}", f"--container-mounts={mounts}", f"--container-workdir={here}"]
        return shlex.join([*words, "--no-container-mount-home"])
    nv = ["--nv"] if job.devices else []
    return shlex.join(["apptainer", "exec", *nv, "--bind", mounts, "--pwd", str(here), image])
