"""The pack plan: invariants on any rows, the aims on rows as they come in training.

Not covered: how long a step takes with it, nor how long planning takes; the figures here are counts.
"""

import doctest
import os
import random
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.config.load import load
from hpt_megatron.errors import UserError
from hpt_megatron.layout import packs, sizes
from hpt_megatron.layout.cost import language_cost, merged_tokens, patches, vision_cost
from hpt_megatron.layout.packs import ImageSize, PackLimits, PackPlan, RowSize, plan_packs

SEVEN = load(["model=qwen2.5-vl-7b"]).run.model
assert SEVEN.vision is not None


@st.composite
def problems(draw, most_rows: int = 40):
    """Rows of 1 to 100 tokens, some that share images, and limits that every row alone fits."""
    images = draw(st.lists(st.builds(ImageSize, st.integers(1, 30), st.integers(0, 500).map(float)), max_size=6))
    shown = st.lists(st.integers(0, len(images) - 1), max_size=3).map(tuple) if images else st.just(())
    costs = st.integers(0, 900).map(float) | st.sampled_from([0.0, 1.0, 2.0])
    row = st.builds(RowSize, st.integers(1, 100) | st.sampled_from([1, 9]), costs, shown)
    rows = draw(st.lists(row, max_size=most_rows))
    limits = PackLimits(
        max_tokens=draw(st.integers(120, 400)),
        dp=draw(st.integers(1, 5)),
        multiple=draw(st.integers(1, 3)),
        divisor=draw(st.sampled_from([1, 2, 4])),
        total_divisor=draw(st.sampled_from([1, 3, 4, 8])),
        max_patches=draw(st.none() | st.integers(90, 200)),
    )
    return rows, images, limits


def drawn(seed: int, prompts: int, *, group: int = 8, images: bool = True) -> tuple[list[RowSize], list[ImageSize]]:
    """Groups of rollouts of log-normal length on prompts with an image each, with the costs of the 7B model."""
    source = random.Random(seed)
    rows, pictures = [], []
    for prompt in range(prompts):
        text = source.randint(100, 600)
        if images:
            grid = (1, 2 * source.randint(8, 40), 2 * source.randint(8, 40))
            pictures.append(ImageSize(patches(grid), vision_cost(SEVEN.vision, grid)))
            text += merged_tokens(SEVEN.vision, grid)
        for _ in range(group):
            length = min(8192, text + int(source.lognormvariate(6.7, 0.6)))
            rows.append(RowSize(length, language_cost(SEVEN, length), (prompt,) if images else ()))
    return rows, pictures


def flat(plan: PackPlan) -> list[tuple[int, ...]]:
    return [pack for rank in plan.packs for pack in rank]


