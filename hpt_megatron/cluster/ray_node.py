"""This node's part of the job's Ray cluster: Ray's own processes, started, watched and ended by the node that has them.

Invariants
    1. Every port is one of the job's block on this host, no dashboard is open, and who has not the job's token is
       refused. What Ray does not let us bind to the job's own network alone is guarded by the token.
    2. SIGTERM and SIGUSR1 do not reach Ray: SLURM signals every process of a step, and a run needs its actors to save.
    3. Only processes below the one that was started here are ended.

Example: node = RayNode(place, folder, log); node.start("head"); node.wait(60, lambda: ""); node.end()
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from hpt_megatron.errors import HptError

STARTER = "hpt_megatron.driver.ray.node_process"
STARTED, SLOW = "Ray runtime started", "timed out during startup"
TRIES = 3
"""Ray gives its own processes half a minute to come up, which on a busy host is not always enough."""
SHIELDED = {signal.SIGTERM, signal.SIGUSR1}
WORKERS = 100
"""Ports of the block that are Ray's workers'; those behind them are for process groups and weights."""
KEPT_BYTES = 20 << 20
"""A log file of Ray larger than that is not brought home."""


@dataclass(frozen=True)
class Place:
    """Where Ray stands on this node."""

    host: str
    ports: range
    token: Path
    store_mb: int
    resources: Mapping[str, float]
    cpus: int
    gpus: int

    @property
    def address(self) -> str:
        """Of the head, if this is it."""
        return f"{self.host}:{self.ports[0]}"

    @property
    def others(self) -> str:
        """Ports that are not Ray's, for `HPT_PORTS`."""
        return f"{self.ports[10 + WORKERS]}-{self.ports[-1]}"


class RayNode:
    """See the module."""

    def __init__(self, place: Place, folder: Path, log: Path) -> None:
        self.place, self.folder, self.log = place, folder, log
        self.process: subprocess.Popen[bytes] | None = None
        self.again: Callable[[], None] = lambda: None
        self.tries = TRIES

    def start(self, head: str | None, environment: Mapping[str, str]) -> None:
        """As the head, or beside the head at this address."""
        self.again = lambda: self.start(head, environment)
        self.tries -= 1
        place, ports = self.place, self.place.ports
        command = [sys.executable, "-m", STARTER, "start", "--block", f"--node-ip-address={place.host}"]
        if head is None:
            command += ["--head", f"--port={ports[0]}", "--include-dashboard=false", f"--temp-dir={self.folder}"]
        else:
            command += [f"--address={head}"]
        command += [
            f"--node-manager-port={ports[1]}",
            f"--object-manager-port={ports[2]}",
            f"--runtime-env-agent-port={ports[3]}",
            f"--dashboard-agent-grpc-port={ports[4]}",
            f"--dashboard-agent-listen-port={ports[5]}",
            f"--metrics-export-port={ports[6]}",
            f"--min-worker-port={ports[10]}",
            f"--max-worker-port={ports[10 + WORKERS - 1]}",
            f"--num-cpus={place.cpus}",
            f"--num-gpus={place.gpus}",
            f"--object-store-memory={place.store_mb << 20}",
            f"--resources={json.dumps(dict(place.resources))}",
            "--disable-usage-stats",
        ]
        with self.log.open("wb") as log:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
            try:  # a mask is inherited, whatever handlers Ray installs
                self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def wait(self, patience_s: float, over: Callable[[], str]) -> None:
        """Until it runs."""
        until = time.monotonic() + patience_s
        while STARTED not in self.log.read_text(encoding="utf-8", errors="replace"):
            if SLOW in self.log.read_text(encoding="utf-8", errors="replace") and self.tries and not over():
                self.end()
                self.again()
            if why := self.died() or over():
                raise HptError(f"did not start: {why}", where="ray", mend=f"look at {self.log}")
            if time.monotonic() > until:
                raise HptError(f"did not start in {patience_s:.0f} s", where="ray", mend=f"look at {self.log}")
            time.sleep(0.2)

    def died(self) -> str:
        """Why it does not run any more; nothing while it does."""
        if self.process is None or self.process.poll() is None:
            return ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        why = [line for line in said if "Error" in line or "Exception:" in line]
        told = next(reversed(why or said), "it said nothing")
        return f"Ray ended with exit code {self.process.returncode}: {told}"

    def end(self) -> None:
        """All of it, and what it started."""
        if self.process is None:
            return
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.process.pid).children(recursive=True)
            for each in below:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            psutil.wait_procs(below, timeout=10)
        self.process.kill()
        self.process.wait()

    def bring_logs(self, to: Path) -> None:
        """What Ray wrote on this node, for whoever wants to know later."""
        for path in (self.folder / "session_latest" / "logs").glob("*"):
            with suppress(OSError):  # emulated nodes share a host, and each tidies up
                if path.is_file() and 0 < path.stat().st_size <= KEPT_BYTES:
                    to.mkdir(exist_ok=True)
                    shutil.copy(path, to)
