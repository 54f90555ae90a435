"""What surrounds the steps of a run: where it goes on from, validating, saving, and its end.

    run = Course(config, loop, {"trainer": policy}, journal, validate)
    run.go()

SIGTERM and SIGUSR1 end a run after the step that it is in: it is saved, and the exit code says that it goes on (75,
"try again"), for whoever starts it must not take it for finished.

Invariants
    1. A checkpoint holds what the next step needs and nothing that it can work out.
    2. The last step is always saved, in the form that any layout can read.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from hpt_megatron.config.run import RunConfig
from hpt_megatron.driver.loop.checkpoints import Checkpoints, read
from hpt_megatron.driver.loop.roles import Saved
from hpt_megatron.errors import HptError, UserError
from hpt_megatron.observe.journal import Journal
from hpt_megatron.observe.step import Step

CHECKPOINTS = "checkpoints"
STOPPED = 75
"""Exit code: saved, and to be gone on with."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
Validate = Callable[[int, Step], Mapping[str, float]]


class StoppedError(HptError):
    """Somebody asked the run to end before its last step."""

    exit_code = STOPPED


class Loop(Protocol):
    """Whatever goes step by step."""

    def step(self, number: int, log: Step) -> None:
        """One step."""

    def state(self) -> dict[str, Any]:
        """Plain JSON."""

    def restore(self, state: dict[str, Any]) -> None:
        """Takes it back."""


def total_steps(run: RunConfig, prompts: int) -> int:
    """The first of the two ends that a run names; an epoch has as many steps as it has whole batches."""
    trainer = run.trainer
    ends = [trainer.total_training_steps]
    if trainer.total_epochs is not None:
        ends.append(trainer.total_epochs * (prompts // run.data.train_batch_size))
    return max(1, min(end for end in ends if end is not None))


class Course:
    """See the module."""

    def __init__(
        self, run: RunConfig, loop: Loop, saved: Mapping[str, Saved], journal: Journal, validate: Validate | None
    ) -> None:
        self.run, self.loop, self.saved, self.journal, self.validate = run, loop, saved, journal, validate
        self.stop = ""
        self.checkpoints = Checkpoints(journal.folder / CHECKPOINTS, run.trainer.keep_last)

    def go(self) -> int:
        """From the first step that is missing to the last; answers how many were made."""
        done = self.resume()
        self.journal.begin(done)
        with self._asked_to_stop():
            for number in range(done + 1, self.journal.total + 1):
                self._step(number)
        return self.journal.total - done

    @contextmanager
    def _asked_to_stop(self) -> Iterator[None]:
        def note(number: int, frame: Any) -> None:
            self.stop = signal.Signals(number).name

        if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
            yield
            return
        before = {each: signal.signal(each, note) for each in SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def resume(self) -> int:
        """The step that the run stands at."""
        how = self.run.trainer.resume
        if how == "never":
            if self.checkpoints.steps():
                what, mend = "holds checkpoints of an earlier run", "another trainer.run_dir, or trainer.resume=auto"
                raise UserError(what, where=str(self.journal.folder), mend=mend)
            return 0
        path = self.checkpoints.newest() if how == "auto" else Path(how)
        if path is None:
            return 0
        told = read(path)
        for name, model in self.saved.items():
            model.restore(path / name)
        self.loop.restore(told["state"])
        self.journal.tell(f"goes on from {path}, step {told['step']}")
        return int(told["step"])

    def _step(self, number: int) -> None:
        last = number == self.journal.total
        log = Step(number)
        self.loop.step(number, log)
        told: Mapping[str, float] = {}
        every = self.run.trainer.test_freq
        if self.validate is not None and (_due(number, every) or (last and every > 0)):
            told = self.validate(number, log)
        stopped = self.stop and not last
        if last or stopped or _due(number, self.run.trainer.save_freq):
            worth = told.get(self.run.trainer.best_metric or "")
            with log.stage("save"):
                self._save(number, last, worth)
        log.end()
        self.journal.step(log)
        if told:
            self.journal.validation(number, told)
        if stopped:
            what = f"stopped by {self.stop} after step {number} of {self.journal.total}; the step is saved"
            raise StoppedError(what, mend="the same command goes on from it")

    def _save(self, number: int, last: bool, worth: float | None) -> None:
        def write(folder: Path) -> None:
            for name, model in self.saved.items():
                model.save(folder / name, {"step": number}, last)

        self.checkpoints.save(number, write, self.loop.state(), worth)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
