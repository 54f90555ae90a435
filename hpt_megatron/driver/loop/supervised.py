"""The supervised loop: every prompt that has a target is shown it, and nothing is generated.

    prepare   which prompts, and their demonstrations      advantage   credit and weights      update   optimizer steps

A run is supervised from end to end where `trainer.sft_warmup_steps` is null, and in its first steps where it is a
number; `rl.py` goes on from there. A warm-up may have prompts of its own (`data.warmup_files`).

Invariant: nothing here knows what a strategy, an estimator or a loss does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hpt_megatron.algorithms.objective.value import explained_variance
from hpt_megatron.algorithms.routing import record
from hpt_megatron.algorithms.routing.decision import Decision, Outcome, Routing
from hpt_megatron.config.algorithm import needs_reference, trains_critic
from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.prompts import Prompt
from hpt_megatron.driver.loop.algorithm import Algorithm, all_imitate
from hpt_megatron.driver.loop.balance import balance, followed, numbered_on
from hpt_megatron.driver.loop.roles import Collected, Roles
from hpt_megatron.driver.loop.step_record import StepRecord
from hpt_megatron.driver.loop.supply import Supply
from hpt_megatron.driver.loop.update import num_updates, seqlen_metrics, updates, weighted
from hpt_megatron.observe.step import Step
from hpt_megatron.protocol.batch import Batch


@dataclass(frozen=True)
class Made:
    """The rows of a step before credit, and how its prompts were decided."""

    batch: Batch
    outcomes: list[Outcome]
    routing: Routing

    @classmethod
    def joined(cls, rounds: Sequence["Made"]) -> "Made":
        """Of all rounds of a step; its prompts are numbered through."""
        batches: list[Batch] = []
        outcomes: list[Outcome] = []
        for each in rounds:
            batches.append(numbered_on(each.batch, len(outcomes)))
            outcomes += each.outcomes
        decisions = [decision for each in rounds for decision in each.routing.decisions]
        without = [(each.routing.without_target, each.routing.without_rollout) for each in rounds]
        return cls(Batch.concat(batches), outcomes, Routing(decisions, *map(sum, zip(*without, strict=True))))


class SupervisedLoop:
    """One step after another; what surrounds them is `run.py`'s."""

    def __init__(
        self, run: RunConfig, roles: Roles, algorithm: Algorithm, supply: Supply, warmup: Supply | None = None
    ) -> None:
        self.run, self.roles, self.algorithm = run, roles, algorithm
        self.supply, self.warmup = supply, warmup or supply
        self.record = StepRecord(run)

    def step(self, number: int, log: Step) -> None:
        """One step of the run."""
        self.record.begin(number, self.algorithm)
        self.learn(self.imitation(log), number, log)

    def imitation(self, log: Step) -> Made:
        """Prompts and their demonstrations, as rows."""
        with log.stage("prepare"):
            taken = self.warmup.take(self.run.data.train_batch_size)
            every = all_imitate(taken)
            none = Collected(_as_rollouts(self.roles.teacher.show([], [])))
            shown = self.shown(taken, every.routing.decisions)
            balanced = balance(none, shown, every)
            self.record.round(taken, none, shown, every)
        log.add({f"batch/{name}": float(count) for name, count in balanced.counts.items()})
        return Made(balanced.batch, every.outcomes, every.routing)

    def shown(self, taken: Sequence[Prompt], decisions: Sequence[Decision]) -> Batch:
        """Demonstrations of the prompts that are to imitate."""
        places = [place for place, decision in enumerate(decisions) if decision.demo]
        return self.roles.teacher.show([taken[place].record for place in places], places)

    def learn(self, made: Made, number: int, log: Step) -> None:
        """From rows to another model."""
        self._remember(made, number, log)
        if made.batch.rows.num_rows == 0:
            log.note("nothing to train on: every group was left out")
        else:
            self._update(self._advantage(made.batch, log), log)
        self.record.end(self.algorithm)

    def _remember(self, made: Made, number: int, log: Step) -> None:
        """What the order of later prompts depends on, and what the log says of decisions."""
        rates = {outcome.prompt: outcome.k / outcome.n for outcome in made.outcomes if outcome.n}
        sampler = self.supply.sampler
        sampler.observe(rates)
        if self.run.algorithm.remove_sfted_data:
            pairs = zip(made.outcomes, made.routing.decisions, strict=True)
            sampler.remove([outcome.prompt for outcome, decision in pairs if decision.demo and decision.drop])
        log.add(sampler.counts())
        log.add(record.metrics(made.outcomes, made.routing))
        log.add(record.composition(made.batch.rows))
        log.add(record.sides(made.batch.rows))
        log.decisions(record.records(number, made.outcomes, made.routing))

    def _advantage(self, batch: Batch, log: Step) -> Batch:
        """Old log-probs where something reads them, then credit."""
        config, rows = self.run.algorithm, batch.rows
        rows = rows.with_tokens(rollout_logp=rows.tokens["logp"])
        if num_updates(batch, self.run) * self.run.trainer.ppo_epochs > 1 or config.kl_ctrl.kl_coef > 0:
            with log.stage("old_log_prob"):
                rows = rows.with_tokens(old_logp=self.roles.policy.log_probs(batch.with_rows(rows)))
        reference = None
        if needs_reference(config) and self.roles.reference is not None:
            with log.stage("reference"):
                reference = self.roles.reference.log_probs(batch.with_rows(rows))
                rows = rows.with_tokens(ref_logp=reference)
        critic = self.roles.policy if config.share_critic else self.roles.critic
        if trains_critic(config) and critic is not None:
            with log.stage("values"):
                values = critic.values(batch.with_rows(rows))
                rows = rows.with_tokens(value=values, old_value=values)
        with log.stage("advantage"):
            credited, told = self.algorithm.credited(rows, reference)
        log.add(told)
        self.record.credit(batch.with_rows(rows), credited)
        return followed(batch, rows, credited)

    def _update(self, batch: Batch, log: Step) -> None:
        algorithm, critic = self.algorithm, self.roles.critic
        if critic is not None:
            with log.stage("update_critic"):
                own = algorithm.critic_components
                reports = [critic.update(weighted(part, algorithm, own), own) for part in self._parts(batch)]
                log.critic_updates(reports, self.run.trainer.ppo_epochs)
        if log.number > self.run.trainer.critic_warmup:
            with log.stage("update"):
                reports = []
                for part in self._parts(batch):
                    ready = weighted(part, algorithm, algorithm.components)
                    report = self.roles.policy.update(ready, algorithm.components)
                    reports.append(self.record.update(ready, report))
                log.updates(reports, self.run.trainer.ppo_epochs)
            log.add(algorithm.updated(log.metrics()))
        if "critic/error" in (told := log.metrics()):
            log.add({"critic/vf_explained_var": explained_variance(told)})
        log.tokens(batch.rows.num_tokens)
        log.add(seqlen_metrics(list(updates(batch, self.run)), self.run))

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """The rows of each optimizer step, gone over `ppo_epochs` times."""
        for _ in range(self.run.trainer.ppo_epochs):
            yield from updates(batch, self.run)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, beside what the trainer holds."""
        told = {"algorithm": self.algorithm.state(), "supply": self.supply.state()}
        return told if self.warmup is self.supply else {**told, "warmup": self.warmup.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        self.algorithm.restore(state["algorithm"])
        self.supply.restore(state["supply"])
        if self.warmup is not self.supply:
            self.warmup.restore(state["warmup"])


def _as_rollouts(empty: Batch) -> Batch:
    """No rows, with the columns that rollouts have."""
    fields = {"score": torch.zeros(0), "cut": torch.zeros(0).bool()}
    return empty.with_rows(empty.rows.with_fields(**fields))
