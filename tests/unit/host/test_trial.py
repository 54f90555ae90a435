"""Commands tried in child processes: however one ends, it becomes an outcome, and nothing of it is left."""

import os
import sys
import time
from pathlib import Path

import pytest

from hpt_megatron.host.trial import Outcome, Trial, try_all


def python(name: str, code: str, limit: float = 30.0) -> Trial:
    """A trial that runs some Python without site-packages."""
    return Trial(name, (sys.executable, "-S", "-c", code), limit)


def try_one(trial: Trial) -> Outcome:
    return try_all([trial])[trial.name]


def is_gone(pid: int, patience: float = 5.0) -> bool:
    """Whether a process ends; a killed orphan is ended in the kernel's own time, so it is given some."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_what_a_trial_prints_is_its_output():
    outcome = try_one(python("good", "print('yes'); import sys; print('noise', file=sys.stderr)"))
    assert (outcome.output, outcome.problem) == ("yes\n", "")


def test_a_raise_is_told_by_its_last_line():
    assert try_one(python("raises", "raise RuntimeError('first\\nlast line')")).problem == "last line"


def test_a_failure_without_a_word_is_told_by_its_exit_code():
    assert try_one(python("silent", "raise SystemExit(3)")).problem == "exit code 3"


def test_a_crash_is_told_by_its_signal():
    code = "import os, sys; print('about to die', file=sys.stderr, flush=True); os.abort()"
    assert try_one(python("crashes", code)).problem == "ended by SIGABRT: about to die"


@pytest.mark.slow
def test_a_hang_ends_at_its_limit_and_leaves_no_grandchild(tmp_path):
    note = tmp_path / "grandchild"
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    outcome = try_one(python("hangs", code, limit=2.0))
    assert outcome.problem == "no end within 2 s"
    assert is_gone(int(note.read_text()))


def test_a_grandchild_that_outlives_a_good_trial_is_ended_too(tmp_path):
    note = tmp_path / "grandchild"
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))"
    )
    assert try_one(python("leaves", code)).problem == ""
    assert is_gone(int(note.read_text()))


def test_a_command_that_does_not_exist_is_a_problem_and_not_an_error(tmp_path):
    assert try_one(Trial("absent", (str(tmp_path / "nothing"),), 5.0)).problem.startswith(
        "cannot be started: No such file"
    )


def test_a_failure_in_the_middle_leaves_the_other_trials_untouched():
    trials = [python("first", "print(1)"), python("crashes", "import os; os.abort()"), python("last", "print(3)")]
    outcomes = try_all(trials)
    assert {name: outcome.output for name, outcome in outcomes.items()} == {
        "first": "1\n",
        "crashes": "",
        "last": "3\n",
    }
    assert [name for name, outcome in outcomes.items() if outcome.problem] == ["crashes"]


def test_no_more_than_two_trials_run_at_once(tmp_path):
    """Each trial counts the marks of those under way; it does not measure how well the two overlap."""
    code = (
        "import os, time\n"
        f"os.mkdir(os.path.join({str(tmp_path)!r}, str(os.getpid())))\n"
        "time.sleep(0.2)\n"
        f"print(len(os.listdir({str(tmp_path)!r})))\n"
        f"os.rmdir(os.path.join({str(tmp_path)!r}, str(os.getpid())))"
    )
    seen = [int(outcome.output) for outcome in try_all([python(str(n), code) for n in range(5)]).values()]
    assert len(seen) == 5
    assert max(seen) == 2


def test_a_large_output_does_not_stop_a_trial():
    assert len(try_one(python("loud", "print('x' * 1_000_000)")).output) == 1_000_001


def test_a_trial_has_no_input_to_wait_for():
    assert try_one(python("reads", "import sys; print(repr(sys.stdin.read()))")).output == "''\n"


def test_the_askers_own_session_is_not_the_trials():
    assert int(try_one(python("session", "import os; print(os.getsid(0))")).output) != os.getsid(0)
