"""What the kernel says about this host, in bytes and counts; nothing is tried and nothing heavy is imported.

Invariants:
    1. Free memory is the smallest of what the machine and every control group above this process still grant: a
       container's or a SLURM job's limit is what ends a run there, not the machine's memory.
    2. Page cache that the kernel gives back on demand counts as free, in the machine's number and in a group's.
    3. Every reader takes the folder it reads from, so that another host's files can be read as well.

Example:
    >>> free_memory() > 0
    True
"""

import os
import resource
import shutil
from pathlib import Path

GIB = 2**30
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def available_memory(proc: Path = PROC) -> int:
    """What the machine could give to a new process without swapping."""
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no MemAvailable in {proc / 'meminfo'}")


def memory_group(proc: Path = PROC, cgroups: Path = CGROUPS) -> tuple[Path, Path, bool] | None:
    """The control group that accounts this process's memory: its folder, the top one, and whether it is version 2."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return None
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    for controllers, path in paths.items():
        if "memory" in controllers.split(","):
            return cgroups / "memory" / path.lstrip("/"), cgroups / "memory", False
    return (cgroups / paths[""].lstrip("/"), cgroups, True) if "" in paths else None


def group_room(folder: Path, version_2: bool) -> int | None:
    """How much one control group may still take, or None where it sets no limit."""
    limit_file, used_file, cache = ("memory.max", "memory.current", "inactive_file")
    if not version_2:
        limit_file, used_file, cache = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    try:
        limit = (folder / limit_file).read_text().strip()
        if limit == "max":
            return None
        used = int((folder / used_file).read_text())
        counters = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return max(0, int(limit) - used + int(counters.get(cache, "0")))


def granted_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """The smallest room among the control groups above this process, or None where none sets a limit."""
    found = memory_group(proc, cgroups)
    if found is None:
        return None
    folder, top, version_2 = found
    # Inside a container the path may name folders of the outer host; the top folder is then the container's own group.
    above = [folder, *(parent for parent in folder.parents if parent == top or top in parent.parents)]
    rooms = [room for room in (group_room(each, version_2) for each in above) if room is not None]
    return min(rooms, default=None)


def free_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """What a run can still take, in bytes."""
    available, granted = available_memory(proc), granted_memory(proc, cgroups)
    return available if granted is None else min(available, granted)


def free_disk(folder: Path) -> int:
    """Free bytes on the disk that holds the folder."""
    return shutil.disk_usage(folder).free


def shared_memory(folder: Path = Path("/dev/shm")) -> int | None:
    """Free bytes of the shared-memory file system, or None where there is none."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def descriptors() -> tuple[int, int]:
    """How many files a process may hold open: now, and after it raised its own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    return (2**31 if soft == unlimited else soft), (2**31 if hard == unlimited else hard)


def nvidia_driver(proc: Path = PROC) -> str:
    """The version of the loaded NVIDIA kernel driver, or an empty text."""
    try:
        words = (proc / "driver" / "nvidia" / "version").read_text().split("\n")[0].split()
    except OSError:
        return ""
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")
