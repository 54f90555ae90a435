"""Processes that score what may hang, die or eat memory: a pool of fixed size, each member killed and replaced on need.

    with Workers([component], size=2) as workers:
        workers.score(component, sample)          # from any thread; waits for a free worker

Decision: a thread cannot be ended, and the time limits of the packages that compute work in a main thread alone. So
what computes runs in a process that this one started: its memory and processor time are limited by the operating
system, the clock on the wall is kept here, and what is late is killed by its id. Nothing is pickled
(`worker_process.py`).

Invariants
    1. Every question gets an answer or a `ComponentError` within its time and the time to start one process.
    2. One late or dead worker takes no other question with it, and the pool keeps its size.
    3. A worker has loaded and tested its components before its first sample; none serves more than `jobs` samples.
    4. A sample that uses up the time or the memory of a worker which had tested itself is a wrong answer, flagged. Any
       other end of a worker is a failure.
    5. A worker inherits no variable of the environment but those in `KEPT`, so no credential.

Example:
    >>> from hpt_megatron.rewards.text import ExactMatch
    >>> with Workers([ExactMatch()], size=1) as workers:
    ...     workers.score(ExactMatch(), Sample(turns=(), answer="4", golds=("4",))).score
    1.0
"""

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.errors import UserError
from hpt_megatron.rewards.component import Component, ComponentError, Result, Sample

KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "TMPDIR")
ROOT = str(Path(__file__).resolve().parents[2])
LONGEST_REPLY = 1 << 20  # bytes
LONGEST_MESSAGE = 300
# How a process ends that used up its processor time, its memory or its stack; a kill from outside is none of them.
USED_UP = (-signal.SIGXCPU, -signal.SIGABRT, -signal.SIGSEGV)


class ExhaustedError(ComponentError):
    """A worker that had tested itself used up its time or its memory on this sample."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a worker is allowed."""

    seconds: float = 5.0  # on the wall, for one sample
    memory_mb: int = 1024
    jobs: int = 2000  # samples before it is replaced by a fresh one
    start_seconds: float = 60.0  # to import, load and test


def described(component: Component) -> dict[str, Any]:
    """A component as JSON: its class, by its module, and its settings."""
    kind = type(component)
    where = f"{kind.__module__}:{kind.__qualname__}"
    try:
        settings = json.loads(json.dumps(asdict(component))) if is_dataclass(component) else None
    except (TypeError, ValueError):
        settings = None
    if settings is None or "." in kind.__qualname__ or kind.__module__ == "__main__":
        mend = 'a dataclass of a module, with settings that JSON has; or place = "here" in its class'
        raise UserError(f"{where} cannot be sent to a process", where="reward", mend=mend)
    return {"component": where, "settings": settings}


