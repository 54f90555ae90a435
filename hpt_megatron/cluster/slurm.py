"""SLURM's own commands, as far as they are asked here; their text forms, which every version since 22.05 shares.

Example: number = sbatch(Path("runs/a/submitted_1/job.sbatch")); state(number)
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from hpt_megatron.errors import HptError, UserError

PATIENCE_S = 60
FINISHED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "TIMEOUT"),
}
"""States that a job does not leave. One that is missing from `squeue` may still be on its way back into the queue."""


def sbatch(script: Path) -> str:
    """Submits; answers the number of the job."""
    if shutil.which("sbatch") is None:
        mend = "submit from a login node, or look at the script with --dry-run"
        raise UserError("this host has no sbatch", where="hpt submit", mend=mend)
    # A job that submits another one would hand over what SLURM told itself.
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_JOB", "SBATCH_"))}
    done = _run(["sbatch", "--parsable", str(script)], outside)
    if done.returncode:
        said = " ".join(line.removeprefix("sbatch: error: ") for line in done.stderr.splitlines() if line.strip())
        raise UserError(f"SLURM refused the job: {said}", where=str(script), mend="mend the profile, or the run")
    return done.stdout.strip().partition(";")[0]


def states(number: str) -> dict[str, str]:
    """State by job, or by task of an array (`12_0`); empty where SLURM has forgotten it."""
    done = _run(["scontrol", "show", "job", "--oneliner", number])
    found = {}
    for line in done.stdout.splitlines():
        facts = dict(re.findall(r"(\w+)=(\S+)", line))
        if "JobState" in facts:
            array, task = facts.get("ArrayJobId"), facts.get("ArrayTaskId")
            name = f"{array}_{task}" if array and task else facts["JobId"]
            found[name] = facts["JobState"]
    return found


def _run(command: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HptError(f"does not answer ({type(error).__name__})", where=command[0]) from error