def assert_sound(plan: PackPlan, rows, images, limits) -> None:
    """Every invariant, counted anew from the rows."""
    assert sorted(row for pack in flat(plan) for row in pack) == list(range(len(rows)))
    assert len(plan.packs) == limits.dp
    assert len({len(rank) for rank in plan.packs}) == 1
    assert len(plan.packs[0]) % limits.multiple == 0
    assert len(plan.packs[0]) > 0
    if () in flat(plan):
        assert len(rows) < len(flat(plan))
    for rank, lengths, costs in zip(plan.packs, plan.lengths, plan.costs, strict=True):
        assert list(lengths) == sorted(lengths, reverse=True)
        for pack, length, cost in zip(rank, lengths, costs, strict=True):
            assert list(pack) == sorted(pack)
            shown = {image for row in pack for image in rows[row].images}
            padded = sum(-(-rows[row].length // limits.divisor) * limits.divisor for row in pack)
            assert padded <= length <= limits.max_tokens
            assert length % limits.total_divisor == 0
            assert length % limits.divisor == 0
            assert length - padded < limits.step or not pack
            assert limits.max_patches is None or sum(images[i].patches for i in shown) <= limits.max_patches
            assert cost == pytest.approx(sum(rows[row].cost for row in pack) + sum(images[i].cost for i in shown))


@pytest.mark.parametrize("module", [packs, sizes])
def test_the_examples_of_the_plan_hold(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted >= 2


@given(problems())
@settings(deadline=None, max_examples=100)
def test_every_plan_is_sound(problem):
    assert_sound(plan_packs(*problem), *problem)


@given(problems(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_a_plan_of_the_rows_in_another_order_is_sound_and_has_as_many_packs(problem, source):
    """Without images the packs have the same lengths as well."""
    rows, images, limits = problem
    mixed = source.sample(rows, len(rows))
    one, other = plan_packs(rows, images, limits), plan_packs(mixed, images, limits)
    assert_sound(other, mixed, images, limits)
    if not any(row.images for row in rows):
        assert sorted(x for rank in one.lengths for x in rank) == sorted(x for rank in other.lengths for x in rank)


def test_the_plan_does_not_depend_on_the_process():
    """Two interpreters with different hash seeds print the same plan."""
    program = (
        "import random\nfrom hpt_megatron.layout.packs import *\nsource = random.Random(3)\n"
        "pictures = [ImageSize(source.randint(16, 900), source.random()) for _ in range(40)]\n"
        "shown = [(i // 4, source.randrange(40)) for i in range(160)]\n"
        "rows = [RowSize(source.randint(9, 900), source.random(), images) for images in shown]\n"
        "print(plan_packs(rows, pictures, PackLimits(max_tokens=2048, dp=4, max_patches=4000)))"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0].startswith("PackPlan(")
    assert printed[0] == printed[1]


@given(st.lists(st.integers(1, 30), max_size=7), st.integers(30, 60))
@settings(deadline=None)
def test_few_rows_need_at_most_one_pack_more_than_a_search_of_all_plans_finds(lengths, most):
    """Packing is greedy, so not always the least: 30, 25, 14, 9, 5, 5 and 5 fill two packs of 48, and get three."""

    def search(rest: list[int], free: list[int], best: int) -> int:
        if len(free) >= best or not rest:
            return min(best, len(free))
        length, *others = rest
        for at in range(len(free)):
            if free[at] >= length:
                best = search(others, [*free[:at], free[at] - length, *free[at + 1 :]], best)
        return search(others, [*free, most - length], best)

    least = search(sorted(lengths, reverse=True), [], len(lengths) + 1)
    plan = plan_packs([RowSize(length, 1.0) for length in lengths], [], PackLimits(max_tokens=most, dp=1))
    assert max(least, 1) <= len(plan.packs[0]) <= least + 1


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize(
    ("dp", "multiple", "divisor", "total_divisor"), [(8, 1, 1, 1), (8, 4, 4, 16), (16, 2, 8, 32), (64, 1, 2, 8)]
)
def test_slots_are_full_and_ranks_even_when_rows_are_many(images, dp, multiple, divisor, total_divisor):
    """The aims: 97 % of the slots carry tokens, ranks within 3 %; and no more packs than their tokens need."""
    rows, pictures = drawn(dp, 16 * dp, images=images)
    limits = PackLimits(
        max_tokens=16384, dp=dp, multiple=multiple, divisor=divisor, total_divisor=total_divisor, max_patches=None
    )
    plan = plan_packs(rows, pictures, limits)
    assert_sound(plan, rows, pictures, limits)
    assert plan.fill >= 0.97
    assert plan.spread <= 0.03
    needed = sum(limits.row_slots(row.length) for row in rows) / limits.capacity
    assert len(flat(plan)) < needed + limits.together


def test_the_ranks_are_even_where_each_has_a_single_pack():
    rows, pictures = drawn(5, 32)
    plan = plan_packs(rows, pictures, PackLimits(max_tokens=65536, dp=16))
    assert [len(rank) for rank in plan.packs] == [1] * 16
    assert plan.spread <= 0.03


def test_packs_are_of_even_length_where_there_is_room():
    rows, pictures = drawn(6, 64, images=False)
    plan = plan_packs(rows, pictures, PackLimits(max_tokens=16384, dp=8, multiple=4))
    lengths = [length for rank in plan.lengths for length in rank]
    assert max(lengths) / min(lengths) < 1.1


def test_packs_that_are_nearly_full_are_of_even_length_and_leave_room_to_even_the_ranks():
    """The rows fill 99 % of the least number of packs, which only the tight way manages."""
    rows, pictures = drawn(9, 512)
    total = sum(row.length for row in rows)
    plan = plan_packs(rows, pictures, PackLimits(max_tokens=int(total / 512 / 0.99), dp=32))
    lengths = [length for rank in plan.lengths for length in rank]
    assert len(lengths) == 512
    assert max(lengths) / min(lengths) < 1.1
    assert plan.spread <= 0.03


def test_rows_of_a_prompt_stay_together_where_there_is_room():
    """Encoded once per prompt, or twice; row by row it would be up to 8 times."""
    rows, pictures = drawn(7, 64)
    plan = plan_packs(rows, pictures, PackLimits(max_tokens=65536, dp=8))
    encoded = sum(len({image for row in pack for image in rows[row].images}) for pack in flat(plan))
    assert encoded <= 2 * len(pictures)


def test_a_cap_on_patches_keeps_ranks_even():
    rows, pictures = drawn(8, 64)
    limits = PackLimits(max_tokens=16384, dp=8, max_patches=9000)
    plan = plan_packs(rows, pictures, limits)
    assert_sound(plan, rows, pictures, limits)
    assert plan.spread <= 0.03


def test_fewer_rows_than_packs_leave_empty_packs():
    plan = plan_packs([RowSize(5, 2.0), RowSize(7, 3.0)], [], PackLimits(max_tokens=64, dp=3, total_divisor=8))
    assert plan.packs == (((1,),), ((0,),), ((),))
    assert plan.lengths == ((8,), (8,), (8,))
    assert plan.fill == 12 / 24
    assert plan.spread == float("inf")


def test_ranks_are_not_evened_by_emptying_a_pack():
    """7 and 2 against 3 and 2: moving the 2 would make it 7 and 7, with a pack of nothing."""
    rows = [RowSize(30, 7.0), RowSize(10, 3.0), RowSize(10, 2.0), RowSize(10, 2.0)]
    plan = plan_packs(rows, [], PackLimits(max_tokens=100, dp=2, multiple=2))
    assert sorted(flat(plan)) == [(0,), (1,), (2,), (3,)]
    assert sorted(plan.rank_costs) == [5.0, 9.0]


def test_no_rows_give_a_plan_of_padding():
    plan = plan_packs([], [], PackLimits(max_tokens=64, dp=2, multiple=2, total_divisor=4))
    assert plan.packs == (((), ()), ((), ()))
    assert (plan.tokens, plan.fill, plan.spread) == (0, 0.0, 0.0)


def test_an_image_is_paid_once_in_a_pack():
    rows = [RowSize(10, 1.0, (0,)), RowSize(10, 1.0, (0, 0, 1))]
    images = [ImageSize(50, 100.0), ImageSize(50, 10.0)]
    plan = plan_packs(rows, images, PackLimits(max_tokens=20, dp=1, max_patches=100))
    assert plan.packs == (((0, 1),),)
    assert plan.costs == ((112.0,),)


def test_cost_and_not_length_decides_between_ranks():
    """Two dear rows of like length go to different ranks, whatever the cheap ones do."""
    rows = [RowSize(10, cost) for cost in (50.0, 50.0, 1.0, 1.0)]
    plan = plan_packs(rows, [], PackLimits(max_tokens=20, dp=2))
    assert plan.rank_costs == (51.0, 51.0)
    assert plan.spread == 0


LIMITS = PackLimits(max_tokens=100, dp=1, divisor=8, total_divisor=16, max_patches=10)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (RowSize(97, 1.0), ["row 1", "97 tokens", "104 slots", "at most 100", "112 (trainer."]),
        (RowSize(9, 1.0, (0, 1)), ["row 1", "9 tokens", "12 patches", "10", "12 patches or more"]),
        (RowSize(9, 1.0, (2,)), ["row 1", "image 2", "there are 2"]),
        (RowSize(9, 1.0, (-1,)), ["row 1", "image -1"]),
        (RowSize(0, 1.0), ["row 1", "0 tokens", "leave"]),
    ],
)
def test_a_row_that_fits_no_pack_is_refused_by_its_number(row, words):
    with pytest.raises(UserError) as caught:
        plan_packs([RowSize(96, 1.0, (0,)), row], [ImageSize(6, 1.0)] * 2, LIMITS)
    assert caught.value.mend
    assert [word for word in words if word not in str(caught.value)] == []


def test_limits_that_hold_nothing_are_refused():
    for name in ("max_tokens", "dp", "multiple", "divisor", "total_divisor", "max_patches"):
        with pytest.raises(UserError, match=f"{name} 0"):
            PackLimits(**{"max_tokens": 64, "dp": 1, name: 0})
    with pytest.raises(UserError, match="one step of 24"):
        PackLimits(max_tokens=23, dp=1, divisor=8, total_divisor=12)


@given(st.lists(st.integers(1, 10), min_size=16, max_size=60), st.integers(2, 4))
@settings(deadline=None)
def test_ranks_differ_by_less_than_the_dearest_row(costs, dp):
    """Without limits that bind, one pack for each rank: less than one row lies between any two."""
    rows = [RowSize(1, float(cost)) for cost in costs]
    plan = plan_packs(rows, [], PackLimits(max_tokens=1000, dp=dp))
    ordered = sorted(plan.rank_costs)
    assert all(high - low <= max(costs) for low, high in pairwise(ordered))
