"""One attempt at a run at a time: by a lock, and by a token for those whom a lock does not reach."""

import io
import json
import os
import subprocess
import sys
import time

import pytest

from hpt_megatron.driver.loop.checkpoints import Checkpoints
from hpt_megatron.driver.loop.fence import FencedError, hold
from hpt_megatron.errors import HptError, UserError

HOLDER = """
import sys, time
from pathlib import Path
from hpt_megatron.driver.loop.fence import hold
with hold(Path(sys.argv[1]), sys.stdout) as fence:
    print("held", flush=True)
    while Path(sys.argv[2]).exists():
        fence.check()
        time.sleep(0.05)
"""


def another(folder, flag):
    """A process that holds the run while the flag is there, or until it sees that another attempt took it."""
    flag.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(flag)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_that_a_process_holds_is_refused_and_free_again_when_that_ends(tmp_path):
    process = another(tmp_path / "run", tmp_path / "flag")
    refused = pytest.raises(UserError, match=f"is held by process {process.pid} on .*; end that process")
    with refused, hold(tmp_path / "run", io.StringIO()):
        pass
    process.kill()
    process.communicate()
    with hold(tmp_path / "run", io.StringIO()) as fence:
        fence.check()
        assert json.loads((tmp_path / "run" / "attempt.json").read_text())["process"] == os.getpid()


def test_the_next_attempt_of_a_job_takes_the_run_and_waits_until_the_one_before_let_go(tmp_path, monkeypatch):
    process = another(tmp_path / "run", tmp_path / "flag")
    monkeypatch.setenv("HPT_ATTEMPT_TOKEN", "7.1.1")
    monkeypatch.setenv("HPT_PATIENCE_S", "30")
    shown = io.StringIO()
    with hold(tmp_path / "run", shown) as fence:
        assert process.poll() is not None or process.wait(5) is not None
        fence.check()
    assert "FencedError: " in process.stderr.read()
    process.communicate()
    assert shown.getvalue() == "an earlier attempt still holds the run; waiting for it to end\n"


def test_one_that_does_not_let_go_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    deaf = HOLDER.replace("fence.check()", "pass")
    (tmp_path / "flag").touch()
    command = [sys.executable, "-c", deaf, str(tmp_path / "run"), str(tmp_path / "flag")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    monkeypatch.setenv("HPT_ATTEMPT_TOKEN", "7.1.1")
    monkeypatch.setenv("HPT_PATIENCE_S", "0.5")
    began = time.monotonic()
    with (
        pytest.raises(HptError, match="is still held by an earlier attempt") as told,
        hold(tmp_path / "run", io.StringIO()),
    ):
        pass
    assert time.monotonic() - began >= 0.5
    assert told.value.exit_code == 1, "so the job is tried again"
    process.kill()
    process.communicate()


def test_an_orphan_names_no_checkpoint_and_its_ranks_write_elsewhere(tmp_path):
    """The lock of an orphan on a lost node may be gone; its token no longer stands in the file."""
    with hold(tmp_path, io.StringIO()) as orphan:
        old = Checkpoints(tmp_path / "checkpoints", 3, orphan)
        partial = old.begin(4)
        (partial / "weights").write_text("of the orphan")
    with hold(tmp_path, io.StringIO()) as fence:
        new = Checkpoints(tmp_path / "checkpoints", 3, fence)
        filled = new.begin(4)
        assert filled != partial
        assert not partial.exists(), "what an earlier attempt left is taken away"
        with pytest.raises(FencedError, match="this one writes nothing more"):
            old.begin(5)
        partial.mkdir()
        (partial / "weights").write_text("of the orphan, which lives on")
        with pytest.raises(FencedError):
            old.seal(partial, 4, {})
        assert new.steps() == []
        (filled / "weights").write_text("of the new one")
        assert (new.seal(filled, 4, {}) / "weights").read_text() == "of the new one"
        assert new.steps() == [4]
