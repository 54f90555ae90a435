"""The loop: rollouts, a decision per prompt, credit, an update, new weights for the engines.

    prepare   which prompts                    advantage   scores become credit
    generate  rollouts, scored as they end     update      optimizer steps
    balance   imitate or explore, per prompt   publish     weights to the engines

Where gates leave groups out, `generate` and `balance` come again for other prompts, `algorithm.groups.max_rounds` times
at most. In the first `trainer.sft_warmup_steps` steps every prompt with a target is imitated and nothing is generated.

Invariants
    1. Rollouts of a step are sampled with the weights that the step before it made.
    2. Nothing here knows what a strategy, an estimator or a loss does.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from hpt_megatron.algorithms.build import build_prefix
from hpt_megatron.algorithms.lengths import length_metrics
from hpt_megatron.algorithms.objective.part import Component
from hpt_megatron.algorithms.objective.value import explained_variance
from hpt_megatron.algorithms.routing import record
from hpt_megatron.algorithms.routing.decision import IMITATE, Decision, Outcome, Routing, skipped
from hpt_megatron.config.algorithm import needs_reference
from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.prompts import Prompt, Prompts
from hpt_megatron.data.samplers import Sampler
from hpt_megatron.driver.loop.algorithm import Algorithm, Decided
from hpt_megatron.driver.loop.balance import balance, numbered_on
from hpt_megatron.driver.loop.roles import NO_PREFIX, Asked, Collected, Roles
from hpt_megatron.driver.loop.update import micro_batch_of_row, num_updates, seqlen_metrics, updates
from hpt_megatron.errors import HptError
from hpt_megatron.observe.step import Step
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.rows import Rows
from hpt_megatron.rollout.engine.role import EngineDiedError

TRIES = 3
"""Times that the rollouts of a step are asked for, where engines die."""
BEFORE_ROLLOUTS = "0"
"""The version of the weights that a run starts from."""


@dataclass(frozen=True)
class Made:
    """The rows of a step before credit, and how its prompts were decided."""

    batch: Batch
    outcomes: list[Outcome]
    routing: Routing


class RlLoop:
    """One step after another; what surrounds them is `run.py`'s."""

    def __init__(self, run: RunConfig, roles: Roles, algorithm: Algorithm, prompts: Prompts, sampler: Sampler) -> None:
        self.run, self.roles, self.algorithm = run, roles, algorithm
        self.prompts, self.sampler = prompts, sampler
        self.version = BEFORE_ROLLOUTS
        self.prefix = build_prefix(run.algorithm, run.trainer.seed) if run.algorithm.n_prefix else NO_PREFIX

    def step(self, number: int, log: Step) -> None:
        """One step of the run."""
        made = self._imitation(log) if number <= self.run.trainer.sft_warmup_steps else self._rollouts(number, log)
        self._remember(made, number, log)
        if made.batch.rows.num_rows == 0:
            log.note("nothing to train on: every group was left out")
            return
        batch = self._advantage(made.batch, log)
        self._update(batch, log)
        self.version = str(number)

    def _imitation(self, log: Step) -> Made:
        """A step of the warm-up: every prompt with a target is shown, none is generated."""
        with log.stage("prepare"):
            taken = self._take(self.run.data.train_batch_size)
            outcomes = [Outcome(0, 0, has_target=bool(prompt.target_ids), prompt=prompt.index) for prompt in taken]
            imitate = Decision(IMITATE, demo=True, arm="imitate")
            decisions = [imitate if outcome.has_target else skipped(outcome) for outcome in outcomes]
            empty = self._shown(taken, [])
            every = Decided(outcomes, Routing(decisions), list(range(len(taken))), torch.zeros(0).bool(), {})
            balanced = balance(Collected(_as_rollouts(empty)), self._shown(taken, decisions), every)
        log.add({f"batch/{name}": float(count) for name, count in balanced.counts.items()})
        return Made(balanced.batch, outcomes, every.routing)

    def _rollouts(self, number: int, log: Step) -> Made:
        """Rounds of rollouts until enough groups are kept, or no round is left."""
        self.algorithm.refill.begin()
        parts: list[Batch] = []
        sampled: list[Rows] = []
        outcomes: list[Outcome] = []
        decisions: list[Decision] = []
        without = [0, 0]
        while (draw := self.algorithm.refill.to_draw()) > 0:
            with log.stage("prepare"):
                taken = self._take(draw)
            collected = self._collect(taken, number, log, "generate_more" if parts else "generate")
            log.add(collected.metrics)
            sampled.append(collected.batch.rows)
            log.add({f"batch/left_out/{why}": float(count) for why, count in collected.left_out.items()})
            with log.stage("balance"):
                decided = self.algorithm.decide(collected, taken, number)
                balanced = balance(collected, self._shown(taken, decided.decisions), decided)
            log.add(dict(decided.metrics))
            log.add({f"batch/{name}": float(count) for name, count in balanced.counts.items()})
            parts.append(numbered_on(balanced.batch, len(outcomes)))
            outcomes += decided.outcomes
            decisions += decided.decisions
            without = [without[0] + decided.routing.without_target, without[1] + decided.routing.without_rollout]
        log.add(length_metrics(sampled))
        log.sampled(sum(int(rows.tokens["trained"].sum()) for rows in sampled))
        return Made(Batch.concat(parts), outcomes, Routing(decisions, *without))

    def _take(self, count: int) -> list[Prompt]:
        return [self.prompts[name] for name in self.sampler.take(count)]

    def _collect(self, taken: Sequence[Prompt], number: int, log: Step, stage: str) -> Collected:
        records = tuple(prompt.record for prompt in taken)
        asked = Asked(
            records=records,
            places=tuple(range(len(taken))),
            samples=self.run.rollouts_per_prompt,
            step=number,
            greedy=self.run.algorithm.adv_estimator == "remax",
            prefix=self.prefix,
        )
        return self.collect(asked, log, stage)

    def collect(self, asked: Asked, log: Step, stage: str) -> Collected:
        """Rollouts at the weights that the step before made."""
        rollout, engines = self.roles.rollout, self.roles.engines
        if rollout is None or engines is None:
            raise HptError("this run has nobody who generates", mend="a recipe with rollouts")
        for left in reversed(range(TRIES)):
            try:
                with ExitStack() as stack:
                    with log.stage("publish"):
                        published = stack.enter_context(engines.at(self.version))
                    if published is not None:
                        log.add({"publish/bytes": float(published.bytes), "publish/seconds": published.seconds})
                    with log.stage(stage):
                        return rollout.collect(asked)
            except EngineDiedError as error:
                if not left:
                    raise
                log.note(f"{error}; it is started again")
                with log.stage("mend"):
                    engines.mend()
        raise AssertionError  # the last try answers or raises

    def _shown(self, taken: Sequence[Prompt], decisions: Sequence[Decision]) -> Batch:
        """Demonstrations of the prompts that are to imitate; rollouts that begin with theirs bring it themselves."""
        if self.prefix.n_prefix:
            return self.roles.teacher.show([], [])
        places = [place for place, decision in enumerate(decisions) if decision.demo]
        return self.roles.teacher.show([taken[place].record for place in places], places)

    def _remember(self, made: Made, number: int, log: Step) -> None:
        """What the order of later prompts depends on, and what the log says of decisions."""
        rates = {outcome.prompt: outcome.k / outcome.n for outcome in made.outcomes if outcome.n}
        self.sampler.observe(rates)
        if self.run.algorithm.remove_sfted_data:
            pairs = zip(made.outcomes, made.routing.decisions, strict=True)
            self.sampler.remove([outcome.prompt for outcome, decision in pairs if decision.demo and decision.drop])
        log.add(self.sampler.counts())
        log.add(record.metrics(made.outcomes, made.routing))
        log.add(record.composition(made.batch.rows))
        log.add(record.sides(made.batch.rows))
        log.decisions(record.records(number, made.outcomes, made.routing))

    def _advantage(self, batch: Batch, log: Step) -> Batch:
        """Old log-probs where something reads them, then credit."""
        config, rows = self.run.algorithm, batch.rows
        rows = rows.with_tokens(rollout_logp=rows.tokens["logp"])
        if num_updates(batch, self.run) > 1 or config.kl_ctrl.kl_coef > 0:
            with log.stage("old_log_prob"):
                rows = rows.with_tokens(old_logp=self.roles.policy.log_probs(batch.with_rows(rows)))
        reference = None
        if needs_reference(config) and self.roles.reference is not None:
            with log.stage("reference"):
                reference = self.roles.reference.log_probs(batch.with_rows(rows))
                rows = rows.with_tokens(ref_logp=reference)
        if self.roles.critic is not None:
            with log.stage("values"):
                values = self.roles.critic.values(batch.with_rows(rows))
                rows = rows.with_tokens(value=values, old_value=values)
        with log.stage("advantage"):
            credited, told = self.algorithm.credited(rows, reference)
        log.add(told)
        return batch.with_rows(credited) if credited.num_rows == rows.num_rows else _followed(batch, rows, credited)

    def _update(self, batch: Batch, log: Step) -> None:
        algorithm, critic = self.algorithm, self.roles.critic
        if critic is not None:
            with log.stage("update_critic"):
                log.critic_updates(
                    [
                        critic.update(self._weighted(part, algorithm.critic_components), algorithm.critic_components)
                        for part in updates(batch, self.run)
                    ]
                )
            if "critic/error" in (told := log.metrics()):
                log.add({"critic/vf_explained_var": explained_variance(told)})
        if log.number > self.run.trainer.critic_warmup:
            with log.stage("update"):
                log.updates(
                    [
                        self.roles.policy.update(self._weighted(part, algorithm.components), algorithm.components)
                        for part in updates(batch, self.run)
                    ]
                )
        log.tokens(batch.rows.num_tokens)
        log.add(seqlen_metrics(list(updates(batch, self.run)), self.run))

    def _weighted(self, part: Batch, components: Sequence[Component]) -> Batch:
        micro_batch = micro_batch_of_row(part, self.run)
        return part.with_rows(self.algorithm.weighted(part.rows, micro_batch, self.run.dp, components))

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, beside what the trainer holds."""
        return {
            "algorithm": self.algorithm.state(),
            "sampler": self.sampler.state(),
            "prompts": self.prompts.state(),
            "version": self.version,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave; the engines have nothing of it yet."""
        self.algorithm.restore(state["algorithm"])
        self.sampler.restore(state["sampler"])
        self.prompts.restore(state["prompts"])
        self.version = state["version"]
        if self.roles.engines is not None:
            self.roles.engines.forget()


def _as_rollouts(empty: Batch) -> Batch:
    """No rows, with the columns that rollouts have."""
    fields = {"score": torch.zeros(0), "cut": torch.zeros(0).bool()}
    return empty.with_rows(empty.rows.with_fields(**fields))


def _followed(batch: Batch, before: Any, after: Any) -> Batch:
    """The images of the rows that are left: those with a weight."""
    learning = torch.stack([before.fields[f"mix_{kind}"] for kind in ("on", "off", "sft")]).any(0)
    return batch.select(learning).with_rows(after)
