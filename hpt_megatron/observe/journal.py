"""The files of a run that grow while it runs, and the line that a person reads after each step.

    RUN/metrics.jsonl      one line a step: {"step": 7, "actor/loss": ..., ...}
    RUN/decisions.jsonl    one line for each prompt of a step: successes, decision, weights
    RUN/validation.jsonl   one line a validation

Invariants
    1. A line is written whole and at once, so that a file can be read while it grows.
    2. A resumed run takes away what lies behind the step that it goes on from: no step stands there twice.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from hpt_megatron.observe.step import Step

FILES = ("metrics.jsonl", "decisions.jsonl", "validation.jsonl")
ROLLOUTS = "rollouts"
"""The folder of trajectories, a file for each step: `train_7.jsonl`."""


class Journal:
    """See the module; `shown` is where lines for people go."""

    def __init__(self, folder: Path, total: int, shown: TextIO) -> None:
        self.folder, self.total, self.shown = folder, total, shown
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, step: int) -> None:
        """Before the first step: what an earlier attempt wrote behind `step` is undone."""
        for name in FILES:
            path = self.folder / name
            if path.exists():
                lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
                path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        for path in (self.folder / ROLLOUTS).glob("*_*.jsonl"):
            number = path.stem.rpartition("_")[2]
            if number.isdecimal() and int(number) > step:
                path.unlink()

    def step(self, log: Step) -> None:
        """Writes a step down and tells it."""
        numbers = log.metrics()
        self._append("metrics.jsonl", [{"step": log.number, **numbers}])
        self._append("decisions.jsonl", log.records)
        self.tell(line_of(log.number, self.total, numbers))
        for note in log.notes:
            self.tell(f"  {note}")

    def validation(self, step: int, numbers: Mapping[str, float]) -> None:
        """Writes a validation down and tells it."""
        self._append("validation.jsonl", [{"step": step, **numbers}])
        told = ", ".join(f"{name} {number:.3f}" for name, number in sorted(numbers.items()))
        self.tell(f"  validation: {told}")

    def tell(self, line: str) -> None:
        """One line to whoever watches."""
        self.shown.write(f"{line}\n")
        self.shown.flush()

    def _append(self, name: str, told: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(_plain(each)) + "\n" for each in told)
        if text:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(text)


def line_of(step: int, total: int, numbers: Mapping[str, float]) -> str:
    """A step in one line.

    >>> line_of(7, 100, {"timing_s/step": 1.25, "reward/mean": 0.5, "uni/sft_data_ratio": 0.25, "actor/loss": -0.1})
    'step 7/100  1.2 s  reward 0.500  sft 25 %  loss -0.1000'
    """
    words = [f"step {step}/{total}", f"{numbers.get('timing_s/step', 0.0):.1f} s"]
    if "reward/mean" in numbers:
        words.append(f"reward {numbers['reward/mean']:.3f}")
    if "uni/sft_data_ratio" in numbers:
        words.append(f"sft {numbers['uni/sft_data_ratio']:.0%}".replace("%", " %"))
    if "actor/loss" in numbers:
        words.append(f"loss {numbers['actor/loss']:.4f}")
    return "  ".join(words)


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
