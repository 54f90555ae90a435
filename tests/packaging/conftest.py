"""The wheel of this checkout, built once; and what a test needs to run a script as a stranger's shell would."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from resolution import Packages, resolve

SOURCES = ["hpt_megatron", "configs", "slurm", "setup.py", "pyproject.toml", "README.md", "LICENSE"]

Shell = Callable[..., subprocess.CompletedProcess[str]]
Pip = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for the package index comes last: it answers meanwhile."""
    items.sort(key=lambda item: "gpu_set" in getattr(item, "fixturenames", ()))


def run_pip(*arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """pip with the host's own settings, so that it asks where this host asks; its two streams are one."""
    command = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, timeout=1200, check=False
    )


@pytest.fixture(scope="session")
def pip_online() -> Pip:
    """Calls pip with what needs a package index, and gives its words; the set-up has just come from one.

    On a failure the index is asked for a package that exists, so that a requirement of ours that no index knows is told
    from an index that does not answer.
    """

    def run(*arguments: str, python: str = sys.executable) -> str:
        done = run_pip(*arguments, python=python)
        if done.returncode and run_pip("install", "--dry-run", "--ignore-installed", "--no-deps", "PyYAML").returncode:
            pytest.fail(f"no package index answers on this host: {done.stdout[-2000:]}")
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools would put what an earlier build left behind into it."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (checkout / name).is_dir():
            shutil.copytree(checkout / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(checkout / name, source / name)
    target = tmp_path_factory.mktemp("wheel")
    done = run_pip("wheel", str(source), "--no-deps", "--no-build-isolation", "--wheel-dir", str(target))
    assert done.returncode == 0, done.stdout[-4000:]
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs a command in an empty folder, with an empty HOME, without standard input and with little else."""

    def run(*command: str | Path, path: str = os.environ["PATH"], **extra: str) -> subprocess.CompletedProcess[str]:
        home, folder = tmp_path / "home", tmp_path / "elsewhere"
        home.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        return subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env={"PATH": path, "HOME": str(home)} | extra,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


@pytest.fixture(scope="session", autouse=True)
def resolving(
    request: pytest.FixtureRequest, wheel: Path, pip_online: Pip, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Future[Packages] | None]:
    """What launch/environment.sh would install on a host with a GPU: a minute or two of an index's time."""
    if not any("gpu_set" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    with ThreadPoolExecutor(1) as pool:
        given = f"hpt_megatron[gpu,quant,dev] @ {wheel.as_uri()}"
        yield pool.submit(resolve, pip_online, tmp_path_factory.mktemp("gpu"), given)


@pytest.fixture(scope="session")
def gpu_set(resolving: "Future[Packages]") -> Packages:
    """That answer."""
    return resolving.result()
