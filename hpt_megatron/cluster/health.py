"""Whether a node can take part, asked before anything is started on it.

    scratch      is there, can be written, and has room
    GPUs         as many as the run uses, without memory errors that could not be corrected
    a program    of the site (`cluster.health_command`), where there is one

Example: problems(job.cluster, devices=8)
"""

import resource
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

from hpt_megatron.config.cluster import ClusterConfig
from hpt_megatron.host.facts import GIB

PATIENCE_S = 120
OPEN_FILES = 65535


def problems(cluster: ClusterConfig, devices: int) -> list[str]:
    """Everything that keeps this node out."""
    return [*_scratch(cluster), *(_gpus(devices) if devices else ()), *_own(cluster)]


def raise_limits() -> None:
    """As many open files as this user may have: Ray and the engines have thousands of connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _scratch(cluster: ClusterConfig) -> Iterator[str]:
    try:
        with tempfile.NamedTemporaryFile(dir=cluster.scratch):
            free = shutil.disk_usage(cluster.scratch).free / GIB
    except OSError as error:
        yield f"{cluster.scratch} cannot be written ({error.strerror})"
        return
    if free < cluster.scratch_gb:
        yield f"{cluster.scratch} has {free:.1f} GiB free, {cluster.scratch_gb} are needed"


def _gpus(devices: int) -> Iterator[str]:
    asked = ["nvidia-smi", "--query-gpu=index,ecc.errors.uncorrected.volatile.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield f"nvidia-smi does not answer ({type(error).__name__})"
        return
    lines = [line.split(",") for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or len(lines) < devices:
        yield f"nvidia-smi shows {len(lines)} GPUs of {devices}, exit code {done.returncode}"
    for index, errors in (each for each in lines if len(each) == 2):
        if errors.strip().isdecimal() and int(errors) > 0:
            yield f"GPU {index.strip()} has {errors.strip()} memory errors that could not be corrected"


def _own(cluster: ClusterConfig) -> Iterator[str]:
    if cluster.health_command is None:
        return
    command = shlex.split(cluster.health_command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield f"{command[0]} does not answer ({type(error).__name__})"
        return
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        yield f"{command[0]} says no, with exit code {done.returncode}{': ' + said[-1].strip() if said else ''}"
