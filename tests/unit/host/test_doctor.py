"""The real `hpt doctor` as a process: on this machine, and on bare and broken installations made for the purpose."""

import importlib.metadata
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

import hpt_megatron
from hpt_megatron.host import survey
from hpt_megatron.host.trial import Trial, try_all

CHECKOUT = Path(hpt_megatron.__file__).resolve().parent.parent
ENGINES = ("torch", "megatron-core", "vLLM", "Ray")
NAMES = [
    *("Python", "torch", "gloo group", "accelerator", "megatron-core", "Transformer Engine", "apex", "vLLM", "Ray"),
    *("ModelOpt", "SLURM client", "free memory", "free disk", "shared memory", "file descriptors"),
]
BROKEN = {
    "torch": "import os\nos._exit(0)",
    "vllm": "import pathlib, os, time\npathlib.Path(os.environ['NOTE']).write_text(str(os.getpid()))\ntime.sleep(600)",
    "ray": "import os\nos.abort()",
    "modelopt": "raise RuntimeError('a first line\\nthe last line')",
    "apex": "",  # the unrelated project of that name: no optimizers
}


def doctor(*options: str, python: str = sys.executable, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the doctor as a user would."""
    command = [python, "-m", "hpt_megatron", "doctor", *options]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict]:
    """The findings by name; fails when stdout holds anything but the JSON."""
    return {part["name"]: part for part in json.loads(done.stdout)["parts"]}


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> str:
    """The interpreter of a fresh environment without any package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return str(folder / "bin" / "python")


@pytest.fixture
def broken(tmp_path) -> dict[str, str]:
    """Variables that put broken packages under the engines' names on the path."""
    for name, code in BROKEN.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
    return {"PYTHONPATH": f"{tmp_path}:{CHECKOUT}", "NOTE": str(tmp_path / "hanging.pid")}


def test_an_empty_environment_gets_exit_code_1_and_the_command_for_each_engine(bare):
    done = doctor("--json", python=bare, PYTHONPATH=str(CHECKOUT))
    found = rows(done)
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    for name in ENGINES:
        assert (found[name]["status"], found[name]["needed"], found[name]["version"]) == ("missing", True, "")
        assert re.fullmatch(r"pip install -e '.+\[(cpu|gpu)\]'", found[name]["remedy"])
    assert found["gloo group"]["status"] == "missing"
    assert found["Python"]["status"] == "ok"
    assert list(found) == NAMES


def test_an_empty_environment_without_rich_is_told_so_in_one_line(bare):
    done = doctor("--quick", python=bare, PYTHONPATH=str(CHECKOUT))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "hpt: the table needs rich; `pip install -e .`, or ask with --json\n"


@pytest.mark.slow
def test_engines_that_crash_hang_raise_or_leave_are_rows_and_the_doctor_goes_on(bare, broken):
    done = doctor("--json", "--limit", "2", python=bare, **broken)
    found = rows(done)
    assert done.returncode == 1
    assert list(found) == NAMES
    told = {name: (found[name]["status"], found[name]["detail"]) for name in found}
    assert told["torch"] == ("fails", "the trial ended without an answer")
    assert told["vLLM"] == ("fails", "no end within 2 s")
    assert told["Ray"] == ("fails", "ended by SIGABRT")
    assert told["ModelOpt"] == ("fails", "the last line")
    assert told["megatron-core"] == ("missing", "")
    assert told["Python"][0] == "ok"
    assert found["Ray"]["seconds"] > 0


def test_an_apex_that_is_not_nvidias_counts_as_missing(bare, broken):
    apex = rows(doctor("--json", "--quick", python=bare, **broken))["apex"]
    assert (apex["status"], apex["version"]) == ("missing", "")
    (Path(broken["NOTE"]).parent / "apex" / "optimizers").mkdir()
    assert rows(doctor("--json", "--quick", python=bare, **broken))["apex"]["status"] == "ok"


def test_an_interrupt_ends_the_doctor_and_what_it_tries(bare, broken):
    command = [bare, "-m", "hpt_megatron", "doctor", "--json"]
    process = subprocess.Popen(command, env={**os.environ, **broken}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    note, deadline = Path(broken["NOTE"]), time.monotonic() + 60
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"hpt: interrupted\n")
    hanging = Path(f"/proc/{note.read_text()}/stat")
    assert not hanging.exists() or hanging.read_text().split()[2] == "Z"


def test_too_few_descriptors_are_low_and_name_the_command():
    line = f"ulimit -Sn 1000; exec {shlex.quote(sys.executable)} -m hpt_megatron doctor --quick --json"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    row = rows(done)["file descriptors"]
    assert (row["status"], row["remedy"].startswith("ulimit -n ")) == ("low", True)
    assert row["detail"].startswith("1000 ")


@pytest.mark.parametrize(
    ("words", "told"), [(["--quik"], "--quik"), (["foo"], "foo"), (["--limit"], "--limit"), (["--limit", "x"], "'x'")]
)
def test_every_wrong_argument_is_one_line_with_exit_code_2(words, told):
    done = doctor("--quick", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"hpt: hpt doctor: .*{re.escape(told)}.*\n", done.stderr)


@pytest.mark.parametrize("wrong", ["0", "-3", "nan", "inf", "1e999", "", "x"])
def test_a_limit_that_gives_a_trial_no_time_or_no_end_is_refused(wrong):
    done = doctor("--quick", f"--limit={wrong}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--limit: a finite number above 0 is needed, not {wrong!r}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_piped_table_has_no_colours_and_every_remedy_in_one_piece():
    done = doctor("--quick")
    found = rows(doctor("--quick", "--json"))
    assert "\x1b" not in done.stdout
    for part in found.values():
        assert part["remedy"] in done.stdout
    assert done.stdout.splitlines()[-1] == "What the embedded default needs is installed; nothing was tried (--quick)."


def terminal(columns: int, **variables: str) -> str:
    """What the doctor prints on a terminal of that width."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", **variables}
    command = [sys.executable, "-m", "hpt_megatron", "doctor", "--quick"]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            said += piece
        process.wait(timeout=60)
    os.close(ours)
    return said.decode()


@pytest.mark.parametrize("columns", [80, 100])
def test_a_terminal_gets_colours_and_no_line_wider_than_itself(columns):
    said = terminal(columns)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    assert "\x1b[32m" in said
    assert max(len(line) for line in plain.splitlines()[:-1]) <= columns
    assert re.sub(r"\s", "", "apt-get install slurm-client") in re.sub(r"\s", "", plain) or shutil.which("sbatch")
    assert "\u2026" not in plain  # nothing was cut


@pytest.mark.parametrize("columns", [20, 40, 50, 69])
def test_a_narrow_terminal_loses_nothing_that_the_doctor_says(columns):
    """The terminal itself breaks a remedy that is wider, so only other lines keep to the width."""
    said = re.sub(r"\x1b\[[0-9;]*m", "", terminal(columns))
    lines = [line.strip() for line in said.splitlines()]
    words = re.sub(r"\s", "", said)
    parts = rows(doctor("--quick", "--json"))
    remedies = [part["remedy"] for part in parts.values() if part["remedy"]]
    assert remedies
    assert [remedy for remedy in remedies if remedy not in lines] == []
    for name, part in parts.items():
        assert re.sub(r"\s", "", name + part["status"] + part["version"]) in words
        assert re.sub(r"\s", "", part["cost"]) in words
    assert max(len(line) for line in lines[:-1] if line not in remedies) <= columns
    assert "\u2026" not in said


def test_no_color_is_honoured_on_a_terminal():
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", terminal(100, NO_COLOR="1"))


@pytest.mark.slow
def test_the_whole_doctor_on_this_machine_tells_what_independent_reads_tell(tmp_path):
    """It covers a host with the engines installed; what a card would add is not covered here."""
    command = [sys.executable, "-m", "hpt_megatron", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path, check=False)
    found = rows(done)
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True), done.stdout
    assert list(found) == NAMES
    told = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True
    )
    assert found["torch"]["version"] == told.stdout.strip()
    assert found["megatron-core"]["version"] == importlib.metadata.version("megatron-core")
    assert found["Ray"]["version"] == importlib.metadata.version("ray")
    rate = re.search(r"product at (\d+) GFLOP/s", found["torch"]["detail"])
    assert rate is not None
    assert int(rate[1]) >= 1
    assert found["gloo group"]["detail"].startswith("two ranks on ")
    free = int(
        subprocess.run(["df", "--output=avail", "-B1", str(tmp_path)], capture_output=True, text=True).stdout.split()[
            -1
        ]
    )
    assert abs(float(found["free disk"]["detail"].split()[0]) * 2**30 - free) < 2 * 2**30  # others write meanwhile
    assert all(part["seconds"] > 0 for name, part in found.items() if name in (*ENGINES, "gloo group"))
    assert found["vLLM"]["detail"].startswith("LLM imported, platform ")


@pytest.mark.slow
def test_a_gloo_group_that_cannot_start_stands_in_the_way():
    """The attempt of the doctor itself, on an interface that does not exist."""
    command = ("env", "GLOO_SOCKET_IFNAME=nosuch0", sys.executable, "-P", str(survey.ATTEMPTS), "gloo")
    outcome = try_all([Trial("gloo", command, 120.0)])["gloo"]
    finding = survey.gloo(outcome)
    assert (finding.status, finding.blocks) == ("fails", True)
    assert "nosuch0" in finding.detail
