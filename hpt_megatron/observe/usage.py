"""What a host is doing at a moment: its processor and memory as far as they are ours, and its devices.

    read = Usages()
    read()                  Usage(cpu=0.45, resident=1843200000, seconds=0.5, device=None, device_memory=None)
    read.source             "processor and resident memory of the process tree; no NVML here"

The process tree is this process with all that it started, so also the actors of a Ray that it started. Pages that
several of them share count in each. Devices are those that NVML shows, whoever uses them.

Invariant: what cannot be read is left out, and `source` says so; nothing here raises once it is made.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LOOK_AGAIN = 2.0
"""Seconds until the tree is walked again for processes that are new."""


@dataclass(frozen=True)
class Usage:
    """Shares from 0 to 1, of all cores over the `seconds` before and of the mean device, and bytes."""

    cpu: float
    resident: int
    seconds: float = 0.0
    device: float | None = None
    device_memory: int | None = None


class Processes:
    """This process and those below it."""

    def __init__(self) -> None:
        import psutil  # comes with the engines; a login node reads what a run left without it

        self.psutil = psutil
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._known: dict[int, tuple[Any, float]] = {}
        self._walked = self._read = float("-inf")

    def __call__(self) -> tuple[float, int, float]:
        """The share of this host's cores since the last call, resident bytes, and the seconds since then."""
        now = time.monotonic()
        if now - self._walked > LOOK_AGAIN:
            self._walk()
            self._walked = now
        spent, resident = 0.0, 0
        for number, (process, before) in list(self._known.items()):
            try:
                times = process.cpu_times()
                resident += process.memory_info().rss
            except self.psutil.Error:
                del self._known[number]
                continue
            own = times.user + times.system
            spent += own - before
            self._known[number] = (process, own)
        passed, self._read = now - self._read, now
        if not 0 < passed < float("inf"):
            return 0.0, resident, 0.0
        return min(1.0, max(0.0, spent / (passed * self.cores))), resident, passed

    def _walk(self) -> None:
        try:
            here = self.psutil.Process()
            tree = [here, *here.children(recursive=True)]
        except self.psutil.Error:
            return
        for process in tree:
            if process.pid not in self._known:
                try:
                    times = process.cpu_times()
                except self.psutil.Error:
                    continue
                self._known[process.pid] = (process, times.user + times.system)


class Devices:
    """Those that NVML shows, or some of them."""

    def __init__(self, indices: Sequence[int] | None = None) -> None:
        self.handles: list[Any] = []
        self.why = ""
        try:
            import pynvml

            pynvml.nvmlInit()
            every = range(pynvml.nvmlDeviceGetCount()) if indices is None else indices
            self.handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in every]
            self.nvml = pynvml
        except Exception as error:  # not installed, no driver, no such device: all the same to whoever reads
            self.why = f"no NVML here ({type(error).__name__})"

    def __call__(self) -> tuple[float | None, int | None]:
        """The mean share of time in which something ran, and bytes in use on all of them."""
        if not self.handles:
            return None, None
        try:
            busy = [self.nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100.0 for handle in self.handles]
            used = sum(int(self.nvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in self.handles)
        except Exception:  # a device that is gone
            return None, None
        return sum(busy) / len(busy), used


class Usages:
    """Both; see the module."""

    def __init__(self, indices: Sequence[int] | None = None) -> None:
        self.processes, self.devices = Processes(), Devices(indices)

    @property
    def source(self) -> str:
        """What the numbers are of."""
        own = "processor and resident memory of the process tree"
        count = len(self.devices.handles)
        return f"NVML, {count} devices; {own}" if count else f"{own}; {self.devices.why or 'no device'}"

    def __call__(self) -> Usage:
        """Now."""
        cpu, resident, seconds = self.processes()
        return Usage(cpu, resident, seconds, *self.devices())
