"""The processes of these tests: none hangs, none outlives its test, none listens beyond this machine."""

import os
import time


import psutil
import pytest
import torch
import torch.distributed as dist
from processes import run

from hpt_megatron.mcore import local_processes
from hpt_megatron.mcore.initialize import Rendezvous, finalize, initialize

pytestmark = pytest.mark.slow


def nothing(where: Rendezvous) -> None:
    """Nothing."""


def sleep(where: Rendezvous) -> None:
    """Hangs."""
    time.sleep(1000)


def fail_beside_a_collective(where: Rendezvous) -> None:
    """Rank 1 raises while rank 0 waits for it."""
    initialize(where=where)
    if where.rank:
        raise ValueError("the reason")
    dist.barrier()


def test_a_process_that_hangs_is_ended_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it says so."""
    monkeypatch.setattr(local_processes, "DEADLINE_S", 2)
    with pytest.raises(RuntimeError, match="rank 0 ended without an answer"):
        run(1, sleep)


def test_a_failure_beside_a_waiting_process_is_reported_with_its_reason() -> None:
    """The traceback of the rank that raised, long before the other's deadline; and nobody is left."""
    run(1, nothing)  # the fork server is there from now on
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(RuntimeError, match=r"rank 1 failed:(.|\n)*ValueError: the reason"):
        run(2, fail_beside_a_collective)
    assert set(psutil.Process().children(recursive=True)) == before


def slow_to_meet(where: Rendezvous) -> int:
    """Rank 0 has nothing more to do when rank 1 first asks its store."""
    initialize(where=where)
    if where.rank:
        time.sleep(0.5)
        store = dist.distributed_c10d._get_default_store()
        store.set("late", "yes")
        assert store.get("late") == b"yes"
    return where.rank


def test_a_process_that_is_done_waits_for_the_slower_ones() -> None:
    """Its store is still asked: a group that a loaded host forms late met a closed connection."""
    assert run(2, slow_to_meet) == [0, 1]


def listening(where: Rendezvous) -> tuple[set[str], bool]:
    """The addresses on which this process listens once its groups have met."""
    initialize(tp=2, where=where)
    dist.all_reduce(torch.ones(1))
    addresses = {c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}
    finalize()
    return addresses, "GLOO_SOCKET_IFNAME" in os.environ


def test_nothing_listens_beyond_loopback() -> None:
    """The store on rank 0, and gloo on both."""
    for rank, (addresses, left_behind) in enumerate(run(2, listening)):
        assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1"}, rank
        assert not left_behind
