"""Seconds of a step: against the operations they are made of, and how they answer to a change of the layout.

Not covered: whether a GPU keeps to the shares of its peaks that `devices.py` assumes; none has run this yet.
"""

from dataclasses import replace

import pytest

from hpt_megatron.config.load import load
from hpt_megatron.layout.cost import head_cost, language_cost, vision_cost
from hpt_megatron.planning.answer import publishing
from hpt_megatron.planning.communication import links, of_gradients, of_sequence, ring
from hpt_megatron.planning.devices import LINK_RATES, NAMED, read_devices
from hpt_megatron.planning.engine import engine_of
from hpt_megatron.planning.parameters import stages_of
from hpt_megatron.planning.roles import POLICY
from hpt_megatron.planning.step_time import decoding, optimizer, passes, rollout, stage_seconds, step_time
from hpt_megatron.planning.workload import Workload
from hpt_megatron.weights.plan.cost import LINKS, cost
from hpt_megatron.weights.plan.publish import plan_of_run

pytestmark = pytest.mark.fast


def asked_for(*words, devices="h100:8"):
    asked = read_devices(devices)
    run = load([*words, f"trainer.nnodes={asked.nodes}", f"trainer.n_gpus_per_node={asked.per_node}"]).run
    return run, asked, Workload.of(run)


def seconds(parts, *words):
    return sum(part.seconds for part in parts if all(word in part.name for word in words))


def test_operations_are_those_of_the_pack_plan():
    """Three times a forward pass of decoder, tower and head; the head on responses alone."""
    run, asked, work = asked_for("experiment=hpt-7b")
    model, length = run.model, work.mean_length
    forward = language_cost(model, length) + vision_cost(model.vision, work.grid) + head_cost(model, work.response)
    assert step_time(run, asked, work).operations == pytest.approx(3 * work.rows * forward)


def test_computing_is_operations_over_the_rates_that_are_stated():
    """Without recomputation on one stage: linear and attention part at their own shares, the head four times."""
    run, _, work = asked_for("experiment=hpt-7b", "trainer.recompute=none", "model.vision.depth=1")
    (stage,) = stages_of(run.model, run.layout)
    h100, length = NAMED["h100"], work.mean_length
    attention = 28 * 2 * length * length * 28 * 128
    linear = language_cost(run.model, length) - attention
    head, tower = head_cost(run.model, work.response), vision_cost(run.model.vision, work.grid)
    forward = ((linear + head + tower) / 0.6 + attention / 0.4) / h100.flops / 4
    found = stage_seconds(run, h100, work, stage, POLICY, 1.0)
    assert found == pytest.approx([forward, 2 * forward + head / 0.6 / h100.flops / 4], rel=1e-9)


def test_the_bubble_is_that_of_the_schedule():
    """(pp - 1) / vpp packs of the slowest stage, in every mini-batch."""
    run, asked, work = asked_for("experiment=hpt-72b", devices="h100:64")
    parts, _ = passes(run, asked, work, POLICY, train=True)
    slowest = seconds(parts, "computing") + seconds(parts, "slowest")
    packs = work.packs * work.mini_batches
    assert seconds(parts, "bubble") == pytest.approx(slowest / packs * 3 * work.mini_batches)
    run2, _, work2 = asked_for("experiment=hpt-72b", "layout.vpp=2", devices="h100:64")
    halved = seconds(passes(run2, asked, work2, POLICY, train=True)[0], "bubble") / seconds(parts, "bubble")
    assert halved == pytest.approx(0.5 * work.packs / work2.packs)


def test_the_step_is_the_sum_of_its_parts_and_each_takes_time():
    for name, devices in (("hpt-3b", "a100:8"), ("hpt-7b", "h100:8"), ("hpt-72b", "b200:64")):
        run, asked, work = asked_for(f"experiment={name}", devices=devices)
        step = step_time(run, asked, work)
        assert step.seconds == pytest.approx(sum(part.seconds for part in step.parts))
        assert step.seconds == pytest.approx(sum(map(step.of, ("rollout", "log-probs", "update", "publish", "moves"))))
        assert all(part.seconds > 0 for part in step.parts)
        assert step.tokens == work.rows * work.mean_length
        assert 0.1 < step.utilization(asked.device) < asked.device.product_share


def test_full_recomputation_costs_a_forward_pass_of_the_layers():
    times = {}
    for recompute in ("none", "selective", "full"):
        run, asked, work = asked_for("experiment=hpt-7b", f"trainer.recompute={recompute}")
        times[recompute] = seconds(passes(run, asked, work, POLICY, train=True)[0], "computing")
    assert times["none"] < times["selective"] < times["full"]
    assert times["full"] / times["none"] == pytest.approx(4 / 3, abs=0.03)


