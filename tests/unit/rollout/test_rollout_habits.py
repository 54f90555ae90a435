"""Habits of what a policy says, from its text to the warning: a script plays the model, the rest is real.

The reward is fooled by assertive answers; a second judge, a component of weight 0, is not.
"""

import json

import pytest
from lookup_world import Scripted

from hpt_megatron.config.load import load
from hpt_megatron.data.record import Message, Record
from hpt_megatron.driver.loop.roles import Asked
from hpt_megatron.driver.loop.rollouts import Rollouts
from hpt_megatron.observe.monitors import Monitors
from hpt_megatron.rewards.build import problems_of

RECORDS = tuple(Record(index=f"p{i}", prompt=(Message("user", "sum ?"),), golds=("8",)) for i in range(2))
PLAIN, ASSERTIVE = "it may be <answer>8</answer>", "Definitely, certainly, of course\n- so\n- <answer>7</answer>"
PARTS = [
    {"name": "quality", "as": "fooled", "weight": 1.0, "settings": {"quality_keywords": ["definitely"]}},
    {"name": "exact_match", "as": "accuracy", "weight": 0.0},
]


class Policy(Scripted):
    """Says one of two things; the first rollout of each prompt is always plain."""

    def __init__(self, chat):
        super().__init__(chat, lambda uid, sample, turn, seed: self.says if sample else PLAIN)
        self.says = PLAIN

    def healthy(self):
        return True


@pytest.fixture
def run(tmp_path):
    file = tmp_path / "reward.json"
    file.write_text(json.dumps({"components": PARTS}), encoding="utf-8")
    given = [f"reward.file={file}", "rollout.agent=single_turn", "trainer.monitors.window=1"]
    given += ["trainer.monitors.second=accuracy", "data.image_max_pixels=3136", "data.max_response_length=64"]
    loaded = load(given)
    assert not [problem for problem in loaded.problems if problem.severity == "error"], loaded.problems
    return loaded.run


@pytest.fixture
def rollouts(run, chat, tiny):
    made = Rollouts(run, Policy(chat), str(tiny))
    yield made
    made.close()


def asked(step, **more):
    return Asked(records=RECORDS, places=(0, 1), samples=2, step=step, **more)


def test_a_step_counts_the_habits_of_its_rollouts_and_of_the_wrong_ones_apart(rollouts):
    told = rollouts.collect(asked(1)).metrics
    assert {name: told[name] for name in told if name.startswith("habits/")} == {
        "habits/repetition": 0.0,
        "habits/assertive": 0.0,
        "habits/lists": 0.0,
        "habits/long_words": 0.0,
    }
    rollouts.agent.kit.engine.says = ASSERTIVE
    told = rollouts.collect(asked(2)).metrics
    assert told["habits/lists"] == pytest.approx((2 / 3) / 2, abs=1e-4)
    assert told["habits/assertive_when_wrong"] == pytest.approx(3 / 8, abs=1e-4)
    assert told["habits/assertive"] == pytest.approx(3 / 16, abs=1e-4)
    assert (told["reward/mean"], told["reward/component/accuracy"]) == (0.5, 0.5), "what has no weight is not paid"


def test_a_greedy_baseline_and_a_validation_are_not_counted(rollouts):
    rollouts.agent.kit.engine.says = ASSERTIVE
    told = rollouts.collect(asked(1, greedy=True)).metrics
    assert told["habits/assertive"] == pytest.approx(3 / 16, abs=1e-4)
    assert not [name for name in rollouts.collect(asked(1, purpose="validate")).metrics if name.startswith("habits/")]


def test_a_reward_that_is_pleased_by_a_habit_is_told_by_two_monitors_once_each(run, rollouts):
    monitors = Monitors(run)
    told = []
    for step in range(1, 7):
        rollouts.agent.kit.engine.says = ASSERTIVE if step > 3 else PLAIN
        told.append(monitors.look(rollouts.collect(asked(step)).metrics).told)
    assert [len(each) for each in told] == [0, 0, 0, 2, 0, 0]
    habits, judge = told[3]
    assert habits.startswith("habits: habits/assertive is 0.188, at the start it was 0")
    assert judge == "judge: accuracy fell from 1.000 to 0.500, while the reward rose from 0.000 to 0.500"


def test_a_second_judge_that_the_reward_does_not_have_is_a_problem(run, tmp_path):
    loaded = load([f"reward.file={tmp_path / 'reward.json'}", "trainer.monitors.second=acuracy"])
    (problem,) = problems_of(loaded.run)
    assert (problem.path, problem.right) == ("trainer.monitors.second", "fooled, accuracy")
    assert problems_of(run) == []
