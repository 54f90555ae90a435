"""All layouts of so many devices: none is lost, the ranked ones break no rule and fit, the refused ones say why."""

from dataclasses import replace

import pytest

from hpt_megatron.config.load import load
from hpt_megatron.config.problem import errors
from hpt_megatron.config.rules import check
from hpt_megatron.errors import UserError
from hpt_megatron.planning.answer import default_devices, problems_of, publishing, short_form
from hpt_megatron.planning.devices import NAMED, read_devices
from hpt_megatron.planning.layouts import Choice, applied, compare, own_choice, tried
from hpt_megatron.planning.memory import most, phases
from hpt_megatron.planning.step_time import step_time
from hpt_megatron.planning.workload import Assumed, Workload


def run_on(name, asked, *words):
    sizes = (f"trainer.nnodes={asked.nodes}", f"trainer.n_gpus_per_node={asked.per_node}")
    return load([f"experiment={name}", *sizes, *words]).run


@pytest.fixture(scope="module")
def wide():
    """72B on 1,024 devices."""
    asked = read_devices("h100:1024")
    run = run_on("hpt-72b", asked)
    return run, asked, compare(run, asked)


def sizes_of(choice):
    return (choice.tp, choice.pp, choice.vpp, choice.cp, choice.dp)


def test_every_combination_is_ranked_or_refused_once(wide):
    run, asked, found = wide
    listed = [one.choice for one in (*found.ranked, *found.refused)]
    assert len(listed) == len(set(listed))
    assert {sizes_of(choice) for choice in listed} == {sizes_of(choice) for choice in tried(run, asked.count)}
    assert all(choice.tp * choice.pp * choice.cp * choice.dp == 1024 for choice in listed)
    assert len(found.ranked) > 100
    assert len(found.refused) > 1000


def test_what_is_ranked_breaks_no_rule_and_fits(wide):
    """A part of them against all rules of a run, not those that were asked, and against the phases."""
    run, asked, found = wide
    assert all(own_choice(applied(run, one.choice)) == one.choice for one in found.ranked)
    for one in found.ranked[::40]:
        chosen = applied(run, one.choice)
        assert errors(check(chosen)) == [], one.choice
        worst = most(phases(chosen, asked.device, Workload.of(chosen)))
        assert worst.bytes <= asked.device.room
        assert (one.phase, one.bytes) == (worst.name, worst.bytes)


def test_the_rank_is_the_time_of_the_step(wide):
    run, asked, found = wide
    order = [one.tokens_per_s for one in found.ranked]
    assert order == sorted(order, reverse=True)
    for one in found.ranked[::30]:
        chosen = applied(run, one.choice)
        step = step_time(chosen, asked, Workload.of(chosen))
        assert (one.seconds, one.tokens_per_s) == pytest.approx((step.seconds, step.tokens_per_s))
        assert one.engines * one.choice.rollout_tp == 1024


def test_every_refusal_says_why(wide):
    found = wide[2]
    assert all(one.reason for one in found.refused)
    by_sizes = {sizes_of(one.choice): one.reason for one in found.refused if one.choice.recompute is None}
    assert "leaves the node" in by_sizes[16, 1, 1, 1, 64]
    assert "leave a stage of pp 64" in by_sizes[1, 64, 2, 1, 16]
    seven = run_on("hpt-7b", read_devices("h100:8"))
    of_seven = {str(one.choice): one.reason for one in compare(seven, read_devices("h100:8")).refused}
    assert "does not divide the 28 attention heads" in of_seven["tp 8, pp 1, vpp 1, cp 1, dp 1"]
    too_much = of_seven["tp 1, pp 1, vpp 1, cp 1, dp 8, recompute none"]
    assert too_much.startswith("update needs ")
    assert "of 70.8 on stage 0, most of it activations of the layers" in too_much


def test_more_memory_never_takes_a_layout_away():
    smaller, larger = read_devices("h100:32"), read_devices("h200:32")
    run = run_on("hpt-32b", smaller)

    def legal(asked):
        return {sizes_of(one.choice) for one in compare(run, asked).ranked}

    assert legal(smaller) < legal(larger)


