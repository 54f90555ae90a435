"""What a report draws: thinned curves, columns, the map of decisions, the choice of rollouts."""

import doctest
import importlib
import random
from itertools import pairwise
from pathlib import Path

import pytest

from hpt_megatron.protocol.conditions import Condition
from hpt_megatron.report.chart import Line, columns_chart, curves, map_of, spread
from hpt_megatron.report.curve_section import all_curves
from hpt_megatron.report.decisions import columns_of, gate_map, kind_of, shares, successes
from hpt_megatron.report.figures import Figures
from hpt_megatron.report.folder import Recorded, Visit
from hpt_megatron.report.groups import grouped
from hpt_megatron.report.rollouts import Entry, chosen_of, succeeded
from hpt_megatron.report.series import MOST, running, thin, ticks
from hpt_megatron.report.usage_section import times, usage

pytestmark = pytest.mark.fast
MODULES = (
    "chart",
    "decisions",
    "differences",
    "folder",
    "groups",
    "headline",
    "markdown",
    "overview",
    "rollouts",
    "series",
)


@pytest.mark.parametrize(
    "name", [*(f"report.{name}" for name in MODULES), "report.rollouts", "report.series", "web.page", "web.svg"]
)
def test_the_examples_hold(name):
    assert doctest.testmod(importlib.import_module(f"hpt_megatron.{name}")).failed == 0


def visit(step, uid, k, arm, n=8):
    return Visit(step, uid, n, k, arm, float(arm == "explore"), 0 if arm == "explore" else n, arm == "imitate")


def test_a_long_curve_keeps_its_mean_its_ends_and_its_spikes():
    values = [(step, 0.0) for step in range(1, 10_001)]
    values[5000] = (5001, 84.0)
    points = thin(values)
    assert len(points) <= MOST
    assert points[-1].step == 10_000
    assert max(point.high for point in points) == 84.0
    assert sum(point.mean for point in points) * 42 == pytest.approx(84.0)
    assert thin(values[:MOST]) == [(step, value, value, value) for step, value in values[:MOST]]


def test_the_end_of_a_running_mean_does_not_change_when_the_run_goes_on():
    values = [random.Random(0).random() for _ in range(50)]
    assert running(values, 7)[:30] == running(values[:30], 7)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-2.5, 1e4), (1e-9, 2e-9), (0.0, 1e9), (4, 4), (99.99, 100)])
def test_an_axis_has_few_round_values_within_its_ends(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 8
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)
    assert len({round(b - a, 15) for a, b in pairwise(found)}) <= 2
    bottom, top = spread(low, high)
    assert bottom <= low <= high <= top
    assert bottom < top


def test_curves_are_to_scale_and_keep_the_numbers_for_the_pointer():
    found = curves("x", [Line("a", 3, thin([(1, 0.0), (2, 5.0), (3, 10.0)]))], (1, 5))
    assert '<g class="k3 run0">' in found.svg
    heights = [float(part.split()[1]) for part in found.svg.split('class="mean" d="M')[1].split('"')[0].split("L")]
    left = [
        float(part.split()[0].strip("M ")) for part in found.svg.split('class="mean" d="M')[1].split('"')[0].split("L")
    ]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.02)
    assert list(left) == pytest.approx([54, 54 + 336 / 4, 54 + 336 / 2])
    assert found.numbers == [54, 336, 1, 5, [["a", 3, 0, [1, 2, 3], [0, 5, 10]]]]


def test_columns_count_every_visit_once_and_what_was_not_sampled_has_no_successes():
    seen = [
        visit(1, "a", 0, "imitate", n=0),
        visit(1, "b", 3, "explore"),
        visit(2, "a", 8, "explore"),
        visit(2, "b", 3, "odd"),
    ]
    columns = columns_of([1, 2])
    assert shares(seen, columns) == {"imitate": [1, 0], "explore": [1, 1], "odd": [0, 1]}
    found = successes(seen, columns)
    assert list(found) == [f"{k} of 8" for k in range(9)]
    assert {name: values for name, values in found.items() if any(values)} == {"3 of 8": [1, 1], "8 of 8": [0, 1]}
    many = [Visit(1, str(k), 64, k, "explore", 1.0, 0, False) for k in (0, 1, 63, 64)]
    assert {name: values for name, values in successes(many, [(1, 1)]).items() if any(values)} == {
        "none": [1],
        "up to 12.5 %": [1],
        "up to 100 %": [2],
    }
    boxes = columns_chart("x", columns, {"a": [1, 3], "b": [3, 1]}, ["k0", "k1"]).svg
    assert boxes.count("h168v") == 4, "two columns share the width of 336"
    assert "v42h" in boxes
    assert "v126h" in boxes, "a quarter and three quarters of 168"


def test_the_map_shows_visits_and_what_holds_since_and_orders_by_who_stops_imitating_first():
    seen = [visit(1, "late", 0, "imitate"), visit(4, "late", 2, "explore"), visit(2, "soon", 1, "explore")]
    seen += [visit(3, "never", 0, "imitate")]
    found = gate_map(sorted(seen, key=lambda one: one.step), columns_of([1, 2, 3, 4, 5]))
    assert found.arms == ["imitate", "explore"]
    assert found.rows == [("soon", ".Bbbb"), ("late", "AaaBb"), ("never", "..Aaa")]
    drawn = map_of("m", found, columns_of([1, 2, 3, 4, 5]))
    assert 'class="arm-explore held" d="M320 0h480v4' in drawn
    assert 'class="arm-imitate" d="M0 5h160v4' in drawn


