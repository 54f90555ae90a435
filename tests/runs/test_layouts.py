"""The loop under every kind of layout, on Ray with the real engine: from one checkpoint the same rollouts and losses.

One process imitates until some rollouts are right and saves. Under each layout of two processes a trainer takes that
checkpoint back and makes two steps of HPT on an image task. All share one engine, which gets its weights from each
trainer in turn. A critic on the policy's trunk is trained the same way, without the checkpoint, which has no
head for it. Not covered: layouts of more than two processes, which `tests/dist` compares without an engine.
"""

from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from hpt_megatron.config.load import load_run
from hpt_megatron.data.build import build_sampler, train_prompts
from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.driver.loop.engines import Engines
from hpt_megatron.driver.loop.rl import RlLoop
from hpt_megatron.driver.loop.roles import Roles
from hpt_megatron.driver.loop.supply import Supply
from hpt_megatron.driver.loop.teacher import Teacher
from hpt_megatron.observe.step import Step
from hpt_megatron.recipes.files import with_files
from hpt_megatron.rollout.engine.forbidden import forbidden_ids
from hpt_megatron.rollout.engine.weight_sync import WeightSync

pytestmark = pytest.mark.slow
WARM_UP, STEPS = 45, 2
GIVEN = [
    *("data.train_batch_size=8", "trainer.ppo_mini_batch_size=8", "rollout.n_verify=4", "data.make=count"),
    *("trainer.total_epochs=null", "trainer.total_training_steps=100", "trainer.lr_warmup_steps=5"),
    *("trainer.deterministic=true", "rollout.agent_driver=lockstep"),
]
ALONE = ["layout=tp1", "trainer.n_gpus_per_node=1"]
LAYOUTS = {
    "tp 2": ["layout=tp2"],
    "pp 2": ["layout=tp1", "layout.pp=2"],
    "vpp 2": ["layout=tp1", "layout.pp=2", "layout.vpp=2"],
    "cp 2": ["layout=tp1", "layout.cp=2"],
    "dp 2": ["layout=tp1", "layout.dp=2"],
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One cluster with one engine, and what every run there has in common."""
    from hpt_megatron.driver.ray.cluster import cluster
    from hpt_megatron.driver.ray.placement import plan_for
    from hpt_megatron.driver.ray.places import Places
    from hpt_megatron.driver.ray.rollout_group import RolloutGroup

    folder = tmp_path_factory.mktemp("layouts")
    run = with_files(load_run([*GIVEN, *LAYOUTS["tp 2"]]), folder)
    chat = Chat.open(run.model.path)
    prompts = train_prompts(run.data, chat, PictureRules.of_folder(run.model.path))
    with cluster(plan_for(run).bundles), closing(Places(plan_for(run), "CPU")) as places:
        engines = RolloutGroup(places.engines(run, run.model.path, folder / "rollouts"))
        engines.begin()
        yield run, places, engines, prompts, forbidden_ids(chat, run.model.vocab_size), folder / "saved"
        engines.stop()


@contextmanager
def looped(shared, layout):
    """A loop whose trainer has a layout; the trainer ends with it."""
    import ray  # by now in the way that a run has it

    from hpt_megatron.driver.ray.images import keep
    from hpt_megatron.driver.ray.start import head_of
    from hpt_megatron.driver.ray.trainer_group import TrainerGroup

    base, places, engines, prompts, forbidden, _ = shared
    run = replace(load_run([*GIVEN, *layout]), model=base.model, data=base.data)
    policy = TrainerGroup(run, places.trainers(run, forbidden, head=head_of(run.algorithm)))
    policy.start()
    sync = WeightSync(run, policy, engines.replicas)
    roles = Roles(policy, Teacher(run, run.model.path, keep), engines, Engines(sync, engines))
    try:
        yield policy, RlLoop(run, roles, Algorithm(run), Supply(prompts, build_sampler(run.data, 1, prompts)))
    finally:
        sync.close()
        for actor in policy.actors:
            ray.kill(actor)


def steps(loop, first, last):
    logs = [Step(number) for number in range(first, last + 1)]
    for log in logs:
        loop.step(log.number, log)
    return [log.metrics() for log in logs]


@pytest.fixture(scope="module")
def alone(shared):
    """What one process says in the two steps after the warm-up; its checkpoint stays behind."""
    saved = shared[-1]
    with looped(shared, [*ALONE, f"trainer.sft_warmup_steps={WARM_UP}"]) as (policy, loop):
        steps(loop, 1, WARM_UP)
        policy.save(saved, {}, last=True)
        return steps(loop, WARM_UP + 1, WARM_UP + STEPS)


def test_one_process_imitates_some_prompts_and_explores_others(alone):
    for told in alone:
        assert told["critic/score/max"] == 1.0
        assert 0 < told["batch/demonstrations"] < 8
        assert told["loss/sft"] > 0
        assert told["actor/grad_norm"] > 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_two_processes_say_the_same_under_every_layout(shared, alone, name):
    with looped(shared, LAYOUTS[name]) as (policy, loop):
        policy.restore(shared[-1])
        supply = loop.supply
        for _ in range(WARM_UP):
            supply.take(8)
        found = steps(loop, WARM_UP + 1, WARM_UP + STEPS)
    for told, expected in zip(found, alone, strict=True):
        for number in ("critic/score/mean", "batch/demonstrations", "batch/rollouts"):
            assert told[number] == expected[number], number
        for number in ("actor/loss", "loss/sft", "loss/rl"):
            assert told[number] == pytest.approx(expected[number], abs=1e-4), number
        assert told["actor/grad_norm"] == pytest.approx(expected["actor/grad_norm"], rel=1e-2)


def test_a_critic_on_the_policys_trunk_learns_beside_it_and_stays_out_of_the_engine(shared):
    """Three models of four: the last stage says tokens and values. What is paid is a short answer."""
    given = ["algorithm=ppo", "algorithm.share_critic=true", "algorithm.overlong.buffer_share=1.0"]
    given += ["algorithm.overlong.factor=1.0", *LAYOUTS["pp 2"]]
    with looped(shared, given) as (_, loop):
        first, second = steps(loop, 1, 2)
        assert loop.roles.critic is None
        assert first["critic/vpred_mean"] == 0.0, "its head starts at zero"
        assert second["critic/vpred_mean"] != 0.0
        for told in (first, second):
            assert told["actor/skipped"] == 0
            assert told["actor/grad_norm"] > 0
            assert told["loss/value"] > 0
            assert "critic/grad_norm" not in told, "one optimizer has both"
            assert told["publish/bytes"] > 0
        assert second["correction/abs_gap"] < 0.01, "the engine has the trunk of the step before"
