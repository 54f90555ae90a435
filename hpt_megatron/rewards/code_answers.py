r"""Answers that are programs: run apart, and what they print compared with the gold.

Decision: off unless `reward.run_code` says so. Each program runs once, in a folder of its own that is deleted after it,
by `python -I` with an empty environment, as a process of a new session whose memory, processor time, number of
processes and written bytes are limited. Where the kernel lets us (`isolation`), it also has network, process and IPC
namespaces of its own, so it reaches no host, sees no other process, and nothing of it outlives it. Root becomes nobody
first, with a Python that nobody may run; without one nothing is run.

Where namespaces are missing, the process group is killed, which a program that starts a session of its own escapes, and
the network is open. It can read what the user of this process can read in either case. So this keeps mistakes and
simple cheating away; for code that is hostile give a container to the whole run.

The gold is the output. A gold that is a test in the same process could be passed by `os._exit(0)`.

Invariants
    1. It is over after `seconds` on the wall; only processes of its own group and namespace are killed.
    2. A program that fails, hangs or prints too much is a wrong answer. A sandbox that cannot be set up is a failure.
    3. At most `most_output` bytes are read; the rest is not kept.

Example:
    >>> program("text\n```python\nprint(6 * 7)\n```\n")
    'print(6 * 7)'
"""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hpt_megatron.errors import UserError
from hpt_megatron.rewards.component import COMPONENTS, NO_ANSWER, NO_GOLD, ComponentError, Result, Sample

FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
LONGEST = 20_000  # characters of a program
MEBIBYTE = 1024 * 1024
NOBODY = 65534
LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT  # whether a process has ended, which stays to be waited for
# Runs in the new process: limits on itself, then the program in its place. Its arguments are numbers and paths of ours.
LAUNCH = """
import os, resource, sys
seconds, memory, written, processes, nobody = map(int, sys.argv[1:6])
for what, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, written),
                   (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_NPROC, processes)):
    resource.setrlimit(what, (most, most))
if nobody:
    os.setgroups([])
    os.setgid(nobody)
    os.setuid(nobody)
os.execve(sys.executable, [sys.executable, "-I", "-S", "-B", sys.argv[6]], {})
"""


def program(text: str) -> str:
    """The last fenced block, or all of the text."""
    blocks = FENCE.findall(text)
    return str(blocks[-1] if blocks else text).strip()


@cache
def isolation() -> tuple[str, ...]:
    """How a process gets namespaces of its own here; empty where it cannot."""
    unshare = shutil.which("unshare")
    own_user = () if os.geteuid() == 0 else ("--user", "--map-current-user")
    spaces = (unshare or "", *own_user, "--net", "--ipc", "--pid", "--fork", "--kill-child")
    # With a /proc of its own a program sees no other process; some kernels allow all but that.
    for command in ((*spaces, "--mount-proc", "--"), (*spaces, "--")):
        try:
            works = unshare and subprocess.run([*command, "true"], capture_output=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if works and works.returncode == 0:
            return command
    return ()


@cache
def interpreter() -> str:
    """The Python that runs programs: ours, or the system's where a nobody may not reach ours."""
    system = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")
    for python in filter(None, (os.path.realpath(sys.executable), system)):
        if Sandbox(seconds=10).run("print(6 * 7)", python).output.strip() == "42":
            return python
    raise ComponentError("sandbox", "no Python here runs inside the sandbox")


@dataclass(frozen=True)
class Ran:
    """What became of a program."""

    output: str
    ended: str  # done, failed, timeout or output


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """The limits of a program."""

    seconds: float = 5.0
    memory_mb: int = 512
    processes: int = 16
    written_mb: int = 16
    most_output: int = 65536

    def run(self, source: str, python: str | None = None) -> Ran:
        """One program, from nothing to nothing."""
        python = python or interpreter()
        with tempfile.TemporaryDirectory(prefix="answer-", ignore_cleanup_errors=True) as folder:
            file = Path(folder, "answer.py")
            try:
                file.write_text(source, encoding="utf-8", errors="replace")
                nobody = NOBODY if os.geteuid() == 0 else 0
                if nobody:
                    os.chown(folder, nobody, nobody)
                    file.chmod(0o444)
                process = self._started(folder, str(file), nobody, python)
            except OSError as error:
                raise ComponentError("sandbox", f"{type(error).__name__}: {error}") from None
            try:
                return self._watched(process)
            finally:
                _kill(process)

    def _started(self, folder: str, file: str, nobody: int, python: str) -> "subprocess.Popen[bytes]":
        sizes = (self.memory_mb * MEBIBYTE, self.written_mb * MEBIBYTE, self.processes, nobody)
        launch = [python, "-I", "-S", "-c", LAUNCH, str(int(self.seconds) + 1), *map(str, sizes), file]
        return subprocess.Popen(
            [*isolation(), *launch],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )

    def _watched(self, process: "subprocess.Popen[bytes]") -> Ran:
        assert process.stdout is not None
        deadline = time.monotonic() + self.seconds
        pipe, received = process.stdout.fileno(), b""
        poller = select.poll()
        poller.register(pipe, select.POLLIN)
        while poller.poll(max(deadline - time.monotonic(), 0) * 1000):
            part = os.read(pipe, 65536)
            received += part
            if len(received) > self.most_output:
                return Ran(received[: self.most_output].decode("utf-8", "replace"), "output")
            if not part:
                break
        output = received.decode("utf-8", "replace")
        while (ended := os.waitid(os.P_PID, process.pid, LOOK)) is None:
            if time.monotonic() > deadline:
                return Ran(output, "timeout")
            time.sleep(0.002)
        return Ran(output, "done" if (ended.si_code, ended.si_status) == (os.CLD_EXITED, 0) else "failed")


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """The group that we started: its leader is ours until it is waited for, so the id cannot be another's."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def printed(text: str) -> str:
    """Output without trailing space on its lines and at its end."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@COMPONENTS.add("code")
@dataclass(frozen=True)
class CodeAnswer:
    """1 where the program ends well and prints a gold."""

    seconds: float = 5.0
    memory_mb: int = 512

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 600:
            raise UserError(f"{self.seconds} s for a program", where="seconds", mend="above 0, at most 600")
        if self.memory_mb < 16:
            raise UserError(f"{self.memory_mb} MiB for a program", where="memory_mb", mend="16 or more")

    def score(self, sample: Sample) -> Result:
        """Runs what the answer, or else the last turn, holds."""
        if not sample.golds:
            return Result(0.0, (NO_GOLD,), valid=False)
        source = program(sample.answer if sample.answer is not None else "\n".join(sample.turns[-1:]))
        if not source:
            return Result(0.0, (NO_ANSWER,))
        if len(source) > LONGEST:
            return Result(0.0, ("too_long",))
        ran = Sandbox(seconds=self.seconds, memory_mb=self.memory_mb).run(source)
        if ran.ended != "done":
            return Result(0.0, (ran.ended,))
        return Result(float(any(printed(ran.output) == printed(gold) for gold in sample.golds)))
