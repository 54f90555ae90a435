"""What surrounds the steps of a run: where it goes on from, validating, saving, and its end.

    run = Course(config, loop, {"trainer": policy}, journal, validate)
    run.go()

A monitor that says `stop` ends it the same way, with code 3: nobody should start it again unseen.

SIGTERM and SIGUSR1 end a run after the step that it is in: it is saved, and the exit code says that it goes on (75,
"try again"), for whoever starts it must not take it for finished. While roles start there is no step to end first.

Invariants
    1. A checkpoint holds what the next step needs and nothing that it can work out.
    2. The last step is always saved, in the form that any layout can read.
    3. A step's line is written before the step is saved: what a run goes on from has no step without a line, and lines
       without a checkpoint are taken back. So the seconds of a save stand in the line of the step after it.
"""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from hpt_megatron.config.run import RunConfig
from hpt_megatron.driver.loop.checkpoints import Checkpoints, read
from hpt_megatron.driver.loop.fence import UNFENCED, Fence
from hpt_megatron.driver.loop.moves import Moves
from hpt_megatron.driver.loop.roles import Saved
from hpt_megatron.driver.loop.saver import Saver
from hpt_megatron.errors import HptError, UserError
from hpt_megatron.observe.journal import Journal
from hpt_megatron.observe.step import Step

CHECKPOINTS = "checkpoints"
STOPPED = 75
"""Exit code: saved, and to be gone on with."""
HALTED = 3
"""Exit code: saved, and to be looked at."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StoppedError(HptError):
    """Somebody asked the run to end before its last step."""

    exit_code = STOPPED


class HaltedError(HptError):
    """A monitor that may end the run was met."""

    exit_code = HALTED


class Loop(Protocol):
    """Whatever goes step by step."""

    def step(self, number: int, log: Step) -> None:
        """One step."""

    def state(self) -> dict[str, Any]:
        """Plain JSON."""

    def restore(self, state: dict[str, Any]) -> None:
        """Takes it back."""


class Validate(Protocol):
    """What is measured beside the steps."""

    def begin(self) -> None:
        """Before the first of them."""

    def __call__(self, number: int, log: Step) -> Mapping[str, float]:
        """After one that is due."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Between steps, the signals end what is inside at once: nothing is lost, the newest checkpoint is there."""

    def stop(number: int, frame: Any = None) -> None:
        what = f"stopped by {signal.Signals(number).name} while no step was under way"
        raise StoppedError(what, mend="the same command goes on from the newest checkpoint")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, stop) for each in SIGNALS}
    try:
        yield
    except SystemExit as error:  # Ray puts a handler of its own in our handler's place
        if error.code in SIGNALS:
            stop(int(error.code))
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


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
        self,
        run: RunConfig,
        loop: Loop,
        saved: Mapping[str, Saved],
        journal: Journal,
        validate: Validate | None = None,
        fence: Fence = UNFENCED,
        moves: Moves | None = None,
    ) -> None:
        self.moves = moves or Moves()
        self.run, self.loop, self.saved, self.journal, self.validate = run, loop, saved, journal, validate
        self.stop, self.saving, self.fence = "", dict[str, float](), fence
        self.checkpoints = Checkpoints(journal.folder / CHECKPOINTS, run.trainer.keep_last, fence)
        self.saver = Saver(self.checkpoints, saved, run.trainer.async_save)

    def go(self) -> int:
        """From the first step that is missing to the last; answers how many were made."""
        done = self.resume()
        if not done and self.validate is not None:
            self.validate.begin()
        self.journal.begin(done)
        with closing(self.saver), self._asked_to_stop():
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
        log = self.journal.open_step(number)
        log.add(self.saving)
        self.saving = {}
        self.loop.step(number, log)
        log.add(self.moves.taken())
        told: Mapping[str, float] = {}
        every = self.run.trainer.test_freq
        if self.validate is not None and (_due(number, every) or (last and every > 0)):
            told = self.validate(number, log)
        log.end()
        self.fence.check()
        self.journal.step(log)
        if told:
            self.journal.validation(number, told)
        stopped, halted = self.stop and not last, self.journal.halt and not last
        ends = bool(stopped or halted)
        self.saver.look()
        if last or ends or _due(number, self.run.trainer.save_freq):
            with log.stage("save"):
                self.saver.save(number, self.loop.state(), told.get(self.run.trainer.best_metric or ""), last, ends)
            self.saving = {"timing_s/save": log.stages["save"]}
        if stopped:
            what = f"stopped by {self.stop} after step {number} of {self.journal.total}; the step is saved"
            raise StoppedError(what, mend="the same command goes on from it")
        if halted:
            what = f"ended after step {number} of {self.journal.total}, saved, by the monitor {self.journal.halt}"
            raise HaltedError(what, mend="look at it; `stop` in trainer.monitors set to `warn` goes on")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
