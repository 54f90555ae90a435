"""Which process stands where: plain numbers, before anything is started.

    colocated   engine i shares the devices of trainer ranks i*k ... i*k+k-1, k its tensor-parallel size
    split       engines stand on devices of their own, behind the trainer's
    host        processes of one host without an accelerator; nothing is shared and nothing sleeps

Invariants
    1. Every trainer rank has one bundle, in the order of the ranks: neighbours in a tensor-parallel group stand on one
       node where a node has room for them.
    2. More than the cluster has is refused here, in one line that says what is missing.

Example:
    >>> plan_of(trainer_ranks=2, engines=1, engine_devices=1, extra_roles=0, placement="host").bundles
    3
"""

from dataclasses import dataclass
from typing import Literal

from hpt_megatron.algorithms.build import build_models
from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import UserError

Placement = Literal["colocated", "split", "host"]


@dataclass(frozen=True)
class Plan:
    """Bundles of the placement group, and which of them each process takes."""

    bundles: int
    trainer: tuple[int, ...]
    engines: tuple[tuple[int, ...], ...]
    others: tuple[tuple[int, ...], ...]  # reference and critic, rank by rank
    judges: tuple[int, ...] = ()  # reward models with devices of their own


def plan_of(
    trainer_ranks: int, engines: int, engine_devices: int, extra_roles: int, placement: Placement, judges: int = 0
) -> Plan:
    """Where the processes of a run stand."""
    trainer = tuple(range(trainer_ranks))
    others = tuple(trainer for _ in range(extra_roles))
    first = 0 if placement == "colocated" else trainer_ranks
    each = [tuple(range(first + at * engine_devices, first + (at + 1) * engine_devices)) for at in range(engines)]
    if placement == "colocated" and engines * engine_devices > trainer_ranks:
        what = f"{engines} engines of {engine_devices} devices do not fit onto the trainer's {trainer_ranks}"
        raise UserError(what, where="rollout.replicas", mend="fewer replicas, or trainer.placement=split")
    taken = max([trainer_ranks, *(max(one) + 1 for one in each if one)])
    judging = tuple(range(taken, taken + judges))
    return Plan(taken + judges, trainer, tuple(each), others, judging)


def plan_for(run: RunConfig, generates: bool = True) -> Plan:
    """Where the processes of a run stand."""
    rollout, learned = run.rollout, run.reward.learned
    apart = generates and bool(learned.runs) and learned.devices == "own"
    return plan_of(
        run.devices,
        run.engines if generates else 0,
        rollout.tensor_parallel_size,
        len(build_models(run.algorithm)) - 1,
        run.trainer.placement,
        run.devices if apart else 0,
    )


def check_room(plan: Plan, have: float, kind: str) -> None:
    """Refuses what the cluster cannot hold."""
    if plan.bundles > have:
        what = f"the run needs {plan.bundles} {kind}s and the cluster has {have:g}"
        raise UserError(what, where="trainer.n_gpus_per_node", mend="fewer processes, or a larger cluster")
