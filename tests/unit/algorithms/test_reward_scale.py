"""What may be done to a score before credit: each step alone, their order, their metrics, the file of statistics."""

import doctest

import pytest
import torch

from hpt_megatron.algorithms import reward_scale
from hpt_megatron.algorithms.reward_scale import RewardScale, RewardStatistics, rescale
from hpt_megatron.errors import UserError

SCORE = torch.tensor([4.0, 0.0, 2.0, 100.0])
LENGTH = torch.tensor([2, 1, 4, 0])
COUNTED = torch.tensor([True, True, True, False])


def after(**steps) -> tuple[list[float], dict[str, float]]:
    score, metrics = rescale(SCORE, LENGTH, COUNTED, RewardScale(**steps))
    return score.tolist(), metrics


def test_without_a_step_nothing_happens():
    assert after() == (SCORE.tolist(), {})


def test_global_uses_the_stored_statistics():
    score, metrics = after(statistics=RewardStatistics(mean=1.0, std=0.5, count=10))
    assert score == pytest.approx([6.0, -2.0, 2.0, 198.0])
    assert metrics["reward_scale/global_mean"] == pytest.approx(2.0)
    assert after(statistics=RewardStatistics(1.0, 0.0, 1))[0] == pytest.approx([3.0, -1.0, 1.0, 99.0])


def test_batch_whitens_over_the_counted_rows():
    score, metrics = after(batch=True)
    assert score == pytest.approx([1.0, -1.0, 0.0, 49.0])
    assert metrics["reward_scale/batch_mean"] == pytest.approx(0.0, abs=1e-7)
    assert metrics["reward_scale/batch_std"] == pytest.approx(1.0)
    equal, _ = rescale(torch.full((3,), 0.7), LENGTH[:3], COUNTED[:3], RewardScale(batch=True))
    assert equal.tolist() == [0.0, 0.0, 0.0]


def test_length_divides_by_the_tokens_written_and_an_empty_row_by_one():
    assert after(length=True)[0] == [2.0, 0.0, 0.5, 100.0]


def test_clip_bounds_and_tells_which_fraction_it_bound():
    """The fraction is that of the counted rows: one of three lies outside."""
    score, metrics = after(clip=(0.0, 3.0))
    assert score == [3.0, 0.0, 2.0, 3.0]
    assert metrics["reward_scale/clip_fraction"] == pytest.approx(1 / 3)


def test_the_steps_come_in_the_order_global_batch_length_clip():
    """Worked out by hand; every other order of these four gives other numbers.

    global: 3, -1, 1, 99 over 0.5 -> 6, -2, 2, 198; batch over the first three (mean 2, std 4): 1, -1, 0, 49;
    length: 0.5, -1, 0, 49; clip: 0.5, -0.8, 0, 0.6.
    """
    score, metrics = after(statistics=RewardStatistics(1.0, 0.5, 10), batch=True, length=True, clip=(-0.8, 0.6))
    assert score == pytest.approx([0.5, -0.8, 0.0, 0.6])
    assert metrics["reward_scale/clip_fraction"] == pytest.approx(1 / 3)
    steps = [name for name in metrics if name.endswith("_mean")]
    assert steps == [f"reward_scale/{step}_mean" for step in ("global", "batch", "length", "clip")]


def test_nothing_counted_leaves_metrics_out_and_numbers_finite():
    every_step = RewardScale(statistics=RewardStatistics(0.0, 0.0, 1), batch=True, length=True, clip=(-1.0, 1.0))
    score, metrics = rescale(SCORE, LENGTH, torch.zeros(4, dtype=torch.bool), every_step)
    assert bool(score.isfinite().all())
    assert metrics == {}
    empty, _ = rescale(SCORE[:0], LENGTH[:0], COUNTED[:0], every_step)
    assert empty.tolist() == []


def test_statistics_survive_their_file(tmp_path):
    statistics = RewardStatistics.of(torch.tensor([1.0, 2.0, 6.0]))
    assert (statistics.mean, statistics.count) == (3.0, 3)
    assert statistics.std == pytest.approx(7.0**0.5)
    statistics.save(tmp_path / "statistics.json")
    assert RewardStatistics.load(tmp_path / "statistics.json") == statistics


WRONG = (
    None,
    "",
    "[]",
    "{}",
    '{"mean": "x", "std": 1, "count": 1}',
    '{"mean": 0, "std": -1, "count": 1}',
    '{"mean": NaN, "std": 1, "count": 1}',
)


@pytest.mark.parametrize("text", WRONG)
def test_a_file_that_holds_no_statistics_is_named(tmp_path, text):
    path = tmp_path / "statistics.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"statistics\.json: "):
        RewardStatistics.load(path)


def test_bounds_the_wrong_way_round_are_refused():
    with pytest.raises(UserError, match="low < high"):
        RewardScale(clip=(1.0, -1.0))


def test_the_example_of_the_module_holds():
    result = doctest.testmod(reward_scale)
    assert (result.failed, result.attempted) == (0, 3)
