"""Monitors by value: when each is met, what it does, and that a resumed run's are the same."""

import doctest
import random
from functools import cache

import pytest

from hpt_megatron.config.load import load, load_run
from hpt_megatron.observe import curves
from hpt_megatron.observe.curves import Curve
from hpt_megatron.observe.monitors import MONITORS, Monitors, acts_of

pytestmark = pytest.mark.fast


@cache
def run_of(*given):
    return load_run(["trainer.monitors.window=2", *given])


def watching(*given):
    return Monitors(run_of(*given))


def told(monitors, name, numbers):
    return [monitors.look({name: number}).told for number in numbers]


def test_the_example_of_a_curve_holds():
    assert doctest.testmod(curves).failed == 0


def test_what_a_curve_remembers_does_not_grow_and_is_right_over_many_steps():
    numbers = [random.Random(3).uniform(0, 1) for _ in range(400)]
    curve = Curve(window=5)
    for number in numbers:
        curve.add(number)
    means = [sum(numbers[at : at + 5]) / 5 for at in range(len(numbers) - 4)]
    assert curve.last == pytest.approx(means[-1])
    assert curve.first == pytest.approx(means[0])
    assert curve.best == pytest.approx(max(means[:-5]))
    assert sum(len(each) for each in (curve._first, curve._last, curve._means)) <= 16


def test_twice_the_length_of_the_first_steps_is_told_once_until_it_is_over():
    found = told(watching(), "response_length/mean", [10, 10, 12, 15, 30, 40, 12, 12, 30, 40])
    assert [bool(each) for each in found] == [False] * 4 + [True] + [False] * 3 + [True, False]
    assert found[4] == ["length: responses have 22 tokens, at the start they had 10"]


def test_a_length_that_is_exactly_twice_is_not_beyond():
    assert not any(told(watching(), "response_length/mean", [10, 10, 20, 20, 20]))


def test_a_reward_that_falls_below_its_best_by_more_than_the_bound_is_told():
    found = told(watching(), "reward/mean", [0.0, 0.2, 0.6, 0.6, 0.55, 0.5, 0.4, 0.4])
    assert [bool(each) for each in found] == [False] * 6 + [True, False]
    assert found[6] == ["reward: the mean reward fell from 0.600 to 0.450"]


def test_where_reward_models_are_asked_it_is_their_score_that_must_not_fall():
    """The whole has a price on a constraint in it, which lowers it by itself."""
    numbers = [(0.5, 0.9), (0.5, 0.9), (0.5, 0.5), (0.5, -1.0)]
    falls, priced = watching(), watching()
    found = [falls.look({"reward/mean": whole, "reward/learned/mean": model}).told for whole, model in numbers]
    assert found == [[], [], [], ["reward: the reward models' mean fell from 0.900 to -0.250"]]
    assert not any(priced.look({"reward/mean": model, "reward/learned/mean": whole}).told for whole, model in numbers)


def test_kl_is_held_against_the_target_also_where_only_the_loss_has_one():
    monitors = watching("algorithm.kl_ctrl.target_kl=3.0")
    assert [bool(each) for each in told(monitors, "kl/sequence", [6.0, 6.0, 7.0])] == [False, False, True]
    monitors = watching("algorithm.kl_ctrl.target_kl=3.0")
    numbers = {"actor/kl_loss": 0.1, "response_length/mean": 70.0}
    assert [monitors.look(numbers).told for _ in range(2)][1] == ["kl: KL to the reference is 7, above 6"]


def test_entropy_that_collapses_is_told():
    found = told(watching(), "entropy/rl", [2.0, 2.0, 1.0, 0.2, 0.1])
    assert found[-1] == ["entropy: the entropy of the policy is 0.15, at the start it was 2"]
    assert not any(found[:-1])


