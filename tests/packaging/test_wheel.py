"""The wheel: what is in it, and that it works in an empty environment, from any folder, without torch."""

import subprocess
import venv
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path

import pytest

import hpt_megatron

Run = Callable[..., subprocess.CompletedProcess[str]]
DIST_INFO = f"hpt_megatron-{hpt_megatron.__version__}.dist-info"


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize("folder", ["configs", "slurm"])
def test_every_file_of_a_data_folder_travels_inside_the_wheel(folder: str, wheel: Path, checkout: Path) -> None:
    """Does not cover that the files are right, only that they are there."""
    files = [path for path in (checkout / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert files
    expected = {f"hpt_megatron/{folder}/{path.relative_to(checkout / folder).as_posix()}" for path in files}
    assert {name for name in names(wheel) if name.startswith(f"hpt_megatron/{folder}/")} == expected


def test_every_module_travels_inside_the_wheel_and_nothing_else_of_the_checkout(wheel: Path, checkout: Path) -> None:
    """Does not cover the data folders; the test above does."""
    modules = {path.relative_to(checkout).as_posix() for path in (checkout / "hpt_megatron").rglob("*.py")}
    assert {name for name in names(wheel) if name.endswith(".py")} == modules
    assert {"py.typed", "web/style.css", "report/page.css", "report/page.js", "report/explore.js"} <= {
        name.removeprefix("hpt_megatron/") for name in names(wheel)
    }
    assert {name.split("/")[0] for name in names(wheel)} == {"hpt_megatron", DIST_INFO}


def test_the_metadata_names_the_extras_and_the_python(wheel: Path) -> None:
    """Does not cover what the extras hold; test_extras.py does."""
    metadata = Parser().parsestr(zipfile.ZipFile(wheel).read(f"{DIST_INFO}/METADATA").decode())
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra") or []) == {"cpu", "gpu", "te", "quant", "dev", "trackers", "search"}


@pytest.fixture(scope="module")
def empty_environment(wheel: Path, pip_online: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel and its base requirements; its bin folder."""
    folder = tmp_path_factory.mktemp("empty environment")
    venv.create(folder, with_pip=True)
    pip_online("install", "--quiet", str(wheel), python=str(folder / "bin" / "python"))
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "usage: hpt VERB"),
        (["--version"], hpt_megatron.__version__),
        (["config", "list"], "tiny-hpt"),
        (["config", "validate"], "valid: 0 errors"),
        (["config", "show"], "algorithm"),
    ],
)
def test_the_installed_command_works_from_any_folder(
    arguments: list[str], expected: str, empty_environment: Path, shell: Run
) -> None:
    """Needs a package index. Does not cover verbs that need torch."""
    done = shell(empty_environment / "hpt", *arguments, path="/usr/bin:/bin")
    assert (done.returncode, done.stderr) == (0, "")
    assert expected in done.stdout


@pytest.mark.slow
def test_the_base_install_brings_no_torch_and_has_no_conflict(empty_environment: Path, shell: Run) -> None:
    """Needs a package index. The modules are the environment's own, not those of the checkout."""
    code = "import hpt_megatron, importlib.util as u; print(hpt_megatron.__file__, u.find_spec('torch'))"
    done = shell(empty_environment / "python", "-c", code, path="/usr/bin:/bin")
    place, torch = done.stdout.rsplit(maxsplit=1)
    assert Path(place).is_relative_to(empty_environment.parent)
    assert torch == "None"
    check = subprocess.run([empty_environment / "python", "-m", "pip", "check"], capture_output=True, check=False)
    assert check.returncode == 0, check.stdout
