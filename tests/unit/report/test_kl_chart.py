"""The chart of score against KL: the way of a run, to scale, and only where a KL was measured."""

import re
from pathlib import Path

import pytest

from hpt_megatron.report.curve_section import all_curves
from hpt_megatron.report.figures import Figures
from hpt_megatron.report.folder import Recorded
from hpt_megatron.report.kl_chart import MOST, against_kl

TITLES = ("Score against KL", "Success against KL")


def run_of(steps, name="a run"):
    numbered = [{"step": float(n + 1), **step} for n, step in enumerate(steps)]
    return Recorded(name, Path("nowhere"), {}, numbered, [], [], 0, 0.0, {})


def shown(*runs):
    figures = Figures()
    return "".join(against_kl(runs, figures)), figures.numbers


def test_a_step_stands_where_its_kl_and_its_score_are_and_the_last_one_is_the_disc():
    pleased = [{"kl/sequence": kl, "reward/mean": kl / 4, "batch/solved": 0.5 - kl / 8} for kl in (0.0, 1.0, 4.0)]
    html, (score, success) = shown(run_of(pleased))
    assert [title in html for title in TITLES] == [True, True]
    assert score[4][1][3:] == [[0, 1, 4], [0, 0.25, 1]]
    assert success[4][1][3:] == [[0, 1, 4], [0.5, 0.375, 0]]
    assert score[4][0][4] == [1, 2, 3], "the steps themselves"
    assert score[5] == "KL"
    first = html.split("</svg>")[0]
    discs = [tuple(map(float, found)) for found in re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', first)]
    assert [radius > 4 for _, _, radius in discs] == [False, False, False, True]
    (x0, y0, _), (x1, y1, _), (x2, y2, _), end = discs
    assert end[:2] == (x2, y2)
    assert (x1 - x0) / (x2 - x0) == pytest.approx(1 / 4, abs=1e-3)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(1 / 4, abs=1e-2)


def test_what_reward_models_said_comes_before_the_whole_score():
    _, (score,) = shown(run_of([{"kl/sequence": kl, "reward/mean": 9.0, "reward/learned/mean": kl} for kl in (1, 2)]))
    assert score[4][1][4] == [1, 2]


def test_a_run_that_turns_back_is_told_in_the_order_of_its_kl():
    """The pointer looks for the nearest place from left to right."""
    _, (score,) = shown(run_of([{"kl/sequence": kl, "reward/mean": 10 * kl} for kl in (0.2, 0.6, 0.4)]))
    steps, values = score[4]
    assert values[3:] == [[0.2, 0.4, 0.6], [2, 4, 6]]
    assert steps[4] == [1, 3, 2]


def test_long_runs_are_thinned_and_runs_lie_over_one_another():
    long = [{"kl/sequence": n / 500, "reward/mean": 1.0} for n in range(1000)]
    _, (score,) = shown(run_of(long), run_of(long[:10], "other"))
    assert len(score[4][1][3]) <= MOST
    assert [line[2] for line in score[4]] == [0, 0, 1, 1]


@pytest.mark.parametrize("step", [{"reward/mean": 1.0}, {"kl/sequence": 1.0}, {}])
def test_without_a_kl_or_a_score_there_is_no_chart(step):
    assert shown(run_of([step, step])) == ("", [])


def test_it_stands_behind_the_curves():
    steps = [{"kl/sequence": n / 5, "reward/mean": n / 9} for n in range(5)]
    assert TITLES[0] in "".join(all_curves([run_of(steps)], Figures()))
