"""A run's roles on Ray: a cluster, a placement group, actors, and the faces that the loop talks to.

Roles start side by side, and nobody waits for engines until rollouts are wanted: a warm-up needs none.

Example:
    with open_roles(run, forbidden, folder) as roles: RlLoop(run, roles, ...)
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from hpt_megatron.algorithms.build import build_models
from hpt_megatron.config.run import RunConfig
from hpt_megatron.driver.loop.engines import Engines, SharedEngines
from hpt_megatron.driver.loop.roles import Roles
from hpt_megatron.driver.loop.teacher import Teacher
from hpt_megatron.driver.ray.actors import RolloutProcess, TrainerProcess
from hpt_megatron.driver.ray.cluster import cluster
from hpt_megatron.driver.ray.images import keep
from hpt_megatron.driver.ray.placement import Plan, check_room, plan_of
from hpt_megatron.driver.ray.rollout_group import RolloutGroup
from hpt_megatron.driver.ray.trainer_group import TrainerGroup
from hpt_megatron.errors import HptError
from hpt_megatron.observe.generations import ROLLOUTS
from hpt_megatron.rollout.engine.weight_sync import Transport, WeightSync

SHARE = 0.25
"""Of a device: policy, reference, critic and engine may stand on one."""
ENGINE_THREADS = 8
"""Calls that a replica takes at a time: it is asked for its health while it generates."""


def plan_for(run: RunConfig) -> Plan:
    """Where the processes of a run stand."""
    rollout = run.rollout
    return plan_of(
        run.devices,
        rollout.replicas,
        rollout.tensor_parallel_size,
        len(build_models(run.algorithm)) - 1,
        run.trainer.placement,
    )


@contextmanager
def open_roles(run: RunConfig, forbidden: tuple[int, ...], folder: Path) -> Iterator[Roles]:
    """Everyone who takes part, ready; all of it ends when this ends."""
    plan, model = plan_for(run), run.model.path
    if model is None:
        raise HptError("no checkpoint is named", where="model.path")
    with ExitStack() as stack:
        have = stack.enter_context(cluster(plan.bundles))
        kind = "GPU" if have.get("GPU") and run.trainer.placement != "host" else "CPU"
        check_room(plan, have.get(kind, 0.0), kind)
        place = _Places(plan, kind)
        stack.callback(place.close)
        models = build_models(run.algorithm)
        policy = TrainerGroup(run, place.trainers(run, forbidden))
        reference = critic = None
        if "reference" in models:
            reference = TrainerGroup(run, place.trainers(run, forbidden, train=False), "reference")
        if "critic" in models:
            critic = TrainerGroup(run, place.trainers(run, forbidden, head="scalar"), "critic")
        rollouts = RolloutGroup(place.engines(run, model, folder / ROLLOUTS))
        stack.callback(lambda: _quietly(rollouts.stop))
        shared = run.trainer.placement == "colocated"
        rollouts.begin()
        if shared:  # one after the other: the devices hold one of them at a time
            rollouts.ready()
            rollouts.sleep()
        _start([group for group in (policy, reference, critic) if group is not None])
        transport = Transport(
            kind="shared" if run.trainer.nnodes == 1 else "sent",
            device="cpu" if kind == "CPU" else "cuda",
            host=str(ray.util.get_node_ip_address()),  # type: ignore[no-untyped-call]
        )
        sync = WeightSync(run, policy, rollouts.replicas, transport)
        stack.callback(sync.close)
        engines = SharedEngines(sync, rollouts, policy) if shared else Engines(sync, rollouts)
        yield Roles(policy, Teacher(run, model, keep), rollouts, engines, reference, critic)


def _start(groups: Sequence[Any]) -> None:
    with ThreadPoolExecutor(len(groups)) as pool:
        for done in [pool.submit(group.start) for group in groups]:
            done.result()


def _quietly(act: Any) -> None:
    with suppress(HptError):
        act()


class _Places:
    """The placement group of a run, and actors in its bundles."""

    def __init__(self, plan: Plan, kind: str) -> None:
        self.plan, self.kind = plan, kind
        self.group = placement_group([{kind: 1.0}] * plan.bundles, strategy="PACK")
        ray.get(self.group.ready())

    def trainers(
        self, run: RunConfig, forbidden: tuple[int, ...], head: str = "tokens", train: bool = True
    ) -> list[Any]:
        """The ranks of one model."""
        made = self._actor(TrainerProcess, share=SHARE)
        return [made(bundle).remote(run, head, train, forbidden) for bundle in self.plan.trainer]

    def engines(self, run: RunConfig, model: str, written: Path) -> list[Any]:
        """The replicas; each stands in the first of its bundles."""
        made = self._actor(RolloutProcess, share=SHARE, threads=ENGINE_THREADS, restarts=-1)
        return [made(bundles[0]).remote(run, model, str(written)) for bundles in self.plan.engines]

    def _actor(self, cls: type, share: float, threads: int = 1, restarts: int = 0) -> Any:
        needed = {"num_cpus": share, "num_gpus": 0} if self.kind == "CPU" else {"num_cpus": 0, "num_gpus": share}

        def in_bundle(bundle: int) -> Any:
            strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=bundle)
            return ray.remote(cls).options(
                **needed,
                scheduling_strategy=strategy,
                max_concurrency=threads,
                max_restarts=restarts,
            )

        return in_bundle

    def close(self) -> None:
        """The actors end with it."""
        remove_placement_group(self.group)
