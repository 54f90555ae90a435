"""Several runs as processes, so many at a time; each is the command that a user would give.

Invariants
    1. One that fails ends nobody else.
    2. When this ends early, whoever is still at work is asked to save and to end.

Example: failed = run_all([Job(Path("runs/a"), ["experiment=tiny-hpt", "trainer.run_dir=runs/a"])], 2, sys.stdout)
"""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

TOLD_LINES = 3


@dataclass(frozen=True)
class Job:
    """One run, and what its command was given."""

    folder: Path
    given: Sequence[str]

    @property
    def said(self) -> Path:
        """What the command said, beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.txt")


def run_all(jobs: Sequence[Job], at_once: int, shown: TextIO) -> list[Path]:
    """Answers the folders of those that failed."""
    started: list[subprocess.Popen[bytes]] = []
    with ThreadPoolExecutor(at_once) as threads:
        try:
            return _failed(zip(jobs, threads.map(lambda job: _run(job, started), jobs), strict=True), shown)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in started:
                process.terminate()  # one that has ended is left alone
            raise


def _failed(done: Iterable[tuple[Job, int]], shown: TextIO) -> list[Path]:
    failed = []
    for job, code in done:
        shown.write(f"{job.folder.parent.name}/{job.folder.name}: exit code {code}\n")
        if code:
            failed.append(job.folder)
            shown.writelines(job.said.read_text(encoding="utf-8").splitlines(keepends=True)[-TOLD_LINES:])
        shown.flush()
    return failed


def _run(job: Job, started: list[subprocess.Popen[bytes]]) -> int:
    """One run to its end. Its own lines go to a file beside its folder."""
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "hpt_megatron", "train", *job.given]
    with job.said.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        started.append(process)
        return process.wait()
