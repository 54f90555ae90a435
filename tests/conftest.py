"""What every test shares: the environment that it starts in, how examples are drawn, and the rule of the `fast` tests.

With `-m fast`, a file without such a test is not even imported, so `make fast` never waits for torch; a fast test that
brings torch in fails.
"""

import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Set before any test imports an engine, and inherited by every process that a test starts.
SHARED = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # vLLM compiles a small function even when it runs eagerly. That takes 15 s in each process, and a C++ compiler,
    # which a bare machine does not have.
    "TORCH_COMPILE_DISABLE": "1",
}
SHARING = ("engines", "runs", "packaging", "cluster")
"""Folders whose files have something in common that takes long to make."""
LONGEST = ("runs",)
"""Folders that take so long that one process is busy with them for half of the time."""
for name, value in SHARED.items():
    os.environ.setdefault(name, value)

# A suite in the background ignores SIGINT, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No drawn example is judged by the clock, which on a busy machine says nothing about the code. What is checked stays.
settings.register_profile("without a clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("without a clock")


def only_fast(config: pytest.Config) -> bool:
    """Whether this run selects the fast tests and nothing else."""
    return bool(config.getoption("markexpr") == "fast")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out the files that hold no fast test, before they are imported."""
    is_test = collection_path.suffix == ".py" and collection_path.name.startswith("test_")
    if only_fast(config) and is_test and "mark.fast" not in collection_path.read_text(encoding="utf-8"):
        return True
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no process is left with it alone; within a folder the order stays."""
    places = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.split("/")[1], len(LONGEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Where several processes run the tests, a file stays in one of them, and so do all files that share an engine."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            shared = next((name for name in SHARING if nodeid.startswith(f"tests/{name}/")), "")
            return shared or nodeid.partition("::")[0]

    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Takes back the LD_PRELOAD that vLLM sets in its own process: the loader cannot read it in a path with a space,
    and every process that a later test starts would say so on its standard error.
    """
    before = os.environ.get("LD_PRELOAD")
    result = yield
    if before is None:
        os.environ.pop("LD_PRELOAD", None)
    else:
        os.environ["LD_PRELOAD"] = before
    return result


@pytest.fixture(autouse=True)
def _fast_stays_without_torch(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if only_fast(request.config):
        assert "torch" not in sys.modules, "a test marked fast, or its module, imported torch"


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The top folder of the repository."""
    return Path(__file__).resolve().parent.parent
