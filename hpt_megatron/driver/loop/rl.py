"""The loop: rollouts, a decision per prompt, credit, an update, new weights for the engines.

    prepare   which prompts                    advantage   scores become credit
    generate  rollouts, scored as they end     update      optimizer steps
    balance   imitate or explore, per prompt   publish     weights to the engines

Where gates leave groups out, `generate` and `balance` come again for other prompts, `algorithm.groups.max_rounds` times
at most. The first `trainer.sft_warmup_steps` steps are those of `supervised.py`.

Invariants
    1. Rollouts of a step are sampled with the weights that the step before it made; with `trainer.staleness: 1` its
       first round with those of one step earlier, while that step was trained. Each token carries its version.
    2. Nothing here knows what a strategy, an estimator or a loss does.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from hpt_megatron.algorithms.build import build_prefix
from hpt_megatron.algorithms.lengths import length_metrics
from hpt_megatron.algorithms.routing.decision import Decision, Routing
from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.prompts import Prompt
from hpt_megatron.driver.loop.ahead import Ahead
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.driver.loop.balance import balance
from hpt_megatron.driver.loop.joined import Part, over_rounds
from hpt_megatron.driver.loop.learned import Learned
from hpt_megatron.driver.loop.roles import NO_PREFIX, Asked, Collected, Roles
from hpt_megatron.driver.loop.supervised import Made, SupervisedLoop
from hpt_megatron.driver.loop.supply import Supply
from hpt_megatron.errors import HptError
from hpt_megatron.observe.step import Step
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.rows import Rows
from hpt_megatron.rollout.engine.role import EngineDiedError

TRIES = 3
"""Times that the rollouts of a step are asked for, where engines die."""
BEFORE_ROLLOUTS = "0"
"""The version of the weights that a run starts from."""


class RlLoop(SupervisedLoop):
    """The supervised loop with rollouts."""

    def __init__(
        self, run: RunConfig, roles: Roles, algorithm: Algorithm, supply: Supply, warmup: Supply | None = None
    ) -> None:
        super().__init__(run, roles, algorithm, supply, warmup)
        self.version = BEFORE_ROLLOUTS
        self.prefix = build_prefix(run.algorithm, run.trainer.seed) if run.algorithm.n_prefix else NO_PREFIX
        self.ahead: Ahead[Collected] = Ahead()
        self.learned = Learned(run, roles.judges)

    def step(self, number: int, log: Step) -> None:
        """One step of the run."""
        if self.run.imitates(number):
            super().step(number, log)
            return
        self.begin(number)
        self.learn(self.rounds(number, log), number, log)

    def begin(self, number: int) -> None:
        """Before the first prompts of a step with rollouts are taken."""
        self.record.begin(number, self.algorithm)
        self.algorithm.refill.begin()

    def rounds(self, number: int, log: Step) -> Made:
        """Rounds of rollouts until enough groups are kept, or no round is left."""
        made: list[Made] = []
        sampled: list[Rows] = []
        told: list[Part] = []
        while (draw := self.algorithm.refill.to_draw()) > 0:
            with log.stage("prepare"):
                taken = self.supply.take(draw)
            if made:
                collected = self.collect(self._asked(taken, number), log, "generate_more")
            else:
                collected = self._first_round(taken, number, log)
            told.append((collected.batch.rows.num_rows, collected.metrics))
            sampled.append(collected.batch.rows)
            made.append(self.decided(taken, collected, number, log))
        log.add(over_rounds(told))
        log.add(length_metrics(sampled))
        return Made.joined(made)

    def generate(self, taken: Sequence[Prompt], number: int, log: Step) -> Collected:
        """Scored rollouts of some prompts."""
        return self.collect(self._asked(taken, number), log, "generate")

    def decided(self, taken: Sequence[Prompt], collected: Collected, number: int, log: Step) -> Made:
        """The rows that a round leaves: rollouts of prompts that explore, demonstrations of those that imitate."""
        log.add({f"batch/left_out/{why}": float(count) for why, count in collected.left_out.items()})
        with log.stage("balance"):
            decided = self.algorithm.decide(collected, taken, number)
            shown = self.shown(taken, decided.decisions)
            balanced = balance(collected, shown, decided)
            self.record.round(taken, collected, shown, decided)
        log.add(dict(decided.metrics))
        log.add({f"batch/{name}": float(count) for name, count in balanced.counts.items()})
        log.sampled(int(collected.batch.rows.tokens["trained"].sum()))
        routing = decided.routing
        kept = Routing(decided.decisions, routing.without_target, routing.without_rollout)
        return Made(balanced.batch, decided.outcomes, kept)

    def learn(self, made: Made, number: int, log: Step) -> None:
        """As above; whoever generates next does it at the new weights."""
        super().learn(made, number, log)
        self.version = str(number)

    def _first_round(self, taken: Sequence[Prompt], number: int, log: Step) -> Collected:
        """What was generated ahead, or else now; then the next step's begins."""
        collected = None
        if self.ahead.begun:
            try:
                with log.stage("generate"):
                    sampled = self.ahead.result()
                collected = self.judged(sampled, self._asked(taken, number), log)
            except EngineDiedError as error:
                log.note(f"{error}; this step's rollouts are asked for again")
                self._mend(log)
        if collected is None:
            collected = self.generate(taken, number, log)
        if self.run.trainer.staleness and number < (self.run.trainer.total_training_steps or 0):
            self._begin_next(number + 1, log)
        return collected

    def _begin_next(self, number: int, log: Step) -> None:
        rollout, engines = self.roles.rollout, self.roles.engines
        assert rollout is not None, "there was a first round"
        assert engines is not None, "there was a first round"
        asked = self._asked(self.supply.take_ahead(self.run.data.train_batch_size), number)
        try:
            with log.stage("publish"), engines.at(self.version) as published:
                _add_published(published, log)
        except EngineDiedError as error:  # the next step asks for its rollouts itself
            log.note(f"{error}; it is started again")
            self._mend(log)
            return
        self.ahead.begin(lambda: rollout.collect(asked))

    def _asked(self, taken: Sequence[Prompt], number: int) -> Asked:
        return Asked(
            records=tuple(prompt.record for prompt in taken),
            places=tuple(range(len(taken))),
            samples=self.run.rollouts_per_prompt,
            step=number,
            greedy=self.run.algorithm.adv_estimator == "remax",
            prefix=self.prefix,
        )

    def collect(self, asked: Asked, log: Step, stage: str) -> Collected:
        """Rollouts at the weights that the step before made."""
        rollout, engines = self.roles.rollout, self.roles.engines
        if rollout is None or engines is None:
            raise HptError("this run has nobody who generates", mend="a recipe with rollouts")
        self.ahead.wait()
        for left in reversed(range(TRIES)):
            try:
                with ExitStack() as stack:
                    with log.stage("publish"):
                        _add_published(stack.enter_context(engines.at(self.version)), log)
                    with log.stage(stage):
                        sampled = rollout.collect(asked)
                return self.judged(sampled, asked, log)
            except EngineDiedError as error:
                if not left:
                    raise
                log.note(f"{error}; it is started again")
                self._mend(log)
        raise AssertionError  # the last try answers or raises

    def judged(self, sampled: Collected, asked: Asked, log: Step) -> Collected:
        """With what reward models say of them, once the engines no longer have the devices."""
        if not self.learned.asked:
            return sampled
        with log.stage("reward_models"):
            return self.learned.judged(sampled, asked)

    def _mend(self, log: Step) -> None:
        assert self.roles.engines is not None  # somebody generated
        with log.stage("mend"):
            self.roles.engines.mend()

    def shown(self, taken: Sequence[Prompt], decisions: Sequence[Decision]) -> Batch:
        """Rollouts that begin with their demonstration bring it themselves."""
        return self.roles.teacher.show([], []) if self.prefix.n_prefix else super().shown(taken, decisions)

    def state(self) -> dict[str, Any]:
        """Also the version of the weights."""
        return {**super().state(), "version": self.version, "learned": self.learned.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """As above; the engines have nothing of it yet."""
        super().restore(state)
        self.version = state["version"]
        self.learned.restore(state.get("learned", {}))
        if self.roles.engines is not None:
            self.roles.engines.forget()


def _add_published(published: Any, log: Step) -> None:
    if published is not None:
        log.add({"publish/bytes": float(published.bytes), "publish/seconds": published.seconds})