def test_nothing_fits_where_nothing_can():
    asked = read_devices("h100:2")
    found = compare(run_on("hpt-72b", asked, "layout=tp2", "rollout.tensor_parallel_size=2"), asked)
    assert not found.ranked
    assert found.refused


def test_split_devices_sample_and_the_others_train():
    asked = read_devices("h200:32")
    run = run_on("hpt-32b", asked)
    found = compare(run, asked, split=16)
    best = found.ranked[0]
    assert best.engines * best.choice.rollout_tp == 16
    chosen = applied(run, best.choice)
    step = step_time(chosen, asked, Workload.of(chosen), split=16)
    assert best.seconds == pytest.approx(step.seconds)
    assert step.of("moves") == 0
    assert publishing(chosen, asked, 16)["bytes"] > 0


@pytest.mark.parametrize("name", ["hpt-3b", "hpt-7b", "hpt-32b", "hpt-72b", "seed_debug", "tiny-hpt"])
def test_validation_keeps_the_experiments_and_refuses_what_fits_nowhere(name):
    run = load([f"experiment={name}"]).run
    assert problems_of(run) == []
    if name == "hpt-72b":
        (problem,) = problems_of(applied(run, Choice(1, 1, 1, 1, 64, "none")))
        assert problem.path == "layout"
        assert "update needs" in problem.why
        assert NAMED["b200"].title in problem.why
        tight = replace(run, rollout=replace(run.rollout, gpu_memory_utilization=0.1))
        assert [each.path for each in problems_of(tight)] == ["rollout.gpu_memory_utilization"]


def test_the_short_form_says_devices_memory_and_time():
    assert short_form(load(["experiment=hpt-72b"]).run)[1].endswith(": fits"), "on what it is written for"
    run = load(["experiment=hpt-72b", "trainer.recompute=selective"]).run
    lines = short_form(run)
    assert len(lines) == 3
    assert lines[0] == "plan for 64 x H100 SXM 80 GB: tp 8, pp 4, vpp 1, cp 1, dp 2, recompute selective, engines of 8"
    assert lines[1].endswith(": DOES NOT FIT")
    assert "tokens/s" in lines[2]
    assert short_form(run, read_devices("b200:64"))[1].endswith(": fits")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v100:8", "no device is named 'v100'"),
        ("h10:8", "did you mean h100"),
        ("h100:12", "12 devices leave a node half used; nodes have 8; 8 or 16"),
        ("h100:0", "0 devices"),
        ("h100:9999999", "9999999 devices"),
        ("h100:-8", "is not a kind and a number"),
        ("h100:eight", "is not a kind and a number"),
        ("", "is not a kind and a number"),
    ],
)
def test_devices_that_cannot_be_are_refused_in_one_line(text, said):
    with pytest.raises(UserError) as caught:
        read_devices(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.where == f"devices={text}"


def test_every_named_device_has_a_source_and_a_run_has_a_default():
    for device in NAMED.values():
        assert device.source.startswith("NVIDIA")
        assert device.room < device.memory
    assert default_devices(load(["experiment=hpt-7b"]).run).device.name == "h100"
    own = default_devices(load(["experiment=tiny-hpt"]).run)
    assert (own.device.name, own.count, own.nodes) == ("host", 2, 1)


def test_assumptions_are_held_within_the_run():
    run = load(["experiment=hpt-7b"]).run
    assert Workload.of(run, Assumed(prompt=100, response=200, images=0)).mean_length == 300
    for assumed in (Assumed(response=8193), Assumed(prompt=0), Assumed(images=9), Assumed(grid=(1, 3, 4))):
        with pytest.raises(UserError):
            Workload.of(run, assumed)
    text = load(["model=qwen2.5-7b"]).run
    with pytest.raises(UserError, match="sees no images"):
        Workload.of(text, Assumed(images=1))
