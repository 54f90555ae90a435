"""What every test shares: one thread for each process, no look at a model hub, and the rule of the `fast` tests.

With `-m fast`, a file without such a test is not even imported, so `make fast` never waits for torch; a fast test that
brings torch in fails.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before any test imports an engine, and inherited by every process that a test starts.
for name, value in {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}.items():
    os.environ.setdefault(name, value)


def only_fast(config: pytest.Config) -> bool:
    """Whether this run selects the fast tests and nothing else."""
    return bool(config.getoption("markexpr") == "fast")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out the files that hold no fast test, before they are imported."""
    is_test = collection_path.suffix == ".py" and collection_path.name.startswith("test_")
    if only_fast(config) and is_test and "mark.fast" not in collection_path.read_text(encoding="utf-8"):
        return True
    return None


@pytest.fixture(autouse=True)
def _fast_stays_without_torch(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if only_fast(request.config):
        assert "torch" not in sys.modules, "a test marked fast, or its module, imported torch"


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The top folder of the repository."""
    return Path(__file__).resolve().parent.parent
