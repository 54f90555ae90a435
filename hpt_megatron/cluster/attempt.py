"""One start of a job: where it writes, what it began with, and what came of it.

    RUN/attempt_0/begun.json     job, restart, token, the newest checkpoint that it found
    RUN/attempt_0/node_1.json    what a node said last (`meeting.py`)
    RUN/attempt_0/result.json    what came of it, exit codes of all nodes, what happens next

Example: attempt = begin(job, os.environ); ...; print(end(job, attempt, step_code=0))
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpt_megatron.cluster.job import Job
from hpt_megatron.cluster.meeting import heard
from hpt_megatron.cluster.verdict import Facts, Verdict, judge
from hpt_megatron.driver.loop.checkpoints import Checkpoints

BEGUN, RESULT = "begun.json", "result.json"
CHECKPOINTS = "checkpoints"


def begin(job: Job, environment: Mapping[str, str]) -> Path:
    """The folder of a new attempt."""
    run = job.point(environment).folder
    number = len(attempts(run))
    while True:
        folder = run / f"attempt_{number}"
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
    restart = environment.get("SLURM_RESTART_COUNT", "0")
    told = {
        "job": environment.get("SLURM_JOB_ID", "none"),
        "restart": int(restart),
        "token": f"{environment.get('SLURM_JOB_ID', 'none')}.{restart}.{number}",
        "checkpoint": newest(run),
        "nodes": environment.get("SLURM_JOB_NODELIST", ""),
        "at": time.time(),
    }
    (folder / BEGUN).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return folder


def attempts(run: Path) -> list[Path]:
    """In order."""
    found = [path for path in run.glob("attempt_*") if path.name[8:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[8:]))


def begun(attempt: Path) -> dict[str, Any]:
    """What it began with; nothing where it did not get so far."""
    try:
        told: dict[str, Any] = json.loads((attempt / BEGUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told


def result(attempt: Path) -> dict[str, Any]:
    """What came of it; nothing while it is at work, and where it was cut off."""
    try:
        told: dict[str, Any] = json.loads((attempt / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told


def newest(run: Path) -> int | None:
    """The step of the newest checkpoint."""
    return next(iter(Checkpoints(run / CHECKPOINTS, 1).steps()), None)


def fruitless(run: Path) -> int:
    """How many of the last attempts, one after the other, left no newer checkpoint than they found."""
    found = [begun(attempt).get("checkpoint") for attempt in attempts(run)]
    count, after = 0, newest(run)
    for before in reversed(found):
        if (after or 0) > (before or 0):
            break
        count, after = count + 1, before
    return count


def end(job: Job, attempt: Path, step_code: int) -> Verdict:
    """Judges an attempt and writes it down."""
    run = attempt.parent
    said = heard(attempt)
    first = said.get(0, {})
    code = first.get("code") if first.get("state") == "ended" else None
    unhealthy = sorted(str(each["node"]) for each in said.values() if each["state"] == "unhealthy")
    facts = Facts(code=code, unhealthy=unhealthy, fruitless=fruitless(run), trains=job.trains)
    verdict = judge(facts, job.cluster.fruitless, job.cluster.requeue_on_failure)
    if verdict.kept_out:
        before = [str(name) for each in attempts(run) for name in result(each).get("kept_out", ())]
        own = [job.cluster.exclude] if job.cluster.exclude else []
        every = tuple(dict.fromkeys([*own, *before, *verdict.kept_out]))
        verdict = Verdict(verdict.again, verdict.code, every, verdict.why)
    told = {
        "again": verdict.again,
        "code": verdict.code,
        "why": verdict.why,
        "kept_out": list(verdict.kept_out),
        "checkpoint": newest(run),
        "step_code": step_code,
        "nodes": [said[rank] for rank in sorted(said)],
        "at": time.time(),
    }
    (attempt / RESULT).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    (attempt / "ray_token").unlink(missing_ok=True)
    return verdict
