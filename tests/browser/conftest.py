"""Two recorded runs and a real browser; where there is none, the tests say how to get one."""

import shutil

import pytest
from devtools import Browser

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Two finished runs that differ in their gate; nobody writes into them."""
    from recorded_run import write_run

    folder = tmp_path_factory.mktemp("recorded")
    first = write_run(folder / "plain", steps=24, total=60, prompts=24)
    return first, write_run(folder / "gated", "algorithm.switch_gate=2", steps=24, prompts=24, seed=1, speed=0.7)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium on this host, so no page is opened; on Debian or Ubuntu: apt-get install -y chromium")
    with Browser(program, tmp_path_factory.mktemp("browser")) as browser:
        yield browser
