"""What a run came to, in a few numbers, of runs whose answer is known."""

import pytest

from hpt_megatron.report.headline import headline, told

pytestmark = pytest.mark.fast


def steps(rewards, shares=None, before=0):
    sampled = [{"reward/mean": reward} for reward in rewards]
    for numbers, share in zip(sampled, shares or [], strict=False):
        numbers["uni/sft_data_ratio"] = share
    return [{"uni/sft_data_ratio": 1.0}] * before + sampled


def test_the_first_ten_steps_with_rollouts_are_held_against_the_last_ten():
    rewards = [0.0, 0.2] * 5 + [9.0] * 7 + [0.6, 1.0] * 5
    found = headline(steps(rewards, [0.5] * 10 + [9.0] * 7 + [0.1] * 10, before=6))
    assert (found.width, found.steps, found.without) == (10, 27, 6)
    assert (found.reward.first, found.reward.last) == pytest.approx((0.1, 0.8))
    assert (found.share.first, found.share.last) == pytest.approx((0.5, 0.1))
    assert found.gain == pytest.approx(0.7)
    assert found.rose
    assert found.share_fell
    assert found.error == pytest.approx((0.1**2 / 9 + 0.2**2 / 9) ** 0.5)
    assert found.beyond_noise


def test_windows_of_a_short_run_share_no_step():
    found = headline(steps([0.0, 0.0, 9.0, 1.0, 1.0]))
    assert (found.width, found.reward.first, found.reward.last) == (2, 0.0, 1.0)
    assert headline(steps([0.0, 1.0])).gain == 1.0


@pytest.mark.parametrize("given", [[], steps([0.5]), steps([], before=9)])
def test_nothing_is_claimed_of_a_run_with_less_than_two_steps_with_rollouts(given):
    found = headline(given)
    assert (found.gain, found.rose, found.share_fell, found.beyond_noise) == (None, None, None, False)
    assert "too few to compare" in told(found)[0]


def test_a_fall_is_called_one_and_noise_is_no_gain():
    found = headline(steps([0.5, 0.7] * 5 + [0.5, 0.69] * 5, [0.1] * 10 + [0.2] * 10))
    assert found.rose is False
    assert found.share_fell is False
    assert not found.beyond_noise
    assert "it fell by 0.005, standard error" in told(found)[0]
    assert told(found)[1] == "SFT share 10 % in the first 10 steps with rollouts, 20 % in the last: it rose"


def test_a_share_that_a_step_does_not_have_counts_nowhere():
    given = steps([0.0, 0.0, 1.0, 1.0], [1.0])
    given[2]["uni/sft_data_ratio"] = 0.25
    assert (headline(given).share.first, headline(given).share.last) == (1.0, 0.25)
    assert headline(steps([0.0, 1.0])).share is None
