"""All ranks of one model, called together: what is split over them, what is collected from them.

    split      rows go to data-parallel ranks by the pack plan; all ranks of one replica get the same
    collect    one rank of each replica answers per token; what is one number is the first rank's

Invariants
    1. Every rank is called with every method, in the same order.
    2. A batch is put into the object store once for each data-parallel rank.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor

from hpt_megatron.algorithms.objective.part import Component
from hpt_megatron.config.run import RunConfig
from hpt_megatron.driver.loop.moves import Moves
from hpt_megatron.driver.ray.call import answer, answers
from hpt_megatron.layout.micro_batches import Assigned, assigned
from hpt_megatron.protocol.arrays import tensors
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.step_report import StepReport
from hpt_megatron.weights.plan.held import Layout
from hpt_megatron.weights.publish.digests import Digests
from hpt_megatron.weights.publish.session import Session


class TrainerGroup:
    """Faces `driver/loop/roles.py:Policy`, `Reference`, and what publishing and sharing devices need of a trainer.

    One that `rests` is in host memory but while it is asked: nobody else has to make room for it.
    """

    def __init__(
        self,
        run: RunConfig,
        actors: Sequence[Any],
        name: str = "policy",
        rests: bool = False,
        moves: Moves | None = None,
    ) -> None:
        self.run, self.actors, self.name, self.rests = run, list(actors), name, rests
        self.moves = moves or Moves()
        self.replica: list[int] = []

    def start(self) -> None:
        """Forms the groups and builds the model, on all ranks at once."""
        host, port = answer(self.actors[0].listen.remote(), self.name)
        ranks = len(self.actors)
        starting = [actor.start.remote(rank, ranks, host, port) for rank, actor in enumerate(self.actors)]
        self.replica = answers(starting, self.name)
        if self.rests:
            self.offload()

    def meeting_point(self) -> tuple[str, int]:
        """A place where the first rank can listen, on the job's own network."""
        host, port = answer(self.actors[0].meeting_point.remote(), self.name)
        return host, port

    def split(self, batch: Batch) -> tuple[Assigned, list[Any]]:
        """Which rows go to which data-parallel rank, and references to them."""
        packs = assigned(batch, self.run)
        return packs, [ray.put([batch.pick(rows) for rows in rank]) for rank in packs]

    def collect(self, batch: Batch, packs: Assigned, said: Sequence[Sequence[Any]]) -> Tensor:
        """[T] what one rank of each replica said per token, in the order of the batch."""
        found = torch.zeros(batch.rows.num_tokens)
        starts, lengths = batch.rows.starts.tolist(), batch.rows.lengths.tolist()
        for replica, rank in enumerate(packs):
            columns = said[self.replica.index(replica)]
            for rows, column in zip(rank, columns, strict=True):
                pieces = torch.split(tensors({"column": column})["column"], [lengths[row] for row in rows])
                for row, piece in zip(rows, pieces, strict=True):
                    found[starts[row] : starts[row] + lengths[row]] = piece
        return found

    def log_probs(self, batch: Batch) -> Tensor:
        """[T] of trained tokens, 0 elsewhere."""
        return self._of_tokens("log_probs", batch)

    def values(self, batch: Batch) -> Tensor:
        """[T] before every token; of a critic."""
        return self._of_tokens("values", batch)

    def scores(self, batch: Batch) -> Tensor:
        """[R, numbers] at the end of every response; of a reward model."""
        with self._awake():
            packs, said = self._asked("scores", batch)
        numbers = max((len(row) for rank in said for piece in rank for row in piece), default=1)
        found = torch.zeros(batch.rows.num_rows, numbers)
        for replica, rank in enumerate(packs):
            for rows, piece in zip(rank, said[self.replica.index(replica)], strict=True):
                found[list(rows)] = tensors({"piece": piece})["piece"].reshape(-1, numbers)
        return found

    def _of_tokens(self, method: str, batch: Batch) -> Tensor:
        with self._awake():
            packs, said = self._asked(method, batch)
        return self.collect(batch, packs, said)

    @contextmanager
    def _awake(self) -> Iterator[None]:
        if self.rests:
            self.onload()
        yield
        if self.rests:
            self.offload()

    def _asked(self, method: str, batch: Batch) -> tuple[Assigned, list[Any]]:
        packs, parts = self.split(batch)
        first = {self.replica.index(replica) for replica in range(len(packs))}
        asked = [
            getattr(actor, method).remote(parts[self.replica[rank]], rank in first)
            for rank, actor in enumerate(self.actors)
        ]
        return packs, answers(asked, self.name)

    def update(self, batch: Batch, components: Sequence[Component]) -> StepReport:
        """One optimizer step."""
        _, parts = self.split(batch)
        told = ray.put(list(components))
        with self._awake():
            asked = [actor.update.remote(parts[self.replica[rank]], told) for rank, actor in enumerate(self.actors)]
            report: StepReport = answers(asked, self.name)[0]
        return report

    def save(self, folder: Path, extra: Mapping[str, Any], last: bool) -> None:
        """A checkpoint of all ranks."""
        with self._awake():
            self._all("save", str(folder), dict(extra), last)

    def begin_save(self, folder: Path, extra: Mapping[str, Any]) -> None:
        """A checkpoint that is written while the next steps are trained."""
        with self._awake():
            self._all("begin_save", str(folder), dict(extra))

    def written(self) -> bool:
        """Whether all ranks have written it."""
        return all(self._all("written"))

    def end_save(self) -> None:
        """Makes it a checkpoint."""
        self._all("end_save")

    def restore(self, folder: Path) -> Mapping[str, Any]:
        """Takes one back."""
        with self._awake():
            found: Mapping[str, Any] = self._all("restore", str(folder))[0]
        return found

    def fill(self, folder: Path) -> None:
        """The weights of a checkpoint, for a model that is only asked."""
        self.restore(folder)

    def meet(self, session: Session) -> None:
        """All senders of a session."""
        self._all("meet", session)

    def send(self, which: str) -> list[dict[int, int]]:
        """Bytes by rank of the engines, from each."""
        return self._all("send", which)

    def digests(self, layout: Layout) -> Digests:
        """Of all stages together."""
        return {name: value for each in self._all("digests", layout) for name, value in each.items()}

    def offload(self, weights: bool = True) -> None:
        """All ranks out of device memory."""
        with self.moves.of(self.name):
            self._all("offload", weights)

    def onload(self) -> None:
        """And back."""
        with self.moves.of(self.name):
            self._all("onload")

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return answers([getattr(actor, method).remote(*arguments) for actor in self.actors], self.name)
