"""What a run learns by, with everything that it remembers from step to step.

    decided = algorithm.decide(collected, prompts, step)     per prompt: imitate, explore, or a blend; which are kept
    rows, told = algorithm.credited(rows, ...)               scores become credit on tokens
    rows = algorithm.weighted(rows, micro_batch, ranks, ...) every denominator of an optimizer step, before it begins

Decision: this is glue and state. What is decided, credited or weighted stands in `algorithms/`, one file each.

Invariant: `state` is plain JSON, and with it another process decides the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpt_megatron.algorithms import build
from hpt_megatron.algorithms.assemble import without_baselines
from hpt_megatron.algorithms.gates import Group, judge
from hpt_megatron.algorithms.kl_reward import kl_reward, reward_of_tokens
from hpt_megatron.algorithms.objective.part import OPTIONAL, Component
from hpt_megatron.algorithms.outcome import batch_metrics, count, mean_scores, success_rule, successes
from hpt_megatron.algorithms.routing.build import build_strategy, route_step
from hpt_megatron.algorithms.routing.decision import IMITATE, Decision, Outcome, Routing, skipped
from hpt_megatron.algorithms.shaping import overlong_penalty, response_lengths
from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.prompts import Prompt
from hpt_megatron.driver.loop.roles import Collected
from hpt_megatron.driver.loop.rollouts import components_of
from hpt_megatron.protocol.rows import Rows

WEIGHT, CRITIC, FORMAT = "weight_", "value", "format"
ENTROPY = "entropy/rl"
ALWAYS = ("ids", "trained", *OPTIONAL)
KEPT_FIELDS = ("prompt", "sample")


@dataclass(frozen=True)
class Decided:
    """Of the prompts of one round: what each came to and what is done with it; `kept` go into the step."""

    outcomes: list[Outcome]
    routing: Routing
    kept: list[int]
    success: Tensor
    metrics: Mapping[str, float]

    @property
    def decisions(self) -> list[Decision]:
        """Of every prompt; nothing is trained on those that were not kept."""
        kept = set(self.kept)
        pairs = enumerate(zip(self.outcomes, self.routing.decisions, strict=True))
        return [decision if place in kept else skipped(outcome) for place, (outcome, decision) in pairs]


def all_imitate(prompts: Sequence[Prompt]) -> Decided:
    """A step of the warm-up: every prompt with a target is shown, and there is nothing to count."""
    outcomes = [Outcome(0, 0, has_target=bool(prompt.target_ids), prompt=prompt.index) for prompt in prompts]
    imitate = Decision(IMITATE, demo=True, arm="imitate")
    decisions = [imitate if outcome.has_target else skipped(outcome) for outcome in outcomes]
    return Decided(outcomes, Routing(decisions), list(range(len(prompts))), torch.zeros(0).bool(), {})


class Algorithm:
    """See the module."""

    def __init__(self, run: RunConfig) -> None:
        self.run, algorithm = run, run.algorithm
        self.config = algorithm
        self.strategy = build_strategy(algorithm)
        self.rule = success_rule(algorithm)
        self.gates = build.build_gates(algorithm)
        self.refill = build.build_refill(algorithm, run.data.train_batch_size, run.data.train_batch_size)
        self.controller = build.build_controller(algorithm)
        self.entropy = build.build_entropy_control(algorithm)
        self.scale = build.build_reward_scale(algorithm)
        self.overlong = build.build_overlong(algorithm, run.data.max_response_length)
        every = build.build_components(algorithm)
        shared = algorithm.share_critic
        self.components = [part for part in every if part.name != CRITIC or shared]
        self.critic_components = [part for part in every if part.name == CRITIC and not shared]

    def decide(self, collected: Collected, prompts: Sequence[Prompt], step: int) -> Decided:
        """Of one round of a step; its prompts are numbered from 0."""
        rows = collected.batch.rows
        scored = components_of(rows.fields)
        success = successes(scored, self.rule)
        counts = count(rows, success, len(prompts))
        rewards = mean_scores(rows, len(prompts))
        outcomes = [
            Outcome(
                int(counts.n[place]),
                int(counts.k[place]),
                has_target=0 < len(prompt.target_ids) <= self.run.data.max_prefix_len,
                prompt=prompt.index,
                demo_right=self._right(collected.targets.get(place)),
                reward=rewards[place],
            )
            for place, prompt in enumerate(prompts)
        ]
        routing = route_step(self.config, self.strategy, outcomes, step)
        groups = self._groups(rows, success, len(prompts))
        kept = self.refill.record(judge(self.gates, groups, routing.decisions))
        misshapen = scored[FORMAT] < 1.0 if FORMAT in scored else None
        return Decided(outcomes, routing, kept, success, batch_metrics(counts, rows, success, misshapen))

    def _right(self, scores: Mapping[str, float] | None) -> bool:
        if scores is None:
            return True
        return bool(successes({name: torch.tensor([score]) for name, score in scores.items()}, self.rule)[0])

    def _groups(self, rows: Rows, success: Tensor, prompts: int) -> list[Group]:
        members: list[list[int]] = [[] for _ in range(prompts)]
        for row, place in enumerate(rows.fields["prompt"].tolist()):
            members[place].append(row)
        columns = [rows.fields["score"].tolist(), success.tolist(), rows.fields["cut"].tolist()]
        columns.append(rows.fields["valid"].tolist())
        return [Group.of(*([column[row] for row in group] for column in columns)) for group in members]

    def credited(self, rows: Rows, ref_logp: Tensor | None = None) -> tuple[Rows, dict[str, float]]:
        """Rows with `credit` and `returns` on their tokens; rows that only the credit needed are gone."""
        if self.overlong is not None:
            penalty = overlong_penalty(response_lengths(rows), self.overlong)
            rows = rows.with_fields(score=rows.fields["score"] + torch.where(rows.fields["off"], 0.0, penalty))
        rows, told = build.scale_scores(rows, self.scale)
        rows = rows.with_tokens(reward=reward_of_tokens(rows), success=rows.per_token(rows.fields["success"]))
        if ref_logp is not None and self.config.kl_ctrl.kl_coef > 0:
            rows, measured = self._less_kl(rows, ref_logp)
            told |= measured
        earned = build.credit(rows, self.config)
        rows, earned = build.shape_truncated(rows, earned, rows.fields["cut"], self.config)
        earned = build.credit_prefixes(rows, earned, self.config, self.run.rollouts_per_prompt)
        told |= _of_credit(rows, earned.advantage, earned.returns)
        return without_baselines(rows.with_tokens(credit=earned.advantage, returns=earned.returns)), told

    def _less_kl(self, rows: Rows, ref_logp: Tensor) -> tuple[Rows, dict[str, float]]:
        estimator, beta = build.kl_estimator(self.config), self.controller.coefficient
        found = kl_reward(rows, rows.tokens["old_logp"], ref_logp, beta=beta, estimator=estimator)
        total, number = found.metrics["kl/sequence"]
        self.controller.observe(_mean(total, number), int(number))
        told = {name: _mean(*pair) for name, pair in found.metrics.items()}
        return rows.with_tokens(reward=found.reward), {**told, "critic/kl_coeff": beta}

    def weighted(self, rows: Rows, micro_batch: Tensor, ranks: int, components: Sequence[Component]) -> Rows:
        """Rows with the weights of some components, and no column that none of them reads."""
        longest, entropy = self.run.data.max_response_length, self.entropy.coefficient
        weights = build.build_weights(rows, self.config, longest, micro_batch, ranks, entropy)
        read = {*ALWAYS, *(name for part in components for name in part.reads)}
        tokens = {name: column for name, column in rows.tokens.items() if name in read}
        fields = {name: rows.fields[name] for name in KEPT_FIELDS}
        names = {part.name for part in components}
        named = {f"{WEIGHT}{name}": weight for name, weight in weights.items() if name in names}
        return Rows(rows.lengths, {**tokens, **named}, fields)

    def updated(self, told: Mapping[str, float]) -> dict[str, float]:
        """After the optimizer steps of a step, by what they measured; answers what they were made with."""
        if self.entropy.target is None or ENTROPY not in told:
            return {}
        used = self.entropy.coefficient
        self.entropy.observe(told[ENTROPY])
        return {"entropy/coeff": used}

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        strategy, refill, kl = self.strategy.state_dict(), self.refill.state_dict(), self.controller.state_dict()
        return {"strategy": strategy, "refill": refill, "kl": kl, "entropy": self.entropy.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` gave."""
        self.strategy.load_state_dict(state["strategy"])
        self.refill.load_state_dict(state["refill"])
        self.controller.load_state_dict(state["kl"])
        self.entropy.load_state_dict(state.get("entropy", {}))


def _of_credit(rows: Rows, advantage: Tensor, returns: Tensor) -> dict[str, float]:
    """`critic/*` as users of the released code know them, over trained tokens of rollouts."""
    own = rows.tokens["trained"] & ~rows.tokens["off"]
    told: dict[str, float] = {}
    if bool(own.any()):
        for name, column in (("advantages", advantage[own]), ("returns", returns[own])):
            told |= {f"critic/{name}/mean": float(column.mean()), f"critic/{name}/max": float(column.max())}
            told[f"critic/{name}/min"] = float(column.min())
    rollouts = ~rows.fields["off"]
    for name, column in (("score", rows.fields["score"]), ("rewards", rows.row_sum(rows.tokens["reward"]))):
        of_rollouts = column[rollouts]
        if len(of_rollouts):
            told |= {f"critic/{name}/mean": float(of_rollouts.mean()), f"critic/{name}/max": float(of_rollouts.max())}
            told[f"critic/{name}/min"] = float(of_rollouts.min())
    return told


def _mean(total: Tensor, number: Tensor) -> float:
    return float(total) / max(float(number), 1.0)
