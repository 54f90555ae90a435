"""Which process stands where, in plain numbers, and what is refused before anything is started."""

import pytest

from hpt_megatron.driver.ray.placement import check_room, plan_of
from hpt_megatron.errors import UserError


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
