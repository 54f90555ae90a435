"""A run that trained a reward model, as another run takes it: which checkpoint, which heads, what its scores were like.

    RUN                        its newest sound checkpoint        RUN/checkpoints/step_150       that one

Invariant: it reads what the policy reads. A model with another tokenizer or other pictures is refused before anything
is started; another size is fine.

Example: RewardRun.of("runs/tiny-reward-model").heads
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpt_megatron.algorithms.reward_scale import RewardStatistics
from hpt_megatron.config.algorithm import scores_rows
from hpt_megatron.config.problem import errors
from hpt_megatron.config.recorded import recorded_run
from hpt_megatron.config.rules import check
from hpt_megatron.config.run import RewardConfig, RunConfig
from hpt_megatron.driver.loop.checkpoints import Checkpoints, read
from hpt_megatron.driver.loop.learned import LEARNED
from hpt_megatron.driver.loop.preference import ONLY_HEAD
from hpt_megatron.driver.loop.run import CHECKPOINTS
from hpt_megatron.errors import UserError
from hpt_megatron.observe.record import MARKS, NAME

TRAINER = "trainer"
MEND = "the folder of a run with algorithm=reward_model, or of one of its checkpoints"


@dataclass(frozen=True)
class RewardRun:
    """See the module."""

    name: str
    run: RunConfig
    checkpoint: Path
    heads: tuple[str, ...]
    statistics: tuple[RewardStatistics | None, ...]
    marks: dict[str, str]

    @classmethod
    def of(cls, folder: str) -> "RewardRun":
        """Reads it."""
        path = Path(folder)
        of_run = path if (path / NAME).is_file() else path.parent.parent
        if not (of_run / NAME).is_file():
            raise UserError("is no run", where=folder, mend=MEND)
        run = recorded_run(of_run / NAME)
        if not scores_rows(run.algorithm):
            raise UserError("trained no reward model", where=folder, mend=MEND)
        found = Checkpoints(of_run / CHECKPOINTS, 1).newest() if path == of_run else path
        if found is None:
            raise UserError("has no checkpoint yet", where=folder, mend="let it train to its end")
        heads = run.algorithm.preference.heads or (ONLY_HEAD,)
        told: dict[str, Any] = read(found)["state"].get("statistics", {})
        statistics = tuple(RewardStatistics(**told[head]) if head in told else None for head in heads)
        marks = json.loads((of_run / MARKS).read_text(encoding="utf-8"))
        return cls(of_run.name, run, found / TRAINER, heads, statistics, marks)

    def check(self, marks: dict[str, str]) -> None:
        """Refuses a model that reads something else than the policy writes."""
        wrong = [name for name in ("chat", "pictures") if self.marks.get(name) != marks[name]]
        if wrong:
            what = (
                f"the reward model {self.name} was trained with another {' and other '.join(wrong)} than the policy has"
            )
            raise UserError(what, where="reward.learned.runs", mend="a reward model of the same family")

    @staticmethod
    def check_heads(trained: Sequence["RewardRun"], reward: RewardConfig) -> None:
        """Refuses weights and constraints on heads that no model has: nobody would notice that they do nothing."""
        known = [head for each in trained for head in each.heads]
        named = [("reward.learned.heads", each.head) for each in reward.learned.heads]
        kind, _, head = reward.constraint.component.partition("/")
        if reward.constraint.how != "off" and kind == LEARNED and head:
            named.append(("reward.constraint.component", head))
        for where, name in named:
            if trained and name not in known:
                raise UserError(f"no reward model has a head {name!r}", where=where, mend=f"one of {', '.join(known)}")

    def under(self, run: RunConfig) -> RunConfig:
        """Its model on the devices of another run."""
        own = replace(
            run, model=replace(self.run.model, path=None), algorithm=self.run.algorithm, reward=self.run.reward
        )
        if wrong := [each for each in errors(check(own)) if each.path.startswith(("layout", "model"))]:
            raise UserError(f"the reward model {self.name} does not fit: {wrong[0]}", where="reward.learned.runs")
        return own