def test_a_map_of_many_prompts_is_the_same_sample_every_time_and_says_how_many_are_not_there():
    seen = [visit(step, f"p{number}", 1, "explore") for step in (1, 2) for number in range(500)]
    columns = columns_of([1, 2])
    found = gate_map(seen, columns)
    shuffled = sorted(seen, key=lambda one: (one.step, one.uid))
    assert len(found.rows) + found.left_out == 500
    assert {uid for uid, _ in found.rows} == {uid for uid, _ in gate_map(shuffled, columns).rows}
    assert len(columns_of(range(1, 10_001))) <= 150


def test_what_became_of_a_prompt_is_told_from_its_sampled_visits():
    first = visit(1, "a", 0, "imitate", n=0)
    told = {"never": [0, 0], "always": [8, 8], "learned": [0, 5], "lost": [5, 2], "same": [3, 3]}
    for kind, counts in told.items():
        assert kind_of([first, *(visit(2 + i, "a", k, "explore") for i, k in enumerate(counts))]) == kind
    assert kind_of([first]) == "unseen"


def test_every_number_of_a_step_is_in_exactly_one_chart():
    names = [
        "reward/mean",
        "loss/rl",
        "loss/sft",
        "entropy/imitate",
        "actor/entropy_loss",
        "odd",
        "kl/mean",
        "critic/kl",
    ]
    names += [f"reward/component/c{number}" for number in range(9)] + [
        "timing_s/step",
        "memory/a",
        "step",
        "of",
        "uni/prompts_x",
    ]
    drawn = [name for _, own in grouped(names) for name in own]
    assert sorted(drawn) == sorted(set(names) - {"timing_s/step", "memory/a", "step", "of"})
    assert all(len(own) <= 6 for _, own in grouped(names))


def recorded(steps, **more):
    told = {"name": "a", "folder": Path("a"), "config": {}, "visits": [], "validations": [], "torn": 0}
    return Recorded(**(told | {"steps": steps, "written_s": 0.0, "files": {}} | more))


def test_the_seconds_of_the_stages_and_of_what_is_left_add_up_to_the_step():
    steps = [{"step": float(n), "timing_s/a": 1.0, "timing_s/b": 2.0, "timing_s/step": 4.0} for n in range(1, 31)]
    steps[3] = {"step": 4.0, "timing_s/a": 1.0, "timing_s/step": 91.0}
    figures = Figures()
    shown = times(recorded(steps), figures)
    assert [line[0] for line in figures.numbers[0][4]] == ["a", "b", "the rest"]
    assert [line[4][3] for line in figures.numbers[0][4]] == [1, 0, 90]
    assert "the longest is step 4 with 91.0 s" in shown
    assert "<td>the rest</td>" in shown
    assert f'<td class="n">{(29 + 90) / 30:.3f}</td>' in shown
    assert figures.numbers[0][2:4] == [0.5, 30.5]
    assert ">6</text>" in shown, "the axis ends where most steps do, not at 91"
    assert ">90</text>" not in shown


def test_memory_is_drawn_in_gib_with_a_line_for_each_stage():
    steps = [
        {"step": float(n), "memory/a/host": n * 2.0**30, "memory/b/host": 2.0**29, "util/a/x": 0.5} for n in (1, 2)
    ]
    figures = Figures()
    shown = usage([recorded(steps)], figures)
    assert [[(line[0], line[4]) for line in lines] for *_, lines in figures.numbers] == [
        [("a", [1, 2]), ("b", [0.5, 0.5])],
        [("util/a/x", [0.5, 0.5])],
    ]
    assert "<b>Memory, host</b>" in shown
    assert "<b>Use, x</b>" in shown
    assert "say nothing" in usage([recorded([{"step": 1.0}])], figures)


def test_what_never_changes_waits_behind_a_click():
    run = recorded([{"step": float(n), "reward/mean": float(n), "kl/mean": 0.0} for n in (1, 2, 3)])
    figures = Figures()
    shown, folded = "".join(all_curves([run], figures)).split("<details>")
    assert "<b>Reward</b>" in shown
    assert "<b>KL</b>" not in shown
    assert "<b>KL</b>" in folded


def entries(steps, prompts=8, samples=8):
    chance = random.Random(0)
    return [
        Entry(Path("x"), 0, "train", step, f"p{prompt}", sample, chance.random())
        for step in range(1, steps + 1)
        for prompt in range(prompts)
        for sample in range(samples)
    ]


def test_the_choice_of_rollouts_is_bounded_and_holds_the_newest_step_and_its_best_and_worst():
    every = entries(200)
    seen = [visit(step, f"p{prompt}", step * prompt // 200, "explore") for step in range(1, 201) for prompt in range(8)]
    chosen = chosen_of(every, seen, 100)
    assert len(chosen) <= 100
    assert chosen == chosen_of(list(reversed(every)), seen, 100)
    newest = [entry for entry in every if entry.step == 200]
    means = {uid: sum(e.total for e in newest if e.uid == uid) for uid in {e.uid for e in newest}}
    for uid in (max(means, key=means.get), min(means, key=means.get)):
        group = [entry for entry in newest if entry.uid == uid]
        assert max(group, key=lambda entry: entry.total) in chosen
        assert min(group, key=lambda entry: entry.total) in chosen
    assert {1, 200} <= {entry.step for entry in chosen_of(every, seen)}
    assert chosen_of(every[:50], seen, 100) == every[:50]


def test_success_is_what_the_run_says_and_nothing_is_said_where_a_component_is_missing():
    rule = [Condition("accuracy", ">=", 1.0), Condition("format", ">", 0.0)]
    assert succeeded({"accuracy": 1.0, "format": 0.5}, rule) is True
    assert succeeded({"accuracy": 1.0, "format": 0.0}, rule) is False
    assert succeeded({"accuracy": 1.0}, rule) is None
    assert succeeded({"accuracy": 1.0}, []) is None
