"""Blocks of ports: several jobs on a host, ports that others have, and what comes from a job's own block."""

import socket
import subprocess
import sys

import pytest

from hpt_megatron.host.ports import BLOCK, RANGE, block, free_port, is_free, listener

pytestmark = pytest.mark.fast
HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def _own_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_two_jobs_have_different_blocks_even_where_both_begin_at_the_same_place():
    with block(HOST, 7) as first, block(HOST, 7) as second:
        assert not set(first) & set(second)
        assert {len(first), len(second)} == {BLOCK}
    with block(HOST, 7) as again:
        assert again == first, "what was given back is free"


def test_a_block_with_a_port_that_somebody_has_is_passed_over():
    with block(HOST, 3) as expected:
        pass
    with socket.create_server((HOST, expected[50])), block(HOST, 3) as found:
        assert found[0] == expected[0] + BLOCK


def test_a_lock_ends_with_the_process_that_has_it(tmp_path):
    program = (
        f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
        "from hpt_megatron.host.ports import block\n"
        f"with block({HOST!r}, 5) as ports: print(ports[0], flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    first = int(process.stdout.readline())
    with block(HOST, 5) as other:
        assert other[0] != first
    process.kill()
    process.communicate()
    with block(HOST, 5) as ours:
        assert ours[0] == first


def test_free_ports_of_a_job_are_of_its_block(monkeypatch):
    monkeypatch.setenv("HPT_PORTS", "20110-20119")
    assert all(20_110 <= free_port() <= 20_119 for _ in range(50))
    monkeypatch.delenv("HPT_PORTS")
    assert all(RANGE[0] <= free_port() <= RANGE[1] for _ in range(50))


def test_nobody_can_take_a_port_that_is_listened_on_from_the_start(monkeypatch):
    """Where one number alone is left it is found."""
    first = free_port()
    monkeypatch.setenv("HPT_PORTS", f"{first}-{first}")
    with listener() as held:
        assert held.getsockname() == ("127.0.0.1", first)
        assert not is_free("127.0.0.1", first)
        with socket.create_connection(("127.0.0.1", first), timeout=5):
            pass
    assert is_free("127.0.0.1", first)
