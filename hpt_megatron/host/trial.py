"""Commands tried in child processes, so that a crash or a hang of one is a finding and never the end of the asker.

Invariants:
    1. A trial ends: by itself, or killed with everything that it started when its limit is over or the asker stops.
    2. At most `at_once` trials run at the same time, started in the order given.
    3. Only processes that were started here are ever killed: each trial leads a session of its own, and its number
       is not given back to the kernel before the session was ended.

Example:
    >>> try_all([Trial("greeting", ("echo", "hello"), limit=5.0)])["greeting"].output
    'hello\\n'
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

LINE = 200  # characters of a failure's last line that are kept
PAUSE = 0.02  # seconds between two looks at the children


@dataclass(frozen=True)
class Trial:
    """One command to try, and the seconds that it may take."""

    name: str
    command: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: what it printed, or the problem in one line."""

    output: str
    problem: str
    seconds: float


@dataclass
class Running:
    """A trial under way. Its output goes to files: a pipe that nobody reads would stop the child."""

    trial: Trial
    folder: Path
    started: float = field(default_factory=time.monotonic)
    process: subprocess.Popen[bytes] | None = None
    problem: str = ""

    def start(self) -> None:
        """Starts the child as leader of a session of its own."""
        self.folder.mkdir()
        with open(self.folder / "out", "wb") as out, open(self.folder / "err", "wb") as err:
            try:
                self.process = subprocess.Popen(
                    self.trial.command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
                )
            except OSError as error:
                self.problem = f"cannot be started: {error.strerror}"

    def over(self) -> bool:
        """Whether it ended, by itself or because its time is over."""
        if self.process is None:
            return True
        # Looked at but not reaped: while the leader is a zombie, nobody else can own the number of its session.
        if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        if time.monotonic() - self.started < self.trial.limit:
            return False
        self.problem = f"no end within {self.trial.limit:g} s"
        return True

    def stop(self) -> int:
        """Kills what is left of the session, grandchildren included; returns the leader's exit code."""
        if self.process is None:
            return 0
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def outcome(self) -> Outcome:
        """What came of it; call it once it is over."""
        seconds = time.monotonic() - self.started
        code = self.stop()
        output, errors = (self.folder.joinpath(name).read_text("utf-8", "replace") for name in ("out", "err"))
        if not self.problem and code < 0:
            self.problem = ": ".join(filter(None, [f"ended by {signal.Signals(-code).name}", last_line(errors)]))
        elif not self.problem and code > 0:
            self.problem = last_line(errors) or last_line(output) or f"exit code {code}"
        return Outcome(output, self.problem, seconds)


def last_line(text: str) -> str:
    """The last line with something in it, cut to a readable length."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:LINE] if lines else ""


def try_all(trials: Sequence[Trial], at_once: int = 2) -> dict[str, Outcome]:
    """Runs the trials and returns what came of each, by name."""
    waiting, running, outcomes = list(trials), list[Running](), dict[str, Outcome]()
    with tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(Running(waiting.pop(0), Path(folder, str(len(waiting)))))
                    running[-1].start()
                for each in [one for one in running if one.over()]:
                    outcomes[each.trial.name] = each.outcome()
                    running.remove(each)
                time.sleep(PAUSE)
        finally:
            for each in running:
                each.stop()
    return outcomes
