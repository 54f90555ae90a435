"""What reward models say of rollouts, and what has to hold before anything else is paid for.

    r = rules_weight * (the composition's score) + weight * E_m( sum_h w_h (s_mh - mean_mh) / std_mh )

s_mh is what head h of model m says at the end of a response, mean and std are those that its checkpoint brings along,
E is the mean over the models, their minimum, or the mean less `uncertainty` times their variance. Then a constraint
c >= limit, on a component or a head:

    gate        r = gate_score where c < limit
    lagrange    r + price * (c - limit), and after the step price = clip(price + rate * (limit - mean c), 0, most)

Decision: models are asked by the driver, on rows, after the rollouts: they are trainer processes, and see the very
tokens and images that the policy wrote. So what needs text alone is a component of the composition, and what needs a
model is added here. Files of rollouts hold the composition's scores; these, and the whole, stand in RUN/learned.

Invariants
    1. A row with a score that is no finite number is not valid.
    2. `learned`, `learned/HEAD` and all components can be named by `algorithm.success` and by the constraint.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hpt_megatron.algorithms.reward_scale import RewardStatistics, by_statistics
from hpt_megatron.config.run import LearnedConfig, RewardConfig, RunConfig
from hpt_megatron.driver.loop.roles import Asked, Collected
from hpt_megatron.driver.loop.rollouts import REWARD, components_of
from hpt_megatron.errors import HptError
from hpt_megatron.protocol.batch import Batch

LEARNED = "learned"


class Scoring(Protocol):
    """All processes that hold a reward model."""

    def scores(self, batch: Batch) -> Tensor:
        """[R, heads] at the end of each response."""

    def fill(self, folder: Path) -> None:
        """Takes the weights of a checkpoint."""


@dataclass(frozen=True)
class Judge:
    """A reward model at work: its heads by name, and what its scores were like when it was trained."""

    name: str
    heads: tuple[str, ...]
    model: Scoring
    statistics: tuple[RewardStatistics | None, ...]


class Learned:
    """See the module."""

    def __init__(self, run: RunConfig, judges: Sequence[Judge]) -> None:
        self.reward: RewardConfig = run.reward
        self.judges, self.folder = list(judges), Path(run.trainer.run_dir) / LEARNED
        self.price = 0.0
        self._written: set[Path] = set()
        self._moved = 0

    @property
    def asked(self) -> bool:
        """Whether there is anything to add."""
        return bool(self.judges) or self.reward.constraint.how != "off"

    def judged(self, collected: Collected, asked: Asked) -> Collected:
        """The rollouts with another score, and what it was made of."""
        rows, told = collected.batch.rows, dict(collected.metrics)
        if not self.asked or not rows.num_rows:
            return collected
        score, learned = rows.fields["score"], dict[str, Tensor]()
        if self.judges:
            learned, spread = self._learned(collected.batch)
            total = learned[LEARNED]
            score = self.reward.learned.rules_weight * score + self.reward.learned.weight * total
            told |= _told(learned, rows.fields["valid"]) | {"reward/disagreement": float(spread.mean())}
        finite = torch.isfinite(score)
        rows = rows.with_fields(
            **{f"{REWARD}{name}": column for name, column in learned.items()},
            score=torch.where(finite, score, 0.0),
            valid=rows.fields["valid"] & finite,
        )
        if self.reward.constraint.how != "off":
            held, more = self._constrained(
                rows.fields["score"], components_of(rows.fields), rows.fields["valid"], asked
            )
            rows, told = rows.with_fields(score=held), told | more
        if self.judges:
            self._write(asked, rows.fields, {"score": rows.fields["score"], **learned})
        valid = rows.fields["valid"]
        if bool(valid.any()):
            told["reward/mean"] = float(rows.fields["score"][valid].mean())
        return replace(collected, batch=collected.batch.with_rows(rows), metrics=told)

    def _learned(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """`learned`, `learned/HEAD` over all models, and the spread between models."""
        learned = self.reward.learned
        of_heads: dict[str, list[Tensor]] = {}
        totals = []
        for judge in self.judges:
            said = judge.model.scores(batch)
            total = torch.zeros(len(said))
            for number, (head, before) in enumerate(zip(judge.heads, judge.statistics, strict=True)):
                score = said[:, number]
                if learned.normalize and before is not None:
                    score = by_statistics(score, before)
                of_heads.setdefault(head, []).append(score)
                total = total + weight_of(learned, head) * score
            totals.append(total)
        every = torch.stack(totals)
        spread = every.std(0, correction=0)
        found = every.min(0).values if learned.ensemble == "min" else every.mean(0)
        if learned.ensemble == "uncertainty":
            found = found - learned.uncertainty * spread.square()
        heads = {f"{LEARNED}/{head}": torch.stack(each).mean(0) for head, each in of_heads.items()}
        return {LEARNED: found, **heads}, spread

    def _constrained(
        self, score: Tensor, components: dict[str, Tensor], valid: Tensor, asked: Asked
    ) -> tuple[Tensor, dict[str, float]]:
        constraint = self.reward.constraint
        held = components.get(constraint.component)
        if held is None:
            mend = ", ".join(components)
            raise HptError(f"there is no {constraint.component}", where="reward.constraint.component", mend=mend)
        missing = constraint.at_least - held
        mean = float(held[valid].mean()) if bool(valid.any()) else constraint.at_least
        told = {"constraint/mean": mean, "constraint/broken": float((missing > 0).float().mean())}
        if constraint.how == "gate":
            return torch.where(missing > 0, constraint.gate_score, score), told
        told["constraint/price"] = self.price
        score = score - self.price * missing
        if asked.purpose == "train" and asked.step != self._moved:  # a step may have several rounds
            self._moved = asked.step
            moved = self.price + constraint.rate * (constraint.at_least - mean)
            self.price = min(max(moved, 0.0), constraint.most)
        return score, told

    def _write(self, asked: Asked, fields: Any, learned: dict[str, Tensor]) -> None:
        """One line for each rollout, as the file of rollouts has."""
        self.folder.mkdir(parents=True, exist_ok=True)
        names = dict(zip(asked.places, (record.index for record in asked.records), strict=True))
        columns = {name: column.tolist() for name, column in learned.items()}
        numbers = zip(fields["prompt"].tolist(), fields["sample"].tolist(), strict=True)
        lines = [
            json.dumps({"uid": names[place], "sample": sample} | {name: each[row] for name, each in columns.items()})
            for row, (place, sample) in enumerate(numbers)
        ]
        path = self.folder / f"{asked.purpose}_{asked.step}.jsonl"
        kept = "a" if path in self._written else "w"  # what an earlier attempt wrote of this step was taken back
        self._written.add(path)
        with path.open(kept, encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"price": self.price}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes it back."""
        self.price = float(state.get("price", 0.0))


def weight_of(learned: LearnedConfig, head: str) -> float:
    """The share of a head; 1 where no shares are given."""
    if not learned.heads:
        return 1.0
    return next((each.weight for each in learned.heads if each.head == head), 0.0)


def _told(learned: dict[str, Tensor], valid: Tensor) -> dict[str, float]:
    counted = {name: column[valid & torch.isfinite(column)] for name, column in learned.items()}
    found: dict[str, float] = {}
    for name, column in counted.items():
        if len(column):
            found |= {
                f"reward/{name}/mean": float(column.mean()),
                f"reward/{name}/std": float(column.std(correction=0)),
            }
    return found
