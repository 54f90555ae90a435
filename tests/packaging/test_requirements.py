"""`requirements.txt` says what setup.py says. Not covered: an installation from it, which takes gigabytes."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast


def test_the_requirements_are_the_cpu_path_with_the_pins_of_the_setup(checkout: Path) -> None:
    lines = (checkout / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = [line for line in lines if line and not line.startswith("#")]
    setup = (checkout / "setup.py").read_text(encoding="utf-8")
    torch = re.search(r'^TORCH = "([^"]+)"', setup, re.MULTILINE)
    assert torch is not None
    assert asked[1:] == [f"torch=={torch[1]}+cpu", "-e .[cpu,trackers]"]
    index = re.search(r"HPT_CPU_INDEX:-([^}]+)}", (checkout / "launch" / "environment.sh").read_text(encoding="utf-8"))
    assert index is not None
    assert asked[0] == f"--extra-index-url {index[1]}"
