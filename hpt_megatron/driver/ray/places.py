"""Actors in the bundles of a run's placement group: the plan of `placement.py`, carried out.

Invariant: the actors end with the group.

Example: places = Places(plan_for(run), "CPU"); TrainerGroup(run, places.trainers(run, forbidden)); places.close()
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from hpt_megatron.config.cluster import ROLLOUT, TRAINER
from hpt_megatron.config.run import RunConfig
from hpt_megatron.driver.ray.actors import RolloutProcess, TrainerProcess
from hpt_megatron.driver.ray.placement import Plan

SHARE = 0.125
"""Of a device: policy, reference, critic, reward models and engine may stand on one."""
ENGINE_THREADS = 8
"""Calls that a replica takes at a time: it is asked for its health while it generates."""


class Places:
    """The placement group of a run, and actors in its bundles."""

    def __init__(self, plan: Plan, kind: str, have: Mapping[str, float] = MappingProxyType({})) -> None:
        self.plan, self.kind = plan, kind
        roles = dict.fromkeys(range(plan.bundles), ROLLOUT) | dict.fromkeys(plan.trainer, TRAINER)
        roles |= dict.fromkeys(plan.judges, "")  # wherever there is room
        bundles = [{kind: 1.0} | ({role: 1.0} if role in have else {}) for _, role in sorted(roles.items())]
        self.group = placement_group(bundles, strategy="PACK")
        ray.get(self.group.ready())

    def trainers(
        self, run: RunConfig, forbidden: tuple[int, ...], head: str = "tokens", train: bool = True, apart: bool = False
    ) -> list[Any]:
        """The ranks of one model; `apart` on devices of their own."""
        made = self._actor(TrainerProcess, share=SHARE)
        bundles = self.plan.judges if apart else self.plan.trainer
        return [made(bundle).remote(run, head, train, forbidden) for bundle in bundles[: run.devices]]

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
