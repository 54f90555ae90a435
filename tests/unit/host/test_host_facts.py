"""What the kernel says: control groups of both versions, and this machine's own numbers."""

import resource
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.host import facts

pytestmark = pytest.mark.fast
GIB = facts.GIB


def machine(top: Path, available: int, membership: str) -> Path:
    """A /proc folder of a machine with so much memory, whose reader is a member of the control group."""
    proc = top / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: {99 * GIB // 1024} kB\nMemAvailable: {available // 1024} kB\n")
    (proc / "self" / "cgroup").write_text(membership)
    return proc


def group(folder: Path, limit: str, used: int, cache: int, version: int = 2) -> None:
    """The files of one control group, as the kernel writes them."""
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {cache}\n")


def test_the_machine_counts_where_no_group_sets_a_limit(tmp_path):
    proc = machine(tmp_path, 8 * GIB, "0::/user.slice\n")
    group(tmp_path / "cgroup" / "user.slice", "max", GIB, 0)
    assert facts.free_memory(proc, tmp_path / "cgroup") == 8 * GIB


def test_a_limit_of_a_job_two_levels_up_counts_and_its_cache_is_free(tmp_path):
    proc = machine(tmp_path, 80 * GIB, "0::/slurm/job_7/step_0\n")
    group(tmp_path / "cgroup" / "slurm" / "job_7" / "step_0", "max", GIB, 0)
    group(tmp_path / "cgroup" / "slurm" / "job_7", str(16 * GIB), 5 * GIB, 2 * GIB)
    assert facts.free_memory(proc, tmp_path / "cgroup") == 13 * GIB


def test_a_container_of_version_1_counts_although_its_path_names_the_outer_host(tmp_path):
    proc = machine(tmp_path, 80 * GIB, "9:name=systemd:/docker/abc\n4:cpu,memory:/docker/abc\n0::/\n")
    group(tmp_path / "cgroup" / "memory", str(4 * GIB), GIB, 0, version=1)
    assert facts.free_memory(proc, tmp_path / "cgroup") == 3 * GIB


def test_a_group_that_is_over_its_limit_leaves_nothing(tmp_path):
    proc = machine(tmp_path, 80 * GIB, "0::/\n")
    group(tmp_path / "cgroup", str(GIB), 2 * GIB, 0)
    assert facts.free_memory(proc, tmp_path / "cgroup") == 0


@given(levels=st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64), st.integers(0, 8)), min_size=1, max_size=4))
def test_the_tightest_group_of_any_nesting_decides(tmp_path_factory, levels):
    top = tmp_path_factory.mktemp("host")
    names = [f"g{depth}" for depth in range(len(levels))]
    proc = machine(top, 50 * GIB, f"0::/{'/'.join(names)}\n")
    for depth, (limit, used, cache) in enumerate(levels):
        group(top / "cgroup" / Path(*names[: depth + 1]), str(limit * GIB), used * GIB, cache * GIB)
    room = min(max(0, limit - used + cache) for limit, used, cache in levels)
    assert facts.free_memory(proc, top / "cgroup") == min(50, room) * GIB
    shutil.rmtree(top)


def test_the_driver_version_is_read_from_both_kinds_of_kernel_module(tmp_path):
    """The two lines are as the closed and the open module of release 580 write them; no such host was at hand."""
    version = tmp_path / "driver" / "nvidia" / "version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 2025\nGCC version: 12\n")
    assert facts.nvidia_driver(tmp_path) == "580.65.06"
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n")
    assert facts.nvidia_driver(tmp_path) == "580.65.06"
    assert facts.nvidia_driver(tmp_path / "nothing") == ""


def test_this_machine_answers_within_its_own_bounds(tmp_path):
    total = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    assert 0 < facts.free_memory() <= total * 1024
    assert 0 < facts.free_disk(tmp_path) <= shutil.disk_usage(tmp_path).total
    assert facts.descriptors()[0] == min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] % 2**63, 2**31)
    assert facts.shared_memory(tmp_path / "nothing") is None
