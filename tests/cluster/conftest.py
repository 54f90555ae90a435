"""One SLURM for all tests of this folder, where its programs are installed (`launch/test.sh` does that when it may)."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_here import Slurm, missing


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Two nodes, idle."""
    if absent := missing():
        pytest.skip(f"no SLURM on this host ({', '.join(absent)}); as root: apt-get install slurm-wlm munge")
    if os.getuid():
        pytest.skip("SLURM's daemons are started by root alone")
    here = Slurm(tmp_path_factory.mktemp("slurm"))
    here.start()
    yield here
    here.stop()


class Site:
    """A folder to submit from, and what is asked in it."""

    def __init__(self, folder: Path, slurm: Slurm) -> None:
        self.folder, self.slurm = folder, slurm

    def hpt(self, *arguments: str, code: int = 0) -> str:
        """What the command says; its exit code is checked."""
        command = [sys.executable, "-m", "hpt_megatron", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=self.slurm.environment, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, *arguments: str) -> str:
        """The number of the job."""
        return self.hpt("submit", *arguments, *PROFILE).split()[1].rstrip(",")

    def log(self, run: str, number: str) -> str:
        """What a job has said."""
        path = self.folder / run / f"job-{number}.log"
        return path.read_text(encoding="utf-8") if path.is_file() else ""


PROFILE = (
    *("cluster.time=00:20:00", "cluster.signal_s=60", "cluster.partition=debug", "cluster.scratch_gb=1"),
    *("cluster.exclusive=false", "cluster.object_store_mb=100", "cluster.memory=1000M"),
)
"""Small jobs, several of which have room on a node."""


@pytest.fixture
def site(tmp_path: Path, slurm: Slurm) -> Site:
    """An empty folder beside the cluster, with a space in its path."""
    folder = tmp_path / "a site"
    folder.mkdir()
    return Site(folder, slurm)