def test_held_out_demonstrations_that_part_from_trained_ones_are_told():
    """A step without a demonstration reports no loss on them."""
    monitors = watching()
    for numbers in ({"actor/sft_loss": 0.3}, {"actor/sft_loss": 0.3}, {"loss/sft": 0.0}):
        assert not monitors.look(numbers).told
    assert not monitors.look({"val/demo_loss/count": 0.5, "val/demo_loss/other": 0.7}).told
    assert monitors.look({"val/demo_loss/count": 0.9, "val/demo_loss/other": 1.3}).told == [
        "demo_loss: held-out demonstrations cost 1.100 a token, trained ones 0.300"
    ]


def test_responses_that_repeat_themselves_are_told_once():
    found = told(watching(), "habits/repetition", [0.1, 0.2, 0.6, 0.6, 0.7, 0.2])
    assert [bool(each) for each in found] == [False] * 3 + [True, False, False]
    assert found[3] == ["repetition: 60% of a response repeats itself, above 50%"]


@pytest.mark.parametrize(
    ("name", "numbers", "at"),
    [
        ("assertive", [0.02, 0.02, 0.03, 0.04, 0.06, 0.06, 0.06], 4),
        ("assertive_when_wrong", [0.0, 0.0, 0.01, 0.02, 0.03, 0.03], 4),
        ("lists", [0.0, 0.0, 0.15, 0.2, 0.3, 0.3], 4),
        ("long_words", [0.1, 0.1, 0.2, 0.2, 0.25, 0.25], 4),
    ],
)
def test_a_habit_that_grows_beyond_its_bound_is_told_once(name, numbers, at):
    """Growth from nothing is counted from the least of each habit."""
    found = told(watching(), f"habits/{name}", numbers)
    assert [bool(each) for each in found] == [place == at for place in range(len(numbers))]
    assert found[at][0].startswith(f"habits: habits/{name} is ")


def test_two_habits_at_once_are_one_line_and_repetition_is_none_of_them():
    monitors = watching()
    for lists, words in ((0.1, 0.1), (0.1, 0.1), (0.9, 0.9), (0.9, 0.9)):
        numbers = {"habits/lists": lists, "habits/long_words": words, "habits/repetition": lists / 3}
        found = monitors.look(numbers)
    assert found.numbers["monitor/habits"] == 1.0
    assert found.told == [
        "habits: habits/lists is 0.9, at the start it was 0.1, habits/long_words is 0.9, at the start it was 0.1"
    ]


SECOND = [(0.2, 0.5), (0.2, 0.5), (0.4, 0.6), (0.6, 0.6), (0.7, 0.5), (0.8, 0.4), (0.9, 0.3), (0.9, 0.2)]


def second_judge(pairs, *given):
    monitors = watching(*given)
    return [monitors.look({"reward/mean": reward, "reward/component/llm": llm}) for reward, llm in pairs]


def test_a_reward_that_rises_while_the_second_judge_falls_is_told_once():
    found = [each.told for each in second_judge(SECOND, "trainer.monitors.second=llm")]
    assert [bool(each) for each in found] == [False] * 5 + [True, False, False]
    assert found[5] == ["judge: llm fell from 0.600 to 0.450, while the reward rose from 0.200 to 0.750"]


def test_a_head_of_a_reward_model_may_be_the_second_judge():
    monitors = watching("trainer.monitors.second=learned/safe", "trainer.monitors.reward=off")
    found = [monitors.look({"reward/mean": reward, "reward/learned/safe/mean": safe}).told for reward, safe in SECOND]
    assert found[5] == ["judge: learned/safe fell from 0.600 to 0.450, while the reward rose from 0.200 to 0.750"]


def test_without_a_second_judge_or_where_both_fall_there_is_nothing_to_tell():
    assert not any(each.told for each in second_judge(SECOND))
    assert not any(each.told for each in second_judge(SECOND, "trainer.monitors.second=other"))
    both = [(llm, llm) for _, llm in SECOND]
    found = second_judge(both, "trainer.monitors.second=llm", "trainer.monitors.reward=off")
    assert not any(each.told for each in found)


