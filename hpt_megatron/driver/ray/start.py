"""A run's roles on Ray: a cluster, a placement group, actors, and the faces that the loop talks to.

Roles start side by side, and nobody waits for engines until rollouts are wanted: a warm-up needs none.

Example:
    with open_roles(run, forbidden, folder) as roles: RlLoop(run, roles, ...)
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpt_megatron.algorithms.build import build_models
from hpt_megatron.config.algorithm import AlgorithmConfig, scores_rows, trains_critic
from hpt_megatron.config.run import RunConfig
from hpt_megatron.driver.loop.engines import Engines, SharedEngines
from hpt_megatron.driver.loop.learned import Judge
from hpt_megatron.driver.loop.moves import Moves
from hpt_megatron.driver.loop.reward_run import RewardRun
from hpt_megatron.driver.loop.roles import Roles
from hpt_megatron.driver.loop.teacher import Teacher
from hpt_megatron.driver.ray.cluster import cluster, nodes
from hpt_megatron.driver.ray.images import keep
from hpt_megatron.driver.ray.placement import check_room, plan_for
from hpt_megatron.driver.ray.places import Places
from hpt_megatron.driver.ray.rollout_group import RolloutGroup
from hpt_megatron.driver.ray.trainer_group import TrainerGroup
from hpt_megatron.errors import HptError
from hpt_megatron.observe.generations import ROLLOUTS
from hpt_megatron.rollout.engine.weight_sync import Transport, WeightSync


@contextmanager
def open_roles(
    run: RunConfig,
    forbidden: tuple[int, ...],
    folder: Path,
    generates: bool = True,
    trained: Sequence[RewardRun] = (),
) -> Iterator[Roles]:
    """Everyone who takes part, ready; all of it ends when this ends. Where nobody `generates` there is no engine.

    `trained` are the reward models that the run asks.
    """
    plan, model = plan_for(run, generates), run.model.path
    if model is None:
        raise HptError("no checkpoint is named", where="model.path")
    with ExitStack() as stack:
        have = stack.enter_context(cluster(plan.bundles))
        kind = "GPU" if have.get("GPU") and run.trainer.placement != "host" else "CPU"
        check_room(plan, have.get(kind, 0.0), kind)
        place = Places(plan, kind, have)
        stack.callback(place.close)
        models = build_models(run.algorithm)
        shares = run.trainer.placement == "colocated"  # the engines want the devices, whoever else stands on them
        asleep = run.trainer.offload_frozen or shares
        moves = Moves()
        policy = TrainerGroup(run, place.trainers(run, forbidden, head=head_of(run.algorithm)), moves=moves)
        reference = critic = None
        if "reference" in models:
            reference = TrainerGroup(run, place.trainers(run, forbidden, train=False), "reference", asleep, moves)
        if "critic" in models:
            own = replace(run, trainer=replace(run.trainer, lr=run.trainer.critic_lr or run.trainer.lr))
            critic = TrainerGroup(own, place.trainers(own, forbidden, head="scalar"), "critic", shares, moves)
        judges = tuple(_judge(each, run, place, forbidden, asleep, moves) for each in trained)
        teacher = Teacher(run, model, keep)
        groups = [each for each in (policy, reference, critic, *(judge.model for judge in judges)) if each is not None]
        if not generates:
            _start(groups)
            yield Roles(policy, teacher, reference=reference, critic=critic, moves=moves)
            return
        rollouts = RolloutGroup(place.engines(run, model, folder / ROLLOUTS))
        stack.callback(lambda: _quietly(rollouts.stop))
        shared = run.trainer.placement == "colocated"
        rollouts.begin()
        if shared:  # one after the other: the devices hold one of them at a time
            rollouts.ready()
            rollouts.sleep()
        _start(groups)
        _fill(judges, trained)
        transport = Transport(
            kind="shared" if nodes() == 1 else "sent",
            device="cpu" if kind == "CPU" else "cuda",
            place=policy.meeting_point,
        )
        sync = WeightSync(run, policy, rollouts.replicas, transport)
        stack.callback(sync.close)
        engines = SharedEngines(sync, rollouts, policy) if shared else Engines(sync, rollouts)
        yield Roles(policy, teacher, rollouts, engines, reference, critic, judges, moves)


def _judge(
    trained: RewardRun, run: RunConfig, place: Places, forbidden: tuple[int, ...], asleep: bool, moves: Moves
) -> Judge:
    own = trained.under(run)
    actors = place.trainers(own, forbidden, head="scalar", train=False, apart=run.reward.learned.devices == "own")
    group = TrainerGroup(own, actors, f"reward model {trained.name}", asleep, moves)
    return Judge(trained.name, trained.heads, group, trained.statistics)


def _fill(judges: Sequence[Judge], trained: Sequence[RewardRun]) -> None:
    """Weights come from the checkpoints of their runs."""
    for judge, each in zip(judges, trained, strict=True):
        judge.model.fill(each.checkpoint)


def head_of(algorithm: AlgorithmConfig) -> str:
    """What the policy says: tokens, beside them what states are worth, or scores alone."""
    if scores_rows(algorithm):
        return "scalar"
    return "both" if trains_critic(algorithm) and algorithm.share_critic else "tokens"


def _start(groups: Sequence[Any]) -> None:
    with ThreadPoolExecutor(len(groups)) as pool:
        for done in [pool.submit(group.start) for group in groups]:
            done.result()


def _quietly(act: Any) -> None:
    with suppress(HptError):
        act()
