"""launch/environment.sh at work, on a checkout with a package so small that a set-up takes seconds.

The script is the real one and so are pip, venv and the lock. The package stands for ours: it requires nothing, and its
build writes down each call, which is how a test sees whether pip was asked to install. Where a package index is needed,
it is a folder. What this does not cover is our real requirements: every run of launch/test.sh starts with those.
"""

import shutil
import socket
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]

PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "build_small"\nbackend-path = ["."]\n'
BUILD = """
import pathlib, zipfile

def build_editable(folder, settings=None, metadata=None):
    pathlib.Path("calls").open("a").write("call\\n")
    if pathlib.Path("broken").exists():
        raise SystemExit("error: this build is broken")
    info = "hpt_megatron-0.dist-info"
    extras = "".join(f"Provides-Extra: {name}\\n" for name in ("cpu", "gpu", "quant", "dev"))
    with zipfile.ZipFile(pathlib.Path(folder) / "hpt_megatron-0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: hpt_megatron\\nVersion: 0\\n" + extras)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return "hpt_megatron-0-py3-none-any.whl"
"""


@pytest.fixture
def small(tmp_path: Path, checkout: Path) -> Path:
    """A checkout with the real launch folder and the small package, at a path with a space."""
    folder = tmp_path / "a checkout"
    shutil.copytree(checkout / "launch", folder / "launch")
    (folder / "setup.py").write_text('TORCH = "2.13.0"  # what the script reads from the real one\n', encoding="utf-8")
    (folder / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (folder / "build_small.py").write_text(BUILD, encoding="utf-8")
    return folder


@pytest.fixture
def set_up(small: Path, shell: Run) -> Run:
    """Runs the set-up alone, with the extra that needs no index, unless told otherwise."""

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        settings = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "HPT_EXTRA": "gpu"}
        return shell("bash", small / "launch" / "environment.sh", **(settings | environment))

    return run


def calls(small: Path) -> int:
    """How often pip built the package."""
    return len((small / "calls").read_text(encoding="utf-8").split()) if (small / "calls").exists() else 0


