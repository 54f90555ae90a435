"""The loop over preferences: pairs of answers, of the data or of a prompt's own rollouts, instead of gate and credit.

    prepare   pairs as rows             compare   a pass without gradient, a loss over pairs, weights of single tokens
    generate  rollouts, where pairs     update    the ordinary update, over these weights
              come from them

What a loss over two rows asks of a token is one number (`algorithms/objective/pairwise.py`), so nothing below the loop
knows of pairs. A reward model is the same with a head that says scores.

Invariants
    1. The pass comes right before each optimizer step: weights are exact for the step that they are used in.
    2. A state holds the newest scores of a reward model, so every checkpoint says their mean and spread.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hpt_megatron.algorithms.build import build_preference
from hpt_megatron.algorithms.objective.pairwise import RowSums, pairwise_weights
from hpt_megatron.algorithms.objective.preference import mismatched_drift
from hpt_megatron.algorithms.reward_scale import RewardStatistics
from hpt_megatron.config.algorithm import scores_rows
from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.prompts import Prompt
from hpt_megatron.driver.loop.algorithm import KEPT_FIELDS, WEIGHT, Algorithm
from hpt_megatron.driver.loop.pairs import Paired, mismatched, of_files, of_rollouts, pairs_of
from hpt_megatron.driver.loop.rl import RlLoop
from hpt_megatron.driver.loop.roles import Reference, Roles
from hpt_megatron.driver.loop.supply import Supply
from hpt_megatron.driver.loop.update import seqlen_metrics, updates
from hpt_megatron.errors import HptError
from hpt_megatron.observe.step import Step
from hpt_megatron.protocol.batch import Batch

COUNTS = ("pairs/count", "pairs/left_out")
ONLY_HEAD = "reward"


class PreferenceLoop(RlLoop):
    """See the module; rollouts come as in the loop that it is made from."""

    def __init__(
        self, run: RunConfig, roles: Roles, algorithm: Algorithm, supply: Supply, warmup: Supply | None = None
    ) -> None:
        super().__init__(run, roles, algorithm, supply, warmup)
        self.preference, self.loss = run.algorithm.preference, build_preference(run.algorithm)
        self.of_scores = scores_rows(run.algorithm)
        self.heads = self.preference.heads or (ONLY_HEAD,)
        self.newest: list[deque[float]] = [deque(maxlen=self.preference.statistics_over) for _ in self.heads]

    def step(self, number: int, log: Step) -> None:
        """One step of the run."""
        paired = self.sampled_pairs(number, log) if self.preference.pairs == "rollouts" else self.given_pairs(log)
        log.add({"pairs/without": float(paired.left_out)})
        if paired.batch.rows.num_rows:
            self.learn_pairs(paired.batch, log)
        else:
            log.note("nothing to train on: no prompt has two answers of which one is better")
        self.version = str(number)

    def given_pairs(self, log: Step) -> Paired:
        """Of the data."""
        with log.stage("prepare"):
            return self.shown_pairs(self.supply.take(self.run.data.train_batch_size))

    def shown_pairs(self, taken: Sequence[Prompt]) -> Paired:
        """Of some prompts."""
        return of_files(self.roles.teacher, taken, self.preference.heads, alone=not self.loss.paired)

    def sampled_pairs(self, number: int, log: Step) -> Paired:
        """Of the rollouts of the step."""
        with log.stage("prepare"):
            taken = self.supply.take(self.run.data.train_batch_size)
        collected = self._first_round(taken, number, log)
        log.add(collected.metrics)
        log.sampled(int(collected.batch.rows.tokens["trained"].sum()))
        rows = collected.batch.rows
        log.add({"reward/best_of_n": _best(rows.fields["prompt"], rows.fields["score"])})
        return of_rollouts(collected.batch, [prompt.record for prompt in taken], self.preference.least_gap)

    def learn_pairs(self, batch: Batch, log: Step) -> None:
        """From pairs to another model."""
        reference = drift = None
        if self.loss.needs_reference:
            with log.stage("reference"):
                reference = self._of_reference(batch)
                drift = None if self.loss.paired else mismatched(batch, self.run.model.image_token_id)
                of_drift = None if drift is None else self._of_reference(drift)
            batch = batch.with_rows(batch.rows.with_fields(reference=reference))
        reports, told = [], []
        for part in updates(batch, self.run):
            with log.stage("compare"):
                far = 0.0 if drift is None or of_drift is None else mismatched_drift(self._sums(drift), of_drift)
                ready, numbers = self.compared(part, far)
            with log.stage("update"):
                reports.append(self.roles.policy.update(ready, self.algorithm.components))
            told.append(numbers)
        log.updates(reports)
        together = _together(told)
        log.add(together | {"actor/loss": together.get("pairs/loss", 0.0)})  # the sum that is differentiated is no loss
        log.tokens(batch.rows.num_tokens)
        log.add(seqlen_metrics(list(updates(batch, self.run)), self.run))

    def compared(self, part: Batch, drift: float = 0.0) -> tuple[Batch, dict[str, float]]:
        """The rows of an optimizer step with their weights, and what the loss says of the pairs."""
        rows = part.rows
        own, reference = self._numbers(part), rows.fields.get("reference")
        pairs = pairs_of(part, self.loss.paired, self.preference.pair_margin)
        found = pairwise_weights(rows, pairs, RowSums(own, reference, drift), self.loss)
        told = dict(found.metrics)
        if len(pairs.chosen):
            told |= {"pairs/chosen": float(own[pairs.chosen].mean())}
        if len(pairs.rejected):
            told |= {"pairs/rejected": float(own[pairs.rejected].mean())}
        if self.of_scores:
            for head, score in zip(rows.fields["head"].tolist(), own.tolist(), strict=True):
                self.newest[head].append(score)
        (component,) = self.algorithm.components
        tokens = {name: rows.tokens[name] for name in ("ids", "trained")}
        tokens |= {f"{WEIGHT}{component.name}": found.weight, "head": rows.per_token(rows.fields["head"])}
        fields = {name: rows.fields[name] for name in KEPT_FIELDS}
        return part.with_rows(type(rows)(rows.lengths, tokens, fields)), told

    def worth(self, batch: Batch) -> Tensor:
        """[R] how good each answer is to the model: its score, or what the loss makes of its log-prob."""
        own = self._numbers(batch)
        if self.of_scores:
            return own
        beta = float(getattr(self.loss, "beta", 1.0))
        if self.loss.needs_reference:
            return beta * (own - self._of_reference(batch))
        return beta * own / batch.rows.row_sum(batch.rows.tokens["trained"].double()).clamp(min=1)

    def _numbers(self, batch: Batch) -> Tensor:
        if not self.of_scores:
            return self._sums(batch)
        said = self.roles.policy.scores(batch)
        return said.gather(1, batch.rows.fields["head"][:, None])[:, 0].double()

    def _sums(self, batch: Batch) -> Tensor:
        return batch.rows.row_sum(self.roles.policy.log_probs(batch).double())

    def _of_reference(self, batch: Batch) -> Tensor:
        reference: Reference | None = self.roles.reference
        if reference is None:
            raise HptError(f"{self.preference.loss} compares with a reference, and the run has none")
        return batch.rows.row_sum(reference.log_probs(batch).double())

    def statistics(self) -> dict[str, dict[str, float]]:
        """Mean and spread of the newest scores of each head that has some."""
        pairs = zip(self.heads, self.newest, strict=True)
        return {name: vars(RewardStatistics.of(torch.tensor(list(scores)))) for name, scores in pairs if scores}

    def state(self) -> dict[str, Any]:
        """Also what scores were like."""
        told = super().state()
        if self.of_scores:
            told |= {"scores": [list(each) for each in self.newest], "statistics": self.statistics()}
        return told

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        super().restore(state)
        for newest, before in zip(self.newest, state.get("scores", ()), strict=False):
            newest.extend(before)


def _together(told: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Counts are added, all else are means over the pairs."""
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for each in told for name in each):
        having = [each for each in told if name in each]
        count = sum(each["pairs/count"] for each in having)
        weighed = sum(each[name] * each["pairs/count"] for each in having)
        found[name] = sum(each[name] for each in having) if name in COUNTS else weighed / count if count else 0.0
    return found


def _best(prompt: Tensor, score: Tensor) -> float:
    found: dict[int, float] = {}
    for place, number in zip(prompt.tolist(), score.tolist(), strict=True):
        found[place] = max(found.get(place, number), number)
    return sum(found.values()) / len(found) if found else 0.0
