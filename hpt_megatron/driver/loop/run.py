"""What surrounds the steps of a run: where it goes on from, validating, saving, and its end.

    run = Course(config, loop, policy, validate, folder, journal)
    run.go()

Invariants
    1. A checkpoint holds what the next step needs and nothing that it can work out.
    2. The last step is always saved, in the form that any layout can read.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from hpt_megatron.config.run import RunConfig
from hpt_megatron.driver.loop.checkpoints import TRAINER, Checkpoints, read
from hpt_megatron.driver.loop.roles import Policy
from hpt_megatron.observe.journal import Journal
from hpt_megatron.observe.step import Step

Validate = Callable[[int, Step], Mapping[str, float]]


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

    def __init__(self, run: RunConfig, loop: Loop, policy: Policy, journal: Journal, validate: Validate | None) -> None:
        self.run, self.loop, self.policy, self.journal, self.validate = run, loop, policy, journal, validate
        self.checkpoints = Checkpoints(journal.folder / "checkpoints", run.trainer.keep_last)

    def go(self) -> int:
        """From the first step that is missing to the last; answers how many were made."""
        done = self.resume()
        self.journal.begin(done)
        for number in range(done + 1, self.journal.total + 1):
            self._step(number)
        return self.journal.total - done

    def resume(self) -> int:
        """The step that the run stands at."""
        how = self.run.trainer.resume
        if how == "never":
            return 0
        path = self.checkpoints.newest() if how == "auto" else Path(how)
        if path is None:
            return 0
        told = read(path)
        self.policy.restore(path / TRAINER)
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
        if last or _due(number, self.run.trainer.save_freq):
            with log.stage("save"):
                self._save(number, last)
        log.end()
        self.journal.step(log)
        if told:
            self.journal.validation(number, told)

    def _save(self, number: int, last: bool) -> None:
        def write(folder: Path) -> None:
            self.policy.save(folder, {"step": number}, last)

        self.checkpoints.save(number, write, self.loop.state())


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
