"""What one step says while it happens: seconds of its stages, numbers, decisions.

    log = Step(7)
    with log.stage("generate"): ...
    log.add({"batch/solved": 0.4})
    log.metrics()                          flat, names as users of the released code know them

Invariant: a stage that comes several times adds up; the stages and the rest together are the step's seconds.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from hpt_megatron.observe.idle import Span, idle
from hpt_megatron.protocol.step_report import StepReport

Heard = Callable[[str], None]
PER_TOKEN = ("old_log_prob", "reference", "values", "advantage", "update", "update_critic")
"""Stages that go over the tokens that a step is trained on."""
OF_EPOCHS = ("actor/loss", "actor/ppo_kl", "actor/pg_clipfrac", "actor/grad_norm", "critic/vf_loss", "critic/grad_norm")


def nobody(stage: str) -> None:
    """Listens to no stage."""


class Step:
    """See the module; `heard` is told the name of each stage as it begins, and nothing as it ends."""

    def __init__(self, number: int, heard: Heard = nobody) -> None:
        self.number, self.heard = number, heard
        self.stages: dict[str, float] = {}
        self.spans: list[Span] = []
        self.now = ""
        self.notes: list[str] = []
        self.records: list[dict[str, Any]] = []
        self._numbers: dict[str, float] = {}
        self._began = time.perf_counter()
        self._seconds: float | None = None
        self._tokens = 0
        self._sampled = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Its seconds count for a stage."""
        began, self.now = time.perf_counter(), name
        self.heard(name)
        try:
            yield
        finally:
            ended = time.perf_counter()
            self.stages[name] = self.stages.get(name, 0.0) + ended - began
            self.spans.append(Span(name, began - self._began, ended - self._began))
            self.now = ""
            self.heard("")

    def add(self, numbers: Mapping[str, float]) -> None:
        """Numbers by name; a later one of the same name stands."""
        self._numbers |= numbers

    def note(self, what: str) -> None:
        """One line for whoever watches."""
        self.notes.append(what)

    def decisions(self, records: Sequence[dict[str, Any]]) -> None:
        """One record per prompt."""
        self.records += records

    def tokens(self, count: int) -> None:
        """Tokens that the step was trained on."""
        self._tokens += count

    def sampled(self, count: int) -> None:
        """Tokens of responses that were made."""
        self._sampled += count

    def updates(self, reports: Sequence[StepReport], epochs: int = 1) -> None:
        """The optimizer steps: losses and metrics are means over those that report them, of several epochs each too."""
        named = []
        for report in reports:
            gained = report.losses.get("rl", 0.0) + report.losses.get("off", 0.0)
            own = {"actor/loss": report.loss, "actor/pg_loss": gained, "actor/grad_norm": report.grad_norm}
            named.append({f"loss/{name}": loss for name, loss in report.losses.items()} | dict(report.metrics) | own)
        told = _means(named) | _of_epochs(named, epochs) | {"actor/updates": float(len(reports))}
        told["actor/skipped"] = float(sum(bool(report.skipped) for report in reports))
        self._updated(told, reports, "actor", "update")

    def critic_updates(self, reports: Sequence[StepReport], epochs: int = 1) -> None:
        """Those of the critic; what its loss reports is already called `critic/...`."""
        named = [{**report.metrics, "critic/grad_norm": report.grad_norm} for report in reports]
        told = _means(named) | _of_epochs(named, epochs)
        self._updated(told, reports, "critic", "update of the critic")

    def _updated(self, told: dict[str, float], reports: Sequence[StepReport], whose: str, called: str) -> None:
        for report in reports:
            told[f"{whose}/lr"] = report.lr
            if report.skipped:
                self.note(f"{called} skipped: {report.skipped}")
        self.add(told)

    def end(self) -> None:
        """The step is over; what comes after it costs it nothing."""
        self._seconds = time.perf_counter() - self._began

    def metrics(self) -> dict[str, float]:
        """Everything, flat."""
        seconds = self._seconds if self._seconds is not None else time.perf_counter() - self._began
        timing = {f"timing_s/{name}": value for name, value in self.stages.items()}
        timing["timing_s/step"] = seconds
        timing |= {f"idle_s/{role}": value for role, value in idle(self.spans, seconds).items()}
        rate = {"perf/tokens": float(self._tokens), "perf/tokens_per_s": self._tokens / seconds if seconds else 0.0}
        return {**self._numbers, **timing, **self._per_token(), **rate}

    def _per_token(self) -> dict[str, float]:
        """Milliseconds of a stage for each token that it made or went over."""
        counts = dict.fromkeys(PER_TOKEN, self._tokens) | {"generate": self._sampled}
        return {
            f"timing_per_token_ms/{name}": 1000.0 * self.stages[name] / count
            for name, count in counts.items()
            if count and name in self.stages
        }


def _of_epochs(named: Sequence[Mapping[str, float]], epochs: int) -> dict[str, float]:
    """What each time over the rows moved, where they were gone over several times."""
    if epochs < 2:
        return {}
    size, found = len(named) // epochs, dict[str, float]()
    for epoch in range(epochs):
        means = _means(named[epoch * size : (epoch + 1) * size])
        found |= {f"epoch_{epoch + 1}/{name}": means[name] for name in OF_EPOCHS if name in means}
    return found


def _means(named: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each name over those that have it."""
    names = dict.fromkeys(name for each in named for name in each)
    return {name: fmean(each[name] for each in named if name in each) for name in names}
