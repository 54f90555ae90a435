"""The files of a run that grow while it runs, and everyone who is told of its steps.

    RUN/metrics.jsonl      one line a step: {"step": 7, "of": 100, "actor/loss": ..., ...}
    RUN/decisions.jsonl    one line for each prompt of a step: successes, decision, weights
    RUN/validation.jsonl   one line a validation
    RUN/memory.jsonl       one line a sample, where `trainer.profile_memory` asks for it
    RUN/history/           a file for each prompt (`history.py`)
    RUN/generation_logs/   what the model answered at a validation (`generations.py`)

Then the display (`display.py`), the trackers (`trackers/`), the monitors (`monitors.py`), and who looks at memory
(`gpu_monitor.py`) are told. `build.py` joins them as a run asks for them; alone, a journal writes files and lines.

Invariants
    1. A line is written whole and at once, so that a file can be read while it grows.
    2. A resumed run takes away what lies behind the step that it goes on from: no step stands there twice.
"""

import json
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from hpt_megatron.observe.display import Display, Lines, line_of
from hpt_megatron.observe.generations import FOLDER as GENERATIONS
from hpt_megatron.observe.generations import ROLLOUTS, Generations, write_generations
from hpt_megatron.observe.gpu_monitor import GPUMonitor, stage_numbers
from hpt_megatron.observe.history import History
from hpt_megatron.observe.log_file import TOLD
from hpt_megatron.observe.monitors import HELD_OUT, Findings, Monitors
from hpt_megatron.observe.step import Step
from hpt_megatron.observe.trackers.tracker import Trackers
from hpt_megatron.observe.usage import Usage

METRICS, DECISIONS, VALIDATION, MEMORY = "metrics.jsonl", "decisions.jsonl", "validation.jsonl", "memory.jsonl"
FILES = (METRICS, DECISIONS, VALIDATION, MEMORY)
OF_A_STEP = re.compile(r"(?:train|validate|generation_log_step)_(\d+)\.jsonl?")


@dataclass(frozen=True)
class Watchers:
    """Who is told beside the files; those that are None are not there."""

    display: Display | None = None
    trackers: Trackers | None = None
    monitors: Monitors | None = None
    usage: GPUMonitor | None = None
    generations: Generations | None = None
    questions: Mapping[str, str] = field(default_factory=dict)


class Journal:
    """See the module; `shown` is where lines for people go."""

    def __init__(self, folder: Path, total: int, shown: TextIO, watchers: Watchers | None = None) -> None:
        self.folder, self.total = folder, total
        self.watchers = watchers or Watchers()
        self.display = self.watchers.display or Lines(shown, total)
        self.history = History(folder)
        self.halt = ""
        self.number = 0
        self._missed = False
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, step: int) -> None:
        """Before the first step: what an earlier attempt wrote behind `step` is undone."""
        self.number = step
        self.history.begin(step, _told(self.folder / DECISIONS))
        for name in FILES:
            _cut(self.folder / name, step)
        own = self.watchers.generations
        for folder in (self.folder / ROLLOUTS, (own and own.folder) or self.folder / GENERATIONS):
            for path in folder.glob("*_*.json*"):
                found = OF_A_STEP.fullmatch(path.name)
                if found and int(found[1]) > step:
                    path.unlink()
        if self.watchers.monitors is not None:
            both = [*_told(self.folder / METRICS), *_told(self.folder / VALIDATION)]
            self.watchers.monitors.begin(sorted(both, key=_step))
        if self.watchers.trackers is not None:
            self.watchers.trackers.begin(step + 1)
        if self.watchers.usage is not None:
            self.tell(f"memory and use by stage: {self.watchers.usage.read.source}")
        self.display.begin(step)

    def open_step(self, number: int) -> Step:
        """A step begins."""
        self.number = number
        return Step(number, self._stage)

    def _stage(self, name: str) -> None:
        if self.watchers.usage is not None:
            self.watchers.usage.relabel(name)
        self.display.stage(self.number, name)

    def step(self, log: Step) -> None:
        """Writes a step down and tells it."""
        numbers = log.metrics()
        self._append(DECISIONS, log.records)
        if log.records:
            numbers["uni/prompts_flipped"] = float(self.history.add(log.records))
        if self.watchers.usage is not None:
            numbers |= stage_numbers(self.watchers.usage.taken())
        found = self._look(numbers)
        numbers |= found.numbers
        self._append(METRICS, [{"step": log.number, "of": self.total, **numbers}])
        if self.watchers.trackers is not None:
            self.watchers.trackers.write(log.number, numbers)
        self.display.step(log.number, numbers)
        TOLD.info("%s", line_of(log.number, self.total, numbers))
        for note in log.notes:
            self.tell(f"  {note}")
        self._warn(found)

    def validation(self, step: int, numbers: Mapping[str, float]) -> None:
        """Writes a validation down and tells it."""
        self._append(VALIDATION, [{"step": step, **numbers}])
        if self.watchers.trackers is not None:
            self.watchers.trackers.write(step, numbers)
        told = ", ".join(f"{name} {number:.3f}" for name, number in sorted(numbers.items()))
        self.tell(f"  validation: {told}")
        self._warn(self._look(numbers))
        self._miss(numbers)
        if self.watchers.generations is not None:
            write_generations(self.folder, step, self.watchers.generations, self.watchers.questions)

    def _look(self, numbers: Mapping[str, float]) -> Findings:
        if self.watchers.monitors is None:
            return Findings()
        found = self.watchers.monitors.look(numbers)
        self.halt = found.stop
        return found

    def _warn(self, found: Findings) -> None:
        for line in found.told:
            self.tell(f"  {line}", logging.WARNING)

    def _miss(self, numbers: Mapping[str, float]) -> None:
        """Says once that the loss on held-out demonstrations is watched and not measured."""
        monitors = self.watchers.monitors
        if self._missed or monitors is None or "demo_loss" not in monitors.acts:
            return
        if not any(name.startswith(HELD_OUT) for name in numbers):
            self._missed = True
            self.tell("  no held-out demonstrations are measured; the monitor demo_loss has nothing to watch")

    def sampled(self, stage: str, usage: Usage) -> None:
        """One sample of memory over time."""
        line = {"at": round(time.time(), 3), "step": self.number, "stage": stage, "host": usage.resident}
        line |= {"cpu": usage.cpu, "device": usage.device, "device_memory": usage.device_memory}
        self._append(MEMORY, [line])

    def tell(self, line: str, level: int = logging.INFO) -> None:
        """One line to whoever watches."""
        self.display.tell(line)
        TOLD.log(level, "%s", line.strip())

    def close(self) -> None:
        """Nothing more comes."""
        if self.watchers.usage is not None:
            self.watchers.usage.stop()
        if self.watchers.trackers is not None:
            self.watchers.trackers.close()
        self.display.close()

    def _append(self, name: str, told: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(_plain(each)) + "\n" for each in told)
        if text:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(text)


def _told(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file that are whole."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if _step_of(line) < math.inf:
                yield json.loads(line)


def _step(line: Mapping[str, Any]) -> float:
    return float(line["step"])


def _cut(path: Path, step: int) -> None:
    """Leaves the lines up to a step."""
    if not path.exists():
        return
    beside = path.with_name(f"{path.name}.new")
    with path.open(encoding="utf-8") as lines, beside.open("w", encoding="utf-8") as kept:
        kept.writelines(f"{line.rstrip()}\n" for line in lines if _step_of(line) <= step)
    beside.replace(path)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # torn by the end of its writer


def _plain(told: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no word for what is no number."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in told.items()
    }
