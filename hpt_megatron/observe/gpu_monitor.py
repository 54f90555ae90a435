"""Duration, utilisation and memory by stage, sampled by a thread.

    with GPUMonitor(device_index=0, log_file=Path("usage.log"), label="actor generation"):
        ...                                     one line in the file as it ends

    watch = GPUMonitor().start()                in a run: the label is the stage
    watch.relabel("generate"); ...; watch.relabel("")
    watch.taken()                               {"generate": Report(...)}; counts from zero again

Without NVML it is processor and resident memory of the process tree (`usage.py`), and the line says so.

Invariant: a stage that was there at all has a sample: one is taken as each label begins and as it ends.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hpt_megatron.observe.usage import Usage, Usages

GIB = 1 << 30
Sampled = Callable[[str, Usage], None]


@dataclass(frozen=True)
class Track:
    """Samples of one quantity: their sum, what they weigh together, the largest."""

    total: float = 0.0
    weight: float = 0.0
    most: float = 0.0

    def plus(self, value: float | None, weight: float = 1.0) -> "Track":
        """With one more; with none it stays."""
        if value is None or weight <= 0:
            return self
        return Track(self.total + weight * value, self.weight + weight, max(self.most, value))

    @property
    def mean(self) -> float:
        """0 without a sample."""
        return self.total / self.weight if self.weight else 0.0


@dataclass(frozen=True)
class Report:
    """What the samples of one label came to; devices only where they were read."""

    seconds: float = 0.0
    cpu: Track = Track()
    resident: Track = Track()
    device: Track = Track()
    device_memory: Track = Track()

    def plus(self, usage: Usage, began: bool = False) -> "Report":
        """With one more sample. Where the label `began` with it, shares of the time before it belong to another."""
        return Report(
            self.seconds,
            self.cpu if began else self.cpu.plus(usage.cpu, usage.seconds),
            self.resident.plus(usage.resident),
            self.device if began else self.device.plus(usage.device),
            self.device_memory.plus(usage.device_memory),
        )

    def line(self, label: str, source: str) -> str:
        """For people.

        >>> Report(2.0).plus(Usage(cpu=0.5, resident=1 << 30, seconds=0.1)).line("tools", "process tree")
        'tools: 2.0 s, processor mean 50 % max 50 %, resident mean 1.00 GiB max 1.00 GiB (process tree)'
        """
        words = [f"{label or 'all'}: {self.seconds:.1f} s"]
        if self.device_memory.weight:
            words += [f"device {_percent(self.device)}", f"device memory {_gib(self.device_memory)}"]
        words += [f"processor {_percent(self.cpu)}", f"resident {_gib(self.resident)}"]
        return f"{', '.join(words)} ({source})"


class GPUMonitor:
    """See the module; `sampled` is told every sample with its label."""

    def __init__(
        self,
        device_index: int | None = None,
        log_file: Path | str | None = None,
        label: str = "",
        interval: float = 0.1,
        read: Usages | None = None,
        sampled: Sampled | None = None,
    ) -> None:
        self.read = read or Usages(None if device_index is None else [device_index])
        self.log_file, self.label, self.interval, self.sampled = log_file, label, interval, sampled
        self._reports: dict[str, Report] = {}
        self._since = time.monotonic()
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> "GPUMonitor":
        """Begins to sample."""
        self._sample(began=True)
        self._since = time.monotonic()
        self._over.clear()
        self._thread = threading.Thread(target=self._go, name="usage", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> Report:
        """Ends it; answers what came of the label that it ends with, and writes it down."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        label = self.label
        self.relabel(label)
        report = self._reports.get(label, Report())
        if self.log_file is not None:
            with Path(self.log_file).open("a", encoding="utf-8") as file:
                file.write(report.line(label, self.read.source) + "\n")
        return report

    def relabel(self, label: str) -> None:
        """What comes now counts for another label; none: for nothing."""
        with self._lock:
            usage, now = self.read(), time.monotonic()
            if self.label:
                report = self._reports.get(self.label, Report()).plus(usage)
                self._reports[self.label] = replace(report, seconds=report.seconds + now - self._since)
            if label and label != self.label:
                self._reports[label] = self._reports.get(label, Report()).plus(usage, began=True)
            self.label, self._since = label, now
        self._tell(label, usage)

    def taken(self) -> dict[str, Report]:
        """What was counted by label since the last time."""
        with self._lock:
            found, self._reports = self._reports, {}
        return found

    def _go(self) -> None:
        while not self._over.wait(self.interval):
            self._sample()

    def _sample(self, began: bool = False) -> None:
        with self._lock:
            usage, label = self.read(), self.label
            if label:
                self._reports[label] = self._reports.get(label, Report()).plus(usage, began)
        self._tell(label, usage)

    def _tell(self, label: str, usage: Usage) -> None:
        if self.sampled is not None:
            self.sampled(label, usage)

    def __enter__(self) -> "GPUMonitor":
        return self.start()

    def __exit__(self, *ended: object) -> None:
        self.stop()


def stage_numbers(reports: Mapping[str, Report]) -> dict[str, float]:
    """`memory/STAGE/...` in bytes, the most of a stage, and `util/STAGE/...`, the mean share from 0 to 1."""
    told: dict[str, float] = {}
    for stage, report in reports.items():
        told[f"memory/{stage}/host"] = report.resident.most
        told[f"util/{stage}/host"] = report.cpu.mean
        if report.device_memory.weight:
            told[f"memory/{stage}/device"] = report.device_memory.most
            told[f"util/{stage}/device"] = report.device.mean
    return told


def _percent(share: Track) -> str:
    return f"mean {100 * share.mean:.0f} % max {100 * share.most:.0f} %"


def _gib(size: Track) -> str:
    return f"mean {size.mean / GIB:.2f} GiB max {size.most / GIB:.2f} GiB"
