"""One replica's part in a step: the agent on its engine, the scores, and both as rows.

    rollouts = Rollouts(run, engine, folder)
    rollouts.collect(asked)

Groups are scored while others are still generated. Trajectories are written where they are made, one file a step.

Invariants
    1. A row's numbers depend on the run's seed, the step, the prompt and the sample, not on who samples it.
    2. `timing_s/reward` is what the step waits for scores after the last response: what is scored before costs nothing.
    3. A row whose reward failed is there and not valid: it counts neither as a rollout nor as a success.
    4. Habits of responses (`rewards/habits.py`) are counted as each group ends, so they cost what scores do: nothing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpt_megatron.algorithms.outcome import success_rule, successes
from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.record import Record
from hpt_megatron.driver.loop.roles import Asked, Collected
from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import Rows
from hpt_megatron.rewards.build import build_scorer
from hpt_megatron.rewards.component import on_turn_ends
from hpt_megatron.rewards.composition import Scored
from hpt_megatron.rewards.habits import Habits, habit_metrics, habits_of
from hpt_megatron.rollout.agent.build import agent_of
from hpt_megatron.rollout.agent.collect import OnGroup
from hpt_megatron.rollout.agent.metrics import metrics
from hpt_megatron.rollout.engine.role import EngineDiedError, RolloutEngine, Sampling
from hpt_megatron.rollout.to_rows import to_rows
from hpt_megatron.rollout.to_sample import sample_of, sample_of_target
from hpt_megatron.rollout.trajectory import Trajectory
from hpt_megatron.rollout.trajectory_file import append

REWARD = "reward_"
WORTH = "worth"
"""Of a demonstration: its whole reward, as `score` is of a rollout."""
Keep = Callable[[Images], Images]


def here(images: Images) -> Images:
    """Images stay in this process."""
    return images


class Rollouts:
    """See the module; `keep` takes images out of the batch, to where they can be asked for."""

    def __init__(
        self, run: RunConfig, engine: RolloutEngine, folder: str, keep: Keep = here, written: Path | None = None
    ) -> None:
        self.run, self.keep, self.written = run, keep, written
        self.agent = agent_of(run, engine, folder)
        self.scorer = build_scorer(run)
        self._targets: dict[tuple[Any, ...], Mapping[str, float]] = {}

    def collect(self, asked: Asked) -> Collected:
        """Samples, scores, and makes rows."""
        records = {record.index: record for record in asked.records}
        place = dict(zip(records, asked.places, strict=True))
        waiting: dict[str, Future[list[Scored]]] = {}
        habits: dict[str, list[Habits]] = {}

        def ended(uid: str, group: Sequence[Trajectory]) -> None:
            text = self.agent.kit.chat.text
            samples = [sample_of(one, records[uid], text) for one in group]
            waiting[uid] = self.scorer.submit(samples)
            if asked.purpose == "train" and uid not in habits:  # a greedy baseline comes second
                habits[uid] = [habits_of("\n".join(sample.turns)) for sample in samples]

        tasks = list(records.items())
        groups = self.agent.collect(tasks, self._sampling(asked), asked.samples, asked.step, ended, asked.prefix)
        done = [one for group in groups for one in group]
        scored, waited = _waited_for(waiting, tasks)
        looks = self._habits([each for uid, _ in tasks for each in habits.get(uid, [])], scored)
        if asked.greedy:
            done += self._greedy(asked, tasks, ended)
            more, longer = _waited_for(waiting, tasks)
            scored, waited = scored + more, waited + longer
        if not self.agent.kit.engine.healthy():
            raise EngineDiedError("died while it generated", where="engine")
        kit = self.agent.kit
        made = to_rows(done, [place[one.uid] for one in done], kit.viewer.rules, kit.chat.marks.image_pad)
        kept = [(done[number], scored[number]) for number in made.kept]
        names = self.scorer.composition.names
        rows = made.batch.rows.with_fields(**_fields(kept, names, asked.samples))
        rows = rows.with_fields(valid=rows.fields["valid"] & torch.tensor([each.valid for _, each in kept]).bool())
        earned: dict[str, float] = {}
        if self.run.reward.turn_coef:
            rows, earned = _with_turns(rows, kept, self.run.reward.turn_coef)
        images = self.keep(made.batch.images)
        self._write(asked, done, scored)
        told = metrics(done, {uid: record.reference for uid, record in records.items()})
        return Collected(
            Batch(rows, images, made.batch.shown, made.batch.counts),
            self._judged(asked) if asked.purpose == "train" else {},
            {**told, **self.scorer.metrics(scored), **earned, **looks, "timing_s/reward": waited},
            made.left_out,
        )

    def _greedy(self, asked: Asked, tasks: Sequence[tuple[str, Record]], ended: OnGroup) -> list[Trajectory]:
        """One more rollout of each prompt, at temperature 0: what ReMax compares with."""
        sampling = replace(self._sampling(asked), temperature=0.0, top_p=1.0, top_k=-1)
        groups = self.agent.collect(tasks, sampling, 1, asked.step, ended)
        return [replace(one, sample=asked.samples) for group in groups for one in group]

    def _sampling(self, asked: Asked) -> Sampling:
        most = self.run.data.max_response_length
        if asked.purpose == "train":
            return Sampling.of_training(self.run.rollout, 1, most)
        return replace(Sampling.of_validation(self.run.rollout, most), n=1)  # each is a request of its own

    def _judged(self, asked: Asked) -> dict[int, Mapping[str, float]]:
        """What the prompts' own targets are worth; asked once for each prompt."""
        shown = {record.index: record for record in asked.records if record.target}
        new = [record for record in shown.values() if record.demonstrated not in self._targets]
        for record, scored in zip(new, self.scorer.score([sample_of_target(each) for each in new]), strict=True):
            self._targets[record.demonstrated] = {**scored.components, WORTH: scored.total}
        pairs = zip(asked.records, asked.places, strict=True)
        return {place: self._targets[record.demonstrated] for record, place in pairs if record.index in shown}

    def _habits(self, found: Sequence[Habits], scored: Sequence[Scored]) -> dict[str, float]:
        """Over the rollouts that count; one is wrong where `algorithm.success` is not met. Of a validation nothing."""
        if not found:
            return {}
        kept = [(looks, each.components) for looks, each in zip(found, scored, strict=True) if each.valid]
        names = self.scorer.composition.names
        columns = {name: torch.tensor([components[name] for _, components in kept]) for name in names}
        right = successes(columns, success_rule(self.run.algorithm))
        return habit_metrics([looks for looks, _ in kept], (~right).tolist())

    def _write(self, asked: Asked, done: Sequence[Trajectory], scored: Sequence[Scored]) -> None:
        if self.written is None:
            return
        scores = {
            (one.uid, one.sample): {**each.components, "total": each.total}
            for one, each in zip(done, scored, strict=True)
        }
        append(self.written / f"{asked.purpose}_{asked.step}.jsonl", done, scores, asked.step)

    def close(self) -> None:
        """Ends the agent's loop and the scorer's workers."""
        self.agent.close()
        self.scorer.close()


