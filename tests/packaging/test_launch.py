"""The doors as texts, and the choices that they make before anything is installed."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

SCRIPTS = ["launch/environment.sh", "launch/quickstart.sh", "launch/test.sh", ".ci/run"]


@pytest.mark.fast
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_executable_and_parses(script: str, checkout: Path) -> None:
    """Does not run it."""
    assert os.access(checkout / script, os.X_OK)
    done = subprocess.run(["bash", "-n", checkout / script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_shellcheck_finds_nothing(checkout: Path) -> None:
    """Covers what shellcheck knows."""
    command = [Path(sys.executable).with_name("shellcheck"), "--external-sources", *SCRIPTS]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.fast
def test_ci_runs_the_test_door_with_a_browser_and_nothing_else(checkout: Path) -> None:
    """Reads the text; CI itself is the run of it."""
    lines = (checkout / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands[-1] == "exec ./launch/test.sh"
    assert [line.split()[0] for line in commands] == ["set", "cd", "command", "exec"]
    assert commands[2].startswith("command -v chromium >/dev/null || { apt-get ")


@pytest.mark.fast
def test_the_scripts_name_no_index_but_pytorchs(checkout: Path) -> None:
    """Covers addresses that are written out."""
    text = "".join((checkout / script).read_text(encoding="utf-8") for script in SCRIPTS)
    assert set(re.findall(r"https?://[^\s}\"]+", text)) == {"https://download.pytorch.org/whl/cpu"}


@pytest.fixture
def choose(checkout: Path, tmp_path: Path, shell: Run) -> Run:
    """Sources the set-up, from a copy so that no slip can reach this checkout's environment, and calls a function."""
    shutil.copytree(checkout / "launch", tmp_path / "copy" / "launch")

    def run(function: str, **environment: str) -> subprocess.CompletedProcess[str]:
        script = f'set -euo pipefail; source "$1"; {function}'
        return shell("bash", "-c", script, "choose", tmp_path / "copy" / "launch" / "environment.sh", **environment)

    return run


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with the tools of a bare machine that the set-up calls, and no Python."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("bash", "dirname", "timeout", "cat", "sha256sum", "mkdir", "flock"):
        (folder / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is missing"))
    return folder


def nvidia_smi(folder: Path, code: int) -> None:
    """A stand-in for the driver's tool: it answers, or fails as it does when the driver does not run."""
    tool = folder / "nvidia-smi"
    tool.write_text(f'#!/bin/bash\necho "GPU 0: NVIDIA H200"\nexit {code}\n', encoding="utf-8")
    tool.chmod(0o755)


def has_device() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


@pytest.mark.fast
def test_a_host_with_a_gpu_gets_the_gpu_extra(choose: Run, tools: Path) -> None:
    """The host's tool is a stand-in here; the device files are not covered."""
    nvidia_smi(tools, code=0)
    assert choose("choose_extra", path=str(tools)).stdout == "gpu\n"


@pytest.mark.fast
@pytest.mark.skipif(has_device(), reason="this host has an NVIDIA GPU")
@pytest.mark.parametrize("driver", ["absent", "broken"])
def test_a_host_without_a_working_gpu_gets_the_cpu_extra(driver: str, choose: Run, tools: Path) -> None:
    """The host's tool is a stand-in here."""
    if driver == "broken":
        nvidia_smi(tools, code=9)
    assert choose("choose_extra", path=str(tools)).stdout == "cpu\n"


@pytest.mark.fast
def test_the_extra_can_be_overridden_and_a_wrong_name_is_one_line(choose: Run) -> None:
    """Does not install either."""
    assert [choose("choose_extra", HPT_EXTRA=name).stdout for name in ("cpu", "gpu")] == ["cpu\n", "gpu\n"]
    wrong = choose("choose_extra", HPT_EXTRA="cuda")
    assert (wrong.returncode, wrong.stderr) == (1, "[setup] HPT_EXTRA=cuda: no such extra; it is cpu or gpu\n")


@pytest.mark.fast
def test_without_a_python_the_packages_to_install_are_named(choose: Run, tools: Path) -> None:
    """Does not cover a Python that is there and does not suit; the test below does."""
    done = choose("set_up", path=str(tools), HPT_EXTRA="cpu")
    assert (done.returncode, done.stdout) == (1, "")
    assert "apt-get install python3.11 python3.11-venv" in done.stderr


@pytest.mark.fast
def test_without_libnuma_the_package_to_install_is_named(choose: Run, tools: Path) -> None:
    """The lack is pretended, and the system's package tool is a stand-in that fails, as it does without a network."""
    (tools / "apt-get").write_text("#!/bin/bash\nexit 100\n", encoding="utf-8")
    (tools / "apt-get").chmod(0o755)
    done = choose('mkdir "$VENV"; has_library() { return 1; }; install_libnuma', path=str(tools))
    assert done.returncode == 1
    assert "apt-get install libnuma1" in done.stderr


@pytest.mark.fast
@pytest.mark.parametrize(("lack", "suits"), [("", True), ("ensurepip", False), ("venv", False)])
def test_a_python_without_what_makes_environments_does_not_suit(
    lack: str, suits: bool, choose: Run, tmp_path: Path
) -> None:
    """Debian ships Python without ensurepip; a module that fails to import stands for that."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    if lack:
        (hidden / f"{lack}.py").write_text("raise ImportError\n", encoding="utf-8")
    assert (choose(f"suits '{sys.executable}'", PYTHONPATH=str(hidden)).returncode == 0) == suits


@pytest.fixture
def door(checkout: Path, tmp_path: Path, choose: Run, shell: Run) -> Run:
    """Runs the test door in a copy with an environment that counts as ready, in which every tool says what it was asked
    and ends with the exit code that a variable of its name holds.
    """
    copy = tmp_path / "copy"
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\n[[ $1 == -V ]] || exec "$0-$2" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    for name in ("ruff", "mypy", "pytest"):
        tool = python.with_name(f"python-{name}")
        tool.write_text(f'#!/bin/bash\necho "$*"\nexit "${{{name}:-0}}"\n', encoding="utf-8")
        tool.chmod(0o755)
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(checkout / name, copy)
    assert choose('key cpu >"$VENV/installed"').returncode == 0

    def run(*arguments: str, **codes: str) -> subprocess.CompletedProcess[str]:
        return shell(copy / "launch" / "test.sh", *arguments, HPT_EXTRA="cpu", **codes)

    return run


@pytest.mark.fast
@pytest.mark.parametrize(
    ("codes", "expected"),
    [({}, 0), ({"ruff": "1"}, 1), ({"mypy": "2"}, 2), ({"mypy": "2", "pytest": "1"}, 2), ({"pytest": "5"}, 5)],
)
def test_a_tool_that_fails_stops_no_other_and_decides_the_exit_code(
    codes: dict[str, str], expected: int, door: Run
) -> None:
    """The script is real, in a copy; the tools are stand-ins."""
    done = door("-k", "wheel", **codes)
    asked = [line for line in done.stdout.splitlines() if line.startswith("-m ")]
    assert asked == ["-m ruff check --no-cache", "-m ruff format --check", "-m mypy", "-m pytest -k wheel"]
    assert re.fullmatch(r"\[test\] total: \d+ s", done.stdout.splitlines()[-1])
    assert done.returncode == expected
    assert ("no test ran" in done.stderr) == (expected == 5)


def test_without_arguments_the_test_door_runs_every_test_on_all_cores(door: Run) -> None:
    """Stand-ins for the tools, as above: nothing is left out."""
    done = door()
    asked = [line for line in done.stdout.splitlines() if line.startswith("-m pytest")]
    assert asked == ["-m pytest --numprocesses=logical --dist=loadscope --no-loadscope-reorder"]
    assert done.returncode == 0


@pytest.mark.slow
def test_a_run_of_the_test_door_in_which_no_test_ran_fails(checkout: Path, shell: Run) -> None:
    """Starts the real door on this checkout, linters and types included."""
    ready = shell(
        "bash", "-c", 'source "$1"; is_ready "$(choose_extra)"', "ready", checkout / "launch" / "environment.sh"
    )
    # Or the door would change the environment in which this test runs.
    assert ready.returncode == 0, "setup.py, pyproject.toml or the host changed since .venv was made: run `make setup`"
    done = shell(checkout / "launch" / "test.sh", "tests/packaging/test_launch.py", "-k", "no_such_test")
    assert done.returncode == 5, done.stdout
    assert "no test ran, which counts as a failure" in done.stderr
    assert "[setup] ready" in done.stdout
