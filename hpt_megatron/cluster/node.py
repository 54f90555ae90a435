"""What each node of a job does, from its health to its end; the first one also starts what the job is for.

    health    every node looks at itself; one that is not healthy ends the attempt before anything is started
    ray       the first node starts Ray's head, the others join it, and all wait until all are there
    run       the first node runs `hpt ...`; the others keep their part of Ray alive and wait for its end
    end       everybody ends what they started

A file `ATTEMPT/stop`, SIGTERM and SIGUSR1 all mean: save and end.

Invariants
    1. When one node ends, all do: each looks at what the others said last.
    2. Every phase is one line with the seconds since the node began.

Example: sys.exit(Node(job, attempt, os.environ).run())
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpt_megatron.cluster import health
from hpt_megatron.cluster.attempt import begun
from hpt_megatron.cluster.code_version import code_version
from hpt_megatron.cluster.job import Job
from hpt_megatron.cluster.meeting import LAST, POLL_S, STOP, Meeting
from hpt_megatron.cluster.ray_node import Place, RayNode
from hpt_megatron.cluster.verdict import STOPPED
from hpt_megatron.config.cluster import ROLLOUT, TRAINER
from hpt_megatron.driver.loop.fence import PATIENCE, TOKEN
from hpt_megatron.errors import HptError
from hpt_megatron.host.network import address_of, interface_of
from hpt_megatron.host.ports import OURS, block

RAY_TOKEN = "ray_token"


class Node:
    """See the module."""

    def __init__(self, job: Job, attempt: Path, environment: Mapping[str, str]) -> None:
        self.job, self.attempt, self.environment = job, attempt, environment
        self.rank = int(environment.get("SLURM_PROCID", "0"))
        self.name = environment.get("SLURMD_NODENAME", "node")
        self.began, self.asked = time.monotonic(), ""
        self.meeting = Meeting(attempt, self.rank, job.all_nodes, {"node": self.name})
        self.ray: RayNode | None = None

    def run(self) -> int:
        """From health to the end; answers the exit code of this node's task."""
        before = {each: signal.signal(each, self._ask) for each in (signal.SIGTERM, signal.SIGUSR1)}
        try:
            return self._work() if self._healthy() else 0
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = signal.Signals(number).name

    def tell(self, text: str) -> None:
        """To whoever follows the log of the job."""
        sys.stdout.write(f"[{self.name} {time.monotonic() - self.began:6.1f} s] {text}\n")
        sys.stdout.flush()

    def _healthy(self) -> bool:
        """Said to the others either way."""
        health.raise_limits()
        if wrong := health.problems(self.job.cluster, self.job.devices):
            self.tell(f"not healthy: {'; '.join(wrong)}")
            self.meeting.say("unhealthy", why="; ".join(wrong))
            return False
        self.tell("healthy")
        self.meeting.say("healthy")
        return True

    def _work(self) -> int:
        deadline = time.monotonic() + self.job.cluster.ready_s
        why = self.meeting.wait(deadline, lambda said: len(said) == self.job.all_nodes, self._asked)
        if why:
            return self._end(self._code(), why)
        try:
            with self._ray(deadline) as environment:
                code, why = self._drive(environment) if self.rank == 0 else self._follow()
        except HptError as error:
            code, why = self._code(), str(error)
        return self._end(code, why)

    def _end(self, code: int, why: str) -> int:
        self.tell(f"ends with {code}{f': {why}' if why else ''}")
        self.meeting.say("ended" if code in (0, STOPPED) or self.rank == 0 else "failed", code=code, why=why)
        return 0 if self.rank == 0 else code  # the first node's code is in what it said, and no reason to kill others

    def _asked(self) -> str:
        if (self.attempt / STOP).exists():
            self.asked = self.asked or "the time limit"
        return f"asked to stop by {self.asked}" if self.asked else ""

    def _code(self) -> int:
        """Of an attempt that did not come to its run; SLURM also signals those whose neighbour failed."""
        return STOPPED if self._asked() and not self._others() else 1

    @contextmanager
    def _ray(self, deadline: float) -> Iterator[dict[str, str]]:
        """Ray on all nodes; answers what the run finds it by."""
        if not self.job.trains:
            yield {}
            return
        host = address_of(self.job.cluster.interface)
        scratch = Path(tempfile.mkdtemp(prefix="hpt-", dir=self.job.cluster.scratch))
        with block(host, start_with=int(self.environment.get("SLURM_JOB_ID", "0")) + self.rank) as ports:
            place = self._place(host, ports)
            given = self._environment(place)
            self.ray = RayNode(place, scratch, self.attempt / f"ray_{self.rank}.log")
            try:
                head = self._head(deadline)
                if head is not None:
                    self.ray.folder = Path(self.meeting.heard()[0]["scratch"])  # Ray has one name for it on all nodes
                self.ray.start(head, given)
                self.ray.wait(max(1.0, deadline - time.monotonic()), lambda: self._asked() or self._others())
                self.tell(f"ray runs on {host}, ports {ports[0]} to {ports[-1]}")
                facts = {"address": place.address, "scratch": str(scratch), "resources": sorted(place.resources)}
                self.meeting.say("ready", **facts)
                if why := self.meeting.wait(deadline, lambda said: _all(said, self.job.all_nodes), self._over):
                    raise HptError(why)
                yield given | {"RAY_ADDRESS": head or place.address}
            finally:
                self.ray.end()
                self.ray.bring_logs(self.attempt / f"ray_{self.rank}")
                for folder in {scratch, self.ray.folder}:
                    shutil.rmtree(folder, ignore_errors=True)

    def _head(self, deadline: float) -> str | None:
        """The address of the head, once it runs; None for the head itself."""
        if self.rank == 0:
            token = self.attempt / RAY_TOKEN
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32), encoding="ascii")
            return None
        why = self.meeting.wait(deadline, lambda said: said.get(0, {}).get("state") == "ready", self._asked)
        if why:
            raise HptError(why)
        return str(self.meeting.heard()[0]["address"])

    def _place(self, host: str, ports: range) -> Place:
        job = self.job
        apart = bool(job.cluster.rollout_nodes)
        trains = self.rank < job.nodes
        roles = [TRAINER] * trains + [ROLLOUT] * (not (apart and trains))
        cpus = int(self.environment.get("SLURM_CPUS_ON_NODE", "1"))
        return Place(
            host=host,
            ports=ports,
            token=self.attempt / RAY_TOKEN,
            store_mb=job.cluster.object_store_mb,
            resources=dict.fromkeys(roles, float(job.slots)),
            cpus=max(cpus, 2 * job.slots),
            gpus=job.devices,
        )

    def _environment(self, place: Place) -> dict[str, str]:
        interface = self.job.cluster.interface or interface_of(place.host)
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(place.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_enable_metrics_collection": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # a run without a job has it off: `driver/ray/__init__.py`
            "VLLM_HOST_IP": place.host,
            OURS: place.others,
            TOKEN: str(begun(self.attempt)["token"]),
            PATIENCE: str(self.job.cluster.ready_s),
            **({"GLOO_SOCKET_IFNAME": interface} if interface else {}),
        }

    def _over(self) -> str:
        return self._asked() or (self.ray.died() if self.ray else "")

    def _drive(self, environment: Mapping[str, str]) -> tuple[int, str]:
        """The run itself; it saves when it is asked to stop, and ends where a node ended."""
        point = self.job.point(self.environment)
        command = [sys.executable, "-m", "hpt_megatron", *point.arguments]
        if (now := code_version()) != dict(self.job.code):
            self.tell(f"the code is not the one that was submitted: {dict(self.job.code)} then, {now} now")
        self.tell(f"hpt {' '.join(point.arguments)}")
        self.meeting.say("running")
        driver = subprocess.Popen(command, env={**os.environ, **environment})
        told, why = False, ""
        while driver.poll() is None:
            if not told and self._asked():
                self.tell(f"{self._asked()}; the run saves and ends")
                driver.send_signal(signal.SIGUSR1)
                told = True
            why = (self.ray.died() if self.ray else "") or self._others()
            if why:
                driver.kill()
            time.sleep(POLL_S)
        return (1 if why else driver.returncode), why

    def _others(self) -> str:
        over = [each for rank, each in self.meeting.heard().items() if rank != self.rank and each["state"] in LAST]
        return "; ".join(f"{each['node']} {each['state']}: {each.get('why', '')}" for each in over)

    def _follow(self) -> tuple[int, str]:
        """Until the first node has ended."""
        while True:
            if self.meeting.heard().get(0, {}).get("state") in LAST:
                return 0, ""
            if self.ray is not None and (why := self.ray.died()):
                return 1, why
            time.sleep(POLL_S)


def _all(said: dict[int, dict[str, Any]], nodes: int) -> bool:
    return len(said) == nodes and all(each["state"] in ("ready", "running") for each in said.values())