def _waited_for(
    waiting: Mapping[str, Future[list[Scored]]], tasks: Sequence[tuple[str, Record]]
) -> tuple[list[Scored], float]:
    """The scores in the order of the tasks, and the seconds until all are there."""
    began = time.perf_counter()
    scored = [each for uid, _ in tasks for each in waiting[uid].result()]
    return scored, time.perf_counter() - began


def _fields(pairs: Sequence[tuple[Trajectory, Scored]], names: Sequence[str], samples: int) -> dict[str, Tensor]:
    found = {
        "score": torch.tensor([each.total for _, each in pairs], dtype=torch.float32),
        "cut": torch.tensor([one.finish == "length" for one, _ in pairs], dtype=torch.bool),
        "greedy": torch.tensor([one.sample >= samples for one, _ in pairs], dtype=torch.bool),
    }
    for name in names:
        found[f"{REWARD}{name}"] = torch.tensor([each.components[name] for _, each in pairs], dtype=torch.float32)
    return found


def _with_turns(rows: Rows, pairs: Sequence[tuple[Trajectory, Scored]], coef: float) -> tuple[Rows, dict[str, float]]:
    """Rows with what each turn earned on its last token, and the mean of a row's sum."""
    earned = [
        on_turn_ends(each.turns, one.loss_mask, one.turn_id) if each.turns else [0.0] * len(one.ids)
        for one, each in pairs
    ]
    column = coef * torch.tensor([number for row in earned for number in row], dtype=torch.float32)
    rows = rows.with_tokens(turn_reward=column)
    return rows, {"reward/turns": float(rows.row_sum(column).mean())} if rows.num_rows else {}


def components_of(fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scores of every component by name, of rows as `collect` makes them."""
    return {name.removeprefix(REWARD): column for name, column in fields.items() if name.startswith(REWARD)}


def target_score(targets: Mapping[int, Mapping[str, float]], place: int, name: str) -> float:
    """What a component says of a prompt's demonstration; not a number where nobody was asked."""
    return targets.get(place, {}).get(name, float("nan"))