@pytest.mark.parametrize(
    ("given", "number", "reason"),
    [
        (("repetition=stop",), {"habits/repetition": 0.9}, "repetition: 90% of a response"),
        (("habits=stop",), {"habits/assertive_when_wrong": 0.3}, "habits: habits/assertive_when_wrong is 0.3"),
        (("judge=stop", "second=llm"), {"reward/mean": 1.0, "reward/component/llm": 0.0}, "judge: llm fell from 0.9"),
    ],
)
def test_stop_gives_the_run_its_reason(given, number, reason):
    monitors = watching(*(f"trainer.monitors.{each}" for each in given))
    before = {"habits/repetition": 0.1, "habits/assertive_when_wrong": 0.0}
    before |= {"reward/mean": 0.1, "reward/component/llm": 0.9}
    for _ in range(3):
        assert not monitors.look(before).stop
    assert [monitors.look(number).stop[: len(reason)] for _ in range(2)][1] == reason


def test_a_resumed_run_knows_what_the_second_judge_said():
    pairs = [{"reward/mean": reward, "reward/component/llm": llm} for reward, llm in SECOND]
    whole = second_judge(SECOND, "trainer.monitors.second=llm")
    for cut in range(len(pairs)):
        again = watching("trainer.monitors.second=llm")
        again.begin(pairs[:cut])
        assert [again.look(each) for each in pairs[cut:]] == whole[cut:]


def test_stop_ends_a_run_warn_does_not_and_off_says_nothing():
    for act, ends, tells in (("stop", True, True), ("warn", False, True), ("off", False, False)):
        monitors = watching(f"trainer.monitors.length={act}")
        for number in (10, 10, 10, 50):
            found = monitors.look({"response_length/mean": number})
        assert (bool(found.stop), bool(found.told)) == (ends, tells)
        assert ("monitor/length" in found.numbers) == (act != "off")


def test_a_bare_off_of_yaml_is_read_as_it_was_meant(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\n# Mine.\ntrainer:\n  monitors: {kl: off}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    loaded = load(["experiment=mine"], tmp_path)
    assert loaded.run.trainer.monitors.kl == "off"
    assert "kl" not in acts_of(loaded.run)


def test_a_resumed_run_is_warned_as_one_that_never_stopped():
    numbers = [{"response_length/mean": length, "reward/mean": None} for length in (10, 10, 12, 30, 30, 9, 9, 50, 50)]
    straight = watching()
    whole = [straight.look(each) for each in numbers]
    for cut in range(len(numbers)):
        again = watching()
        again.begin(numbers[:cut])
        assert [again.look(each) for each in numbers[cut:]] == whole[cut:]


def test_what_a_run_does_not_report_and_what_is_no_number_is_no_reason_to_warn():
    monitors = watching("trainer.monitors.entropy=stop")
    for numbers in ({}, {"entropy/rl": float("nan")}, {"reward/mean": None}) * 5:
        found = monitors.look(numbers)
        assert (found.told, found.stop) == ([], "")
    assert set(found.numbers) == {f"monitor/{name}" for name in MONITORS.names()}


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("kl_times=0.5", "kl_times"),
        ("length_times=0.9", "length_times"),
        ("entropy_share=1.0", "entropy_share"),
        ("reward_fall=-0.1", "reward_fall"),
        ("demo_loss_gap=-1.0", "demo_loss_gap"),
        ("repetition_above=0.0", "repetition_above"),
        ("habits_times=0.5", "habits_times"),
        ("judge_fall=-0.1", "judge_fall"),
        ("judge=stop", "judge"),
        ("kl=perhaps", "kl"),
    ],
)
def test_a_bound_that_watches_nothing_is_a_problem(given, path):
    assert f"trainer.monitors.{path}" in [problem.path for problem in load([f"trainer.monitors.{given}"]).problems]