class _Worker:
    """One process, from its start to its end."""

    def __init__(self, limits: Limits) -> None:
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join([ROOT, *(path for path in sys.path if path)])
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hpt_megatron.rewards.worker_process", str(limits.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C at a terminal is for the parent to handle
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.questions, self.answers = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.questions, False)
        self.ready = False
        self.jobs = 0

    def ask(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        """One line there and one back, or a `ComponentError` that says how the process was lost."""
        deadline = time.monotonic() + seconds
        rest = memoryview(json.dumps(job).encode("ascii") + b"\n")
        try:
            while rest:
                _wait(self.questions, select.POLLOUT, deadline)
                rest = rest[os.write(self.questions, rest) :]
        except BrokenPipeError:
            raise self._died() from None
        received = b""
        while not received.endswith(b"\n"):
            _wait(self.answers, select.POLLIN, deadline)
            part = os.read(self.answers, 65536)
            if not part:
                raise self._died()
            received += part
            if len(received) > LONGEST_REPLY:
                raise ComponentError("worker_reply", "the reply is too long")
        try:
            reply: dict[str, Any] = json.loads(received)
        except ValueError:
            raise ComponentError("worker_reply", "the reply is not one line of JSON") from None
        return reply

    def _died(self) -> ComponentError:
        try:
            code = self.process.wait(1)
            return (ExhaustedError if code in USED_UP else ComponentError)("worker_died", f"exit code {code}")
        except subprocess.TimeoutExpired:
            return ComponentError("worker_died", "its pipes are closed")

    def kill(self) -> None:
        """Killed by its id and waited for; who asks it at this moment reads the end of the pipe."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Killed, with nothing of it left; by who holds the worker alone, for a closed descriptor is another's next."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def _wait(descriptor: int, what: int, deadline: float) -> None:
    poller = select.poll()
    poller.register(descriptor, what)
    if not poller.poll(max(deadline - time.monotonic(), 0) * 1000):
        raise ExhaustedError("timeout", "killed after its time was up")


class Workers:
    """The pool; its methods may be called from many threads."""

    def __init__(self, components: Sequence[Component], size: int, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.size = size
        self.replaced = 0
        self._loads = [described(component) for component in components]
        self._closed = False
        self._lock = threading.Lock()
        self._members: set[_Worker] = set()
        self._free: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for _ in range(size):
            self._free.put(self._started())

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def ids(self) -> list[int]:
        """The process ids of the members."""
        with self._lock:
            return [worker.process.pid for worker in self._members]

    def check(self) -> None:
        """Waits until one worker has loaded and tested everything; a component that cannot is refused here."""
        worker = self._free.get()
        try:
            self._prepare(worker)
        except ComponentError as error:
            self.close()
            raise UserError(f"a worker of the rewards does not start ({error.flag}: {error})", where="reward") from None
        finally:
            self._free.put(worker)

    def score(self, component: Component, sample: Sample) -> Result:
        """By the next free worker; waiting for one does not count as time of the sample."""
        load = described(component)
        job = {**load, "sample": asdict(sample), "seconds": self.limits.seconds}
        worker = self._free.get()
        try:
            try:
                self._prepare(worker)
                worker.ask(load, self.limits.start_seconds)
            except ComponentError:  # it died while it was idle, which is no fault of this sample
                worker = self._replacement(worker)
                self._start(worker)
            worker.jobs += 1
            reply = worker.ask(job, self.limits.seconds)
            if reply.get("ends") or worker.jobs >= self.limits.jobs:
                worker = self._replacement(worker)
        except ComponentError:
            worker = self._replacement(worker)
            raise
        finally:
            self._free.put(worker)
        if "failure" in reply:
            raise (ExhaustedError if reply.get("ends") else ComponentError)(reply["failure"], reply["what"])
        return Result(reply["score"], tuple(reply["flags"]), reply["details"], reply["valid"], tuple(reply["turns"]))

    def close(self) -> None:
        """Ends every member; what waits for one is answered with a failure."""
        with self._lock:
            self._closed = True
            members, self._members = self._members, set()
        for worker in members:
            worker.kill()

    def _started(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise ComponentError("closed", "the pool is closed")
            worker = _Worker(self.limits)
            self._members.add(worker)
        return worker

    def _prepare(self, worker: _Worker) -> None:
        if worker.ready:
            return
        for load in self._loads:
            reply = worker.ask(load, self.limits.start_seconds)
            if "failure" in reply:
                raise ComponentError(reply["failure"], reply["what"])
        worker.ready = True

    def _start(self, worker: _Worker) -> None:
        try:
            self._prepare(worker)
        except ExhaustedError as error:  # before it was ready, so no sample is to blame
            raise ComponentError(error.flag, str(error)) from None

    def _replacement(self, worker: _Worker) -> _Worker:
        """Another process in its place, already starting; none where the pool is closed."""
        worker.kill()
        with self._lock:
            self._members.discard(worker)
        fresh = self._started()
        worker.end()
        self.replaced += 1
        return fresh


@dataclass(frozen=True)
class InWorker:
    """A component as it stands in a composition once it runs in a pool.

    What takes all time or memory is a wrong answer: its score is the component's `wrong`, else 0, and its row is valid.
    Otherwise a policy could have the rows left out that it is about to lose.
    """

    component: Component
    workers: Workers

    def score(self, sample: Sample) -> Result:
        """What the component says there; here, where it knows a short way (`at_once`)."""
        look = getattr(self.component, "at_once", None)
        found: Result | None = look(sample) if look is not None else None
        if found is not None:
            return found
        try:
            return self.workers.score(self.component, sample)
        except ExhaustedError as error:
            score = float(getattr(self.component, "wrong", 0.0))
            return Result(score, (error.flag,), {"worker": str(error)[:LONGEST_MESSAGE]})