def test_groups_are_on_the_links_where_megatrons_order_of_ranks_puts_them():
    run, asked, _ = asked_for("experiment=hpt-72b", devices="h100:64")
    on = links(run.layout, run.dp, asked)
    inside, outside = "NVLink4", "InfiniBand 400 Gb/s"
    assert on == {"tp": inside, "cp": inside, "dp": outside, "pp": outside}
    assert links(replace(run.layout, tp=4), 4, asked)["dp"] == outside
    assert links(replace(run.layout, tp=4), 2, asked)["dp"] == inside
    assert links(replace(run.layout, cp=2), 1, asked)["cp"] == outside


def test_bytes_of_a_layer_and_of_gradients_by_hand():
    run, asked, _ = asked_for("experiment=hpt-7b", "layout.cp=2")
    assert run.dp == 1
    of_tp, of_cp = of_sequence(run, asked, tokens=1000, layers=28, packs=3, train=True)
    assert of_tp.bytes == 10 * (3 / 4) * 1000 * 3584 * 2 * 28 * 3
    assert of_cp.bytes == 3 * (1 / 2) * 2000 * 2 * 128 * 2 * 28 * 3, "forward, backward, and attention again"
    (of_dp,) = of_gradients(run, asked, held=1000, trained=900)
    assert of_dp.bytes == ring(2, 4 * 900 + 2 * 1000)
    assert of_dp.exposed == pytest.approx(0.2 * of_dp.seconds)
    alone, _, _ = asked_for("experiment=hpt-3b", "layout=tp1", "trainer.ppo_max_token_len_per_gpu=9216")
    assert of_sequence(alone, asked, 1000, 36, 3, train=True) == []


def test_decoding_reads_weights_and_cache_once_for_each_token():
    run, asked, work = asked_for("experiment=hpt-7b", "rollout.tensor_parallel_size=1")
    engine, h100 = engine_of(run, asked.device), asked.device
    few, many = (decoding(run, asked, engine, count, work) for count in (1, 101))
    read = engine.weights + (work.prompt + work.response / 2) * engine.per_token
    assert few == pytest.approx(read / (0.8 * h100.bandwidth) + 60 * h100.launch)
    assert many - few == pytest.approx(100 * (work.prompt + work.response / 2) * 57_344 / (0.8 * h100.bandwidth))


def test_sampling_without_room_for_a_sequence_never_ends():
    run, asked, work = asked_for("experiment=hpt-7b", "rollout.gpu_memory_utilization=0.1")
    parts = rollout(run, asked, work, engine_of(run, asked.device), 8)
    assert sum(part.seconds for part in parts) == float("inf")


def test_offload_brings_the_state_there_and_back():
    run, asked, _ = asked_for("experiment=hpt-7b")
    away = replace(run, trainer=replace(run.trainer, optimizer_offload=True))
    more = optimizer(away, asked.device, 1e9) - optimizer(run, asked.device, 1e9)
    assert more == pytest.approx(2 * 12e9 / (LINK_RATES["PCIe 5 x16"] * 1e9 * 0.8))


def test_publishing_is_what_the_publishing_plan_says():
    """On 8 devices the plan itself; its links are those of the plan, of which 0.8 are reached."""
    run, asked, _ = asked_for("experiment=hpt-7b")
    told, counted = publishing(run, asked), cost(plan_of_run(run))
    rates = LINKS["NVLink4"] * 0.8, LINKS["InfiniBand 400 Gb/s"] * 0.8
    assert (told["seconds_at_once"], told["seconds_in_turn"]) == pytest.approx(counted.seconds(*rates))
    assert told["bytes"] == counted.total
    assert told["buffer_bytes"] == max(counted.buffers)
    assert told["planned_for"] == 8


def test_a_reference_is_one_more_forward_pass_and_a_critic_a_whole_one():
    base, asked, work = asked_for("experiment=hpt-7b")
    step = step_time(base, asked, work)
    run, _, _ = asked_for("experiment=hpt-7b", "algorithm.kl_ctrl.kl_coef=0.1")
    assert step_time(run, asked, work).of("log-probs") == pytest.approx(2 * step.of("log-probs"))
    run, _, _ = asked_for("experiment=hpt-7b", "algorithm.adv_estimator=gae")
    assert 1.8 < step_time(run, asked, work).of("update") / step.of("update") < 2.0, "its head is one number"


def test_no_gradient_passes_through_a_frozen_tower():
    times = []
    for words in ((), ("trainer.freeze=[visual.*]",)):
        run, asked, work = asked_for("experiment=hpt-7b", *words)
        (stage,) = stages_of(run.model, run.layout, run.trainer.freeze)
        times.append(stage_seconds(run, asked.device, work, stage, POLICY, 1.0))
    tower = vision_cost(run.model.vision, work.grid) / 4 / 0.6 / NAMED["h100"].flops
    assert times[0][0] == times[1][0]
    assert times[0][1] - times[1][1] == pytest.approx(2 * tower)
