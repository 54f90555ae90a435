"""The Ray cluster of a run: the one that the environment names, or one of its own on this host.

Invariants
    1. A cluster of our own listens on the loopback address, has no dashboard, asks for a token, and ends with the run.
    2. A cluster that others started is joined and left as it was.

Example:
    with cluster(bundles=3) as facts: ...
"""

import atexit
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import ray

from hpt_megatron.errors import HptError

ADDRESS, TOKEN = "RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH"
TRIES = 3
logger = logging.getLogger(__name__)


@contextmanager
def cluster(processes: int, store_mb: int = 512) -> Iterator[dict[str, float]]:
    """Joined, or started for so many processes; answers its resources."""
    joined = bool(os.environ.get(ADDRESS))
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # what its processes say stays readable in a file
    with tempfile.TemporaryDirectory(prefix="hpt-ray-") as folder:
        if joined:
            ray.init(address="auto", log_to_driver=True, logging_level=logging.WARNING)
        else:
            os.environ.setdefault(TOKEN, _token())
            _start(processes, store_mb << 20, folder)
        try:
            yield dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
        finally:
            ray.shutdown()


def nodes() -> int:
    """How many there are. Those that SLURM emulates on one host count as what they stand for."""
    return sum(bool(node["Alive"]) for node in ray.nodes())  # type: ignore[no-untyped-call]


@cache
def _token() -> str:
    """The file of this process's token: Ray reads it once, so a second cluster has the same."""
    folder = tempfile.mkdtemp(prefix="hpt-token-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="ascii")
    return str(path)


def _start(processes: int, store: int, folder: str) -> None:
    """Ray waits half a minute for its own processes, which on a busy host is not always enough."""
    for left in reversed(range(TRIES)):
        try:
            ray.init(
                num_cpus=processes,
                include_dashboard=False,
                object_store_memory=store,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
                log_to_driver=True,
                logging_level=logging.WARNING,
            )
        except Exception as error:  # Ray raises the class itself
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            logger.warning("Ray did not come up in time; %s", "once more" if left else "given up")
            if not left:
                what = "did not come up in time: this host is too busy"
                raise HptError(what, where="ray", mend="try again, or end other programs") from error
        else:
            return