def folder_index(folder: Path, *versions: str) -> str:
    """A package index in a folder, with empty packages named torch; its address."""
    place = folder / "torch"
    place.mkdir(parents=True)
    for version in versions:
        name, info = f"torch-{version}-py3-none-any.whl", f"torch-{version}.dist-info"
        with zipfile.ZipFile(place / name, "w") as wheel:
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    links = "".join(f'<a href="{path.name}">{path.name}</a>\n' for path in sorted(place.glob("*.whl")))
    (place / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>", encoding="utf-8")
    return folder.as_uri()


def closed_port() -> int:
    """A port of this host on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_the_first_run_installs_and_the_second_does_not_call_pip(small: Path, set_up: Run) -> None:
    """Seconds are not measured: a run that calls no pip, venv or build has nothing left to wait for."""
    first = set_up()
    assert first.returncode == 0, first.stderr
    assert calls(small) == 1
    log = (small / ".venv" / "install.log").stat().st_mtime_ns
    second = set_up()
    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith("[setup] ready (extra gpu): ")
    assert calls(small) == 1
    assert (small / ".venv" / "install.log").stat().st_mtime_ns == log


def test_an_install_that_failed_says_so_in_one_line_and_the_next_run_repairs_it(small: Path, set_up: Run) -> None:
    """A failure of the build stands for all: an interruption leaves the same, an environment without its stamp."""
    (small / "broken").touch()
    failed = set_up()
    assert failed.returncode == 1
    assert failed.stderr.startswith("[setup] pip failed: ")
    assert failed.stderr.count("\n") == 1
    assert not (small / ".venv" / "installed").exists()
    (small / "broken").unlink()
    assert set_up().returncode == 0
    assert (small / ".venv" / "installed").exists()


def test_a_virtual_environment_whose_making_was_interrupted_is_made_again(small: Path, set_up: Run) -> None:
    """Both kinds: one whose interpreter is gone, and one that has no pip yet."""
    assert set_up().returncode == 0
    for broken in ("bin/python", "lib"):
        path = small / ".venv" / broken
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        (small / ".venv" / "installed").unlink()
        repaired = set_up()
        assert repaired.returncode == 0, repaired.stderr
    assert calls(small) == 3


def test_a_change_of_setup_py_installs_again(small: Path, set_up: Run) -> None:
    """Covers setup.py; the other parts of the key take the same way."""
    assert set_up().returncode == 0
    with (small / "setup.py").open("a", encoding="utf-8") as file:
        file.write("# a new pin\n")
    assert set_up().returncode == 0
    assert calls(small) == 2


def test_two_set_ups_at_once_install_once(small: Path, shell: Run) -> None:
    """Does not cover file systems whose locks stay on one host."""
    script = 'bash "$0" & a=$!; bash "$0" & b=$!; wait "$a" && wait "$b"'  # each by its id: both may end at once
    settings = {"PIP_NO_INDEX": "1", "HPT_EXTRA": "gpu"}
    done = shell("bash", "-c", script, small / "launch" / "environment.sh", **settings)
    assert done.returncode == 0, done.stderr
    assert calls(small) == 1
    assert done.stdout.count("[setup] ready") == 2
    assert "waiting for it" in done.stdout


def test_an_environment_of_the_other_extra_is_not_installed_over(small: Path, set_up: Run) -> None:
    """The CPU and GPU builds of the engine share file names."""
    (small / ".venv").mkdir()
    (small / ".venv" / "extra").write_text("gpu\n", encoding="utf-8")
    refused = set_up(HPT_EXTRA="cpu")
    assert refused.returncode == 1
    assert ".venv was made with extra gpu, this host asks for cpu; remove .venv" in refused.stderr
    assert calls(small) == 0


def test_the_cpu_build_of_torch_comes_from_pips_own_sources_when_they_hold_it(
    small: Path, set_up: Run, tmp_path: Path
) -> None:
    """The index is a folder of empty packages. The second index does not exist, so asking it would fail."""
    plain = folder_index(tmp_path / "plain", "2.13.0", "2.13.0+cpu")
    done = set_up(HPT_EXTRA="cpu", PIP_NO_INDEX="0", PIP_INDEX_URL=plain, HPT_CPU_INDEX="file:///nowhere")
    assert done.returncode == 0, done.stderr
    assert "/nowhere" not in done.stdout
    assert list((small / ".venv").glob("lib/*/site-packages/torch-2.13.0+cpu.dist-info"))


def test_the_cpu_build_of_torch_comes_from_the_cpu_index_when_pips_own_sources_lack_it(
    small: Path, set_up: Run, tmp_path: Path
) -> None:
    """Both indices are folders of empty packages; PyTorch's own is not asked."""
    plain, second = folder_index(tmp_path / "plain", "2.13.0"), folder_index(tmp_path / "second", "2.13.0+cpu")
    done = set_up(HPT_EXTRA="cpu", PIP_NO_INDEX="0", PIP_INDEX_URL=plain, HPT_CPU_INDEX=second)
    assert done.returncode == 0, done.stderr
    assert f"pip's own sources have no torch==2.13.0+cpu; adding {second}" in done.stdout
    assert list((small / ".venv").glob("lib/*/site-packages/torch-2.13.0+cpu.dist-info"))


@pytest.mark.parametrize("door", ["quickstart.sh", "test.sh"])
def test_without_a_network_a_door_says_so_in_one_line(door: str, small: Path, shell: Run) -> None:
    """The index is a closed port of this host. A network that swallows packets takes pip's own time-outs first."""
    address = f"http://127.0.0.1:{closed_port()}/simple"
    settings = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": address, "PIP_RETRIES": "1", "HPT_EXTRA": "cpu"}
    done = shell(small / "launch" / door, **settings)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "[setup] cannot reach a package index: [Errno 111] Connection refused; check the network"
    )
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout
    assert not (small / ".venv" / "installed").exists()
