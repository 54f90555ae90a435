"""SLURM's own command, as far as it is asked here.

Example: number = sbatch(Path("runs/a/submitted_1/job.sbatch"))
"""

import os
import shutil
import subprocess
from pathlib import Path

from hpt_megatron.errors import HptError, UserError

PATIENCE_S = 60


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


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HptError(f"does not answer ({type(error).__name__})", where=command[0]) from error
