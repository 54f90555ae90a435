"""Which code a job was submitted with, so that one that comes to its turn with another says so.

Example: code_version() == {"version": "0.1.0", "commit": "3f2a...", "changed": False}
"""

import subprocess
from pathlib import Path
from typing import Any

from hpt_megatron import __version__


def code_version() -> dict[str, Any]:
    """The version, and of a checkout the commit and whether it was changed since."""
    told: dict[str, Any] = {"version": __version__}
    here = Path(__file__).resolve().parent
    for name, asked in (("commit", ["rev-parse", "HEAD"]), ("changed", ["status", "--porcelain", "--", str(here)])):
        try:
            done = subprocess.run(["git", *asked], cwd=here, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return told
        if done.returncode == 0:
            told[name] = done.stdout.strip() if name == "commit" else bool(done.stdout.strip())
    return told
