"""What happens to a run from outside: a process of the trainer is killed, memory runs short, somebody asks it to end.

One command goes through all of it. It imitates alone, so that it has no engine and is soon at work again; a killed
engine is in `test_recipes.py`. Not covered: machines that vanish.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow
GIVEN = [
    *("trainer.async_save=true", "trainer.total_epochs=null", "trainer.total_training_steps=400"),
    *("trainer.save_freq=1", "trainer.test_freq=0", "trainer.keep_last=2", "data.make=count"),
]
PATIENCE_S = 240
LITTLE = 2 << 20
BEGINS = "memory and use by stage:"
"""What a run says when its steps begin, the first time and after every start of its roles."""


def steps(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def newest(folder: Path) -> int:
    return max(steps(folder), default=0)


def wait_for(what, started: subprocess.Popen) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert started.poll() is None, f"it ended with {started.returncode}"
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.2)


@pytest.fixture
def started(tmp_path) -> Iterator[subprocess.Popen]:
    """The command, with what it says in a file."""
    command = [sys.executable, "-m", "hpt_megatron", "sft", f"trainer.run_dir={tmp_path / 'run'}", *GIVEN]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        yield process
        if process.poll() is None:
            process.kill()
        process.wait(30)


def ranks(started: subprocess.Popen) -> list[psutil.Process]:
    return [each for each in psutil.Process(started.pid).children(recursive=True) if "TrainerProcess" in _name(each)]


def test_a_run_goes_on_after_a_death_and_a_lack_of_memory_and_says_so_when_it_is_asked_to_end(tmp_path, started):
    folder, said = tmp_path / "run", tmp_path / "said"

    def told(what: str, times: int) -> bool:
        return said.read_text().count(what) >= times

    wait_for(lambda: len(steps(folder)) >= 2, started)
    first = ranks(started)
    assert len(first) == 2
    os.kill(first[1].pid, signal.SIGKILL)
    wait_for(lambda: told("a process of policy died", 1), started)
    wait_for(lambda: told(BEGINS, 2), started)
    before = newest(folder)
    wait_for(lambda: newest(folder) > before + 1, started)

    run_short(ranks(started)[0])
    wait_for(lambda: told("policy ran out of memory; from here on trainer.ppo_max_token_len_per_gpu=1024", 1), started)
    wait_for(lambda: told(BEGINS, 3), started)
    before = newest(folder)
    wait_for(lambda: newest(folder) > before + 1, started)
    assert told("all roles start again, from the newest checkpoint", 2)

    last = ranks(started)
    started.send_signal(signal.SIGTERM)
    assert started.wait(PATIENCE_S) == 75
    done = steps(folder)
    assert f"stopped by SIGTERM after step {done[-1]} of 400; the step is saved" in said.read_text()
    assert done == list(range(1, done[-1] + 1)), "no step is lost, and none stands there twice"
    assert (folder / "checkpoints" / f"step_{done[-1]}" / "manifest.json").is_file()
    until = time.monotonic() + PATIENCE_S
    while any(alive(each) for each in (*first, *last)):
        assert time.monotonic() < until, "a process of the trainer outlived its run"
        time.sleep(0.2)


def test_a_run_that_is_asked_to_end_before_its_first_step_says_that_it_goes_on(tmp_path, started):
    said = tmp_path / "said"
    wait_for(lambda: "512 prompts" in said.read_text(), started)
    started.send_signal(signal.SIGTERM)
    assert started.wait(PATIENCE_S) == 75
    assert "stopped by SIGTERM while no step was under way" in said.read_text()
    assert steps(tmp_path / "run") == []


def run_short(process: psutil.Process) -> None:
    """Between steps it has what it has, and a little: enough to say that a step found no memory, not for the step."""
    between = min(_data(process) for _ in range(40) if time.sleep(0.05) is None)
    process.rlimit(psutil.RLIMIT_DATA, (between + LITTLE,) * 2)


def _data(process: psutil.Process) -> int:
    return int(process.memory_info().data)


def alive(process: psutil.Process) -> bool:
    """Also false of one that ended and that nobody has asked about."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
