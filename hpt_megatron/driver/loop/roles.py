"""Whom the loop talks to. In one process these are plain objects, on a cluster faces of Ray actors.

Example: `Roles(policy, teacher, rollout, engines)`; the loop never asks which kind they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from hpt_megatron.algorithms.objective.part import Component
from hpt_megatron.algorithms.prefix import PrefixSettings
from hpt_megatron.data.record import Record
from hpt_megatron.driver.loop.engines import Engines
from hpt_megatron.driver.loop.moves import Moves
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.step_report import StepReport

NO_PREFIX = PrefixSettings()
Purpose = Literal["train", "validate"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Prompts to sample rollouts of; `places` number them in the batch.

    `greedy` asks for one more of each at temperature 0; `prefix` says which begin with how much of the demonstration.
    """

    records: tuple[Record, ...]
    places: tuple[int, ...]
    samples: int
    step: int
    purpose: Purpose = "train"
    greedy: bool = False
    prefix: PrefixSettings = NO_PREFIX


@dataclass(frozen=True)
class Collected:
    """Rollouts as rows, scored.

    Fields beside those of `rollout/to_rows.py`: `score`, `cut` (stopped by a limit of length), `reward_NAME` of every
    component. `targets` are the scores of the prompts' demonstrations by place, where there are any.
    """

    batch: Batch
    targets: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


class Saved(Protocol):
    """What a checkpoint holds of a model that is trained."""

    def save(self, folder: Path, extra: Mapping[str, Any], last: bool) -> None:
        """Everything that training goes on from."""

    def begin_save(self, folder: Path, extra: Mapping[str, Any]) -> None:
        """The same, as it is now, written while training goes on."""

    def written(self) -> bool:
        """Whether all of that is on disk; never waits for it."""

    def end_save(self) -> None:
        """Waits for it, and makes the folder one that can be restored."""

    def restore(self, folder: Path) -> Mapping[str, Any]:
        """Takes it back; answers `extra`."""


class Policy(Saved, Protocol):
    """All processes of the trainer that hold the model which learns."""

    def log_probs(self, batch: Batch) -> Tensor:
        """[T] of trained tokens under the weights as they are, 0 elsewhere."""

    def scores(self, batch: Batch) -> Tensor:
        """[R, numbers] of a model whose head says numbers, at the end of each response."""

    def values(self, batch: Batch) -> Tensor:
        """[T] before every token, where the critic is a head on the policy's trunk."""

    def update(self, batch: Batch, components: Sequence[Component]) -> StepReport:
        """One optimizer step over rows with weights."""


class Reference(Protocol):
    """The model that KL is measured against; nothing of it changes."""

    def log_probs(self, batch: Batch) -> Tensor:
        """As of the policy."""


class Critic(Saved, Protocol):
    """All processes of the trainer that hold the model which says what a state is worth."""

    def values(self, batch: Batch) -> Tensor:
        """[T] before every token."""

    def update(self, batch: Batch, components: Sequence[Component]) -> StepReport:
        """One optimizer step."""


class Rollout(Protocol):
    """Everyone who samples and scores."""

    def collect(self, asked: Asked) -> Collected:
        """All rollouts of all prompts."""


class Teacher(Protocol):
    """Who shows demonstrations."""

    def show(self, records: Sequence[Record], places: Sequence[int]) -> Batch:
        """One row for each record that has a target which can be shown."""


@dataclass(frozen=True)
class Roles:
    """Those of a run; a run that only imitates has neither rollouts nor anyone to publish to."""

    policy: Policy
    teacher: Teacher
    rollout: Rollout | None = None
    engines: Engines | None = None
    reference: Reference | None = None
    critic: Critic | None = None
    judges: tuple[Any, ...] = ()
    """Reward models (`learned.py:Judge`)."""
    moves: Moves = field(default_factory=Moves)
