"""The processes of a run: thin classes around a worker of the trainer, and around an engine with its agent.

Invariant: an actor decides nothing. What it is asked it does with the object that it holds, which knows nothing of Ray.
"""

import logging
import socket
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray

from hpt_megatron.algorithms.objective.part import Component
from hpt_megatron.config.run import RunConfig
from hpt_megatron.driver.loop.roles import Asked, Collected
from hpt_megatron.driver.ray.images import keep
from hpt_megatron.host.ports import free_port, listener
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.step_report import StepReport
from hpt_megatron.weights.plan.held import Layout
from hpt_megatron.weights.publish.digests import Digests, digests
from hpt_megatron.weights.publish.session import Session

LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"


def _begin_log() -> None:
    """Warnings that libraries write for their own programmers, once a step, would bury the lines of a run."""
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT)
    for kind in (FutureWarning, DeprecationWarning, UserWarning):
        warnings.filterwarnings("ignore", category=kind, module=r"(torch|megatron|transformers|vllm)(\.|$)")


class TrainerProcess:
    """One rank of a model: the policy, the reference or the critic."""

    def __init__(self, run: RunConfig, head: str, train: bool, forbidden: tuple[int, ...]) -> None:
        import torch

        _begin_log()
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(run.trainer.deterministic, warn_only=True)  # what has no such kernel says so
        from hpt_megatron.mcore.worker import MegatronWorker

        self.listener: socket.socket | None = None
        self.worker: Any = MegatronWorker(run, head=head, train=train, forbidden=forbidden)  # type: ignore[arg-type]

    def meeting_point(self) -> tuple[str, int]:
        """Where somebody can listen on this host; asked of the first rank."""
        host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        return host, free_port(host)

    def listen(self) -> tuple[str, int]:
        """Where the ranks meet; the first one listens there from here on."""
        host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        self.listener = listener(host)
        return host, int(self.listener.getsockname()[1])

    def start(self, rank: int, ranks: int, host: str, port: int) -> int:
        """Joins the others and builds its part of the model; answers its data-parallel rank."""
        from hpt_megatron.mcore.initialize import Rendezvous

        self.worker.start(Rendezvous(rank, ranks, host, port, self.listener))
        return int(self.worker.replica)

    def log_probs(self, parts: Sequence[Batch], tells: bool) -> list[Any]:
        """Per token of each part; only one rank of a replica tells."""
        said = self.worker.log_probs(parts)
        return [each["logp"].numpy() for each in said] if tells else []

    def values(self, parts: Sequence[Batch], tells: bool) -> list[Any]:
        """Before every token of each part, where the head says one number."""
        said = self.worker.values(parts)
        return [each.numpy() for each in said] if tells else []

    def scores(self, parts: Sequence[Batch], tells: bool) -> list[Any]:
        """Of each row of each part, once its response was read."""
        said = self.worker.scores(parts)
        return [each.numpy() for each in said] if tells else []

    def update(self, parts: Sequence[Batch], components: Sequence[Component]) -> StepReport:
        """One optimizer step."""
        report: StepReport = self.worker.update(parts, components)
        return report

    def save(self, folder: str, extra: Mapping[str, Any], last: bool) -> None:
        """Its part of a checkpoint."""
        self.worker.save(folder, extra, last)

    def begin_save(self, folder: str, extra: Mapping[str, Any]) -> None:
        """Its part of one that is written while it trains on."""
        self.worker.begin_save(folder, extra)

    def written(self) -> bool:
        """Whether that is on disk."""
        return bool(self.worker.written())

    def end_save(self) -> None:
        """Makes it a checkpoint, together with the others."""
        self.worker.end_save()

    def restore(self, folder: str) -> dict[str, Any]:
        """Its part of a checkpoint."""
        found: dict[str, Any] = self.worker.restore(folder)
        return found

    def meet(self, session: Session) -> None:
        """Its side of a session with engines."""
        self.worker.meet(session)

    def send(self, which: str) -> Counter[int]:
        """What a plan asks of it."""
        sent: Counter[int] = self.worker.send(which)
        return sent

    def digests(self, layout: Layout) -> Digests:
        """Of what its stage holds."""
        found = digests(layout, self.worker.weights())
        return found if self.worker.speaks else {}

    def offload(self, weights: bool) -> None:
        """Out of device memory."""
        self.worker.offload(weights)

    def onload(self) -> None:
        """And back."""
        self.worker.onload()


class RolloutProcess:
    """One engine with its agent, its scores and its rows."""

    def __init__(self, run: RunConfig, folder: str, written: str) -> None:
        _begin_log()
        self.run, self.folder, self.written = run, folder, Path(written)
        self._open = ExitStack()
        self.started = False

    def start(self) -> int:
        """Loads the model; answers how many tokens the cache holds."""
        from hpt_megatron.data.chat import Chat
        from hpt_megatron.driver.loop.rollouts import Rollouts
        from hpt_megatron.rollout.engine.build import engine_of

        self.engine = engine_of(self.run, self.folder, Chat.open(self.folder))
        self.engine.start()
        self.rollouts = Rollouts(self.run, self.engine, self.folder, keep, self.written)
        self.rollouts.agent.probe()
        self.started = True
        return int(self.engine.cache_tokens)

    def collect(self, asked: Asked) -> Collected:
        """Rollouts as scored rows; their images stay in the object store."""
        return self.rollouts.collect(asked)

    def whole(self) -> bool:
        """Whether its weights are those of one version."""
        return bool(self.engine.whole)

    def meet(self, meeting: Mapping[str, Any]) -> None:
        """Its side of a session with the trainer."""
        self.engine.meet(dict(meeting))

    def begin(self, version: str) -> None:
        """Opens for new weights."""
        self._open.enter_context(self.engine.paused(version))

    def take(self, which: str) -> None:
        """Takes a plan to its end."""
        self.engine.take(which)

    def end(self) -> None:
        """Serves what it took."""
        self._open.close()

    def give_up(self) -> None:
        """What it took is not whole; it refuses until something is."""
        self._open.pop_all()

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """Of every rank of the engine."""
        found: list[Any] = self.engine.ask(method, *arguments)
        return found

    def sleep(self) -> None:
        """Gives the device's memory back."""
        self.engine.sleep()

    def wake(self, what: str) -> None:
        """Takes it again."""
        self.engine.wake(what)

    def healthy(self) -> bool:
        """Whether it can generate."""
        return self.started and bool(self.engine.healthy())

    def revive(self) -> None:
        """New processes with the folder's weights; it wants a publish."""
        self._open = ExitStack()
        if self.started:
            self.engine.restart()
        else:  # this process is itself a new one
            self.start()

    def stop(self) -> None:
        """Ends the engine's processes."""
        if self.started:
            self.rollouts.close()
            self.engine.stop()
