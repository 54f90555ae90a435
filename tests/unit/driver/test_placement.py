"""Which process stands where, in plain numbers, and what is refused before anything is started."""

import pytest

from hpt_megatron.config.geometry import parameters, trunk_parameters
from hpt_megatron.config.load import load, load_run
from hpt_megatron.driver.ray.placement import check_room, plan_for, plan_of
from hpt_megatron.errors import UserError
from hpt_megatron.recipes.roles_table import roles_table


def test_colocated_engines_take_the_devices_of_neighbouring_trainer_ranks():
    plan = plan_of(trainer_ranks=8, engines=2, engine_devices=4, extra_roles=0, placement="colocated")
    assert plan.bundles == 8
    assert plan.engines == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert plan.trainer == tuple(range(8))


@pytest.mark.parametrize("placement", ["split", "host"])
def test_other_engines_stand_behind_the_trainer(placement):
    plan = plan_of(trainer_ranks=2, engines=2, engine_devices=1, extra_roles=1, placement=placement)
    assert plan.bundles == 4
    assert plan.engines == ((2,), (3,))
    assert plan.others == ((0, 1),)


def test_what_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(UserError, match="3 engines of 4 devices do not fit onto the trainer's 8"):
        plan_of(trainer_ranks=8, engines=3, engine_devices=4, extra_roles=0, placement="colocated")
    plan = plan_of(trainer_ranks=8, engines=1, engine_devices=4, extra_roles=0, placement="split")
    check_room(plan, 12.0, "GPU")
    with pytest.raises(UserError, match="the run needs 12 GPUs and the cluster has 11"):
        check_room(plan, 11.0, "GPU")


def test_where_engines_share_devices_there_are_as_many_as_fit_and_a_run_that_only_imitates_has_none():
    run = load_run(["experiment=hpt-7b", "rollout.tensor_parallel_size=2"])
    assert run.devices == 8
    assert plan_for(run).engines == ((0, 1), (2, 3), (4, 5), (6, 7))
    tiny = load_run(["experiment=tiny-hpt", "trainer.sft_warmup_steps=null"])
    assert tiny.supervised
    assert plan_for(tiny).engines == ((2,),)
    assert plan_for(tiny, generates=False).bundles == 2


def test_the_table_of_roles_names_devices_and_bytes_of_those_that_a_run_has():
    given = ["experiment=tiny-ppo", "algorithm.use_kl_loss=true", "algorithm.kl_loss_coef=0.1"]
    told = [line.split()[:3] for line in roles_table(load_run(given), generates=True)]
    assert told == [
        ["policy", "devices", "0-1"],
        ["reference", "devices", "0-1"],
        ["critic", "devices", "0-1"],
        ["engine", "device", "2"],
        ["critic", "1,111,488", "parameters"],
    ]
    plain = roles_table(load_run(["experiment=tiny-hpt"]), generates=False)
    assert [line.split()[0] for line in plain] == ["policy"], "no KL asks for a reference"
    assert "moments, float32 0.01" in plain[0]


def test_a_head_that_says_numbers_is_told_with_its_parameters_in_place_of_those_over_the_vocabulary():
    (line,) = [line for line in roles_table(load_run(["experiment=tiny-reward-model"]), False) if "head" in line]
    assert line.split(None, 1) == [
        "reward",
        "1,111,488 parameters and a head of 129, linear to 1, in place of one over the vocabulary",
    ]
    heads = load_run(["experiment=tiny-reward-model", "algorithm.preference.heads=[a,b,c]"])
    assert "a head of 387, linear to 3" in roles_table(heads, False)[-1]
    shared = load_run(["experiment=tiny-ppo", "algorithm.share_critic=true"])
    assert roles_table(shared, True)[-1].startswith("critic     a head of 129, linear to 1, on the policy's trunk")
    seven = load_run(["experiment=hpt-7b"]).model
    assert parameters(seven) - trunk_parameters(seven) == seven.vocab_size * seven.hidden_size, "its own matrix"


def test_reward_models_share_the_trainers_devices_or_have_as_many_of_their_own_behind_the_engines(tmp_path):
    given = ["experiment=tiny-ppo", "layout=tp2", "trainer.n_gpus_per_node=2", f"reward.learned.runs=[{tmp_path}]"]
    shared, own = (plan_for(load([*given, f"reward.learned.devices={where}"]).run) for where in ("shared", "own"))
    assert (shared.bundles, shared.judges) == (3, ())
    assert (own.bundles, own.judges, own.engines) == (5, (3, 4), ((2,),))
    lines = roles_table(load([*given, "reward.learned.devices=own"]).run, generates=True)
    (line,) = [line for line in lines if line.startswith("reward_1")]
    assert "devices 3-4" in line
    assert "weights" in line
    assert "gradients" not in line
