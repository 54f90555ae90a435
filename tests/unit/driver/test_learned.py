"""What reward models add to a score, an ensemble's ways, the constraint, and what a run keeps of it.

The models here are lists of numbers; real ones stand in tests/runs.
"""

import json
from dataclasses import replace
from statistics import fmean

import pytest
import torch

from hpt_megatron.algorithms.reward_scale import RewardStatistics
from hpt_megatron.config.load import load
from hpt_megatron.data.record import Message, Record
from hpt_megatron.driver.loop.learned import Judge, Learned
from hpt_megatron.driver.loop.roles import Asked, Collected
from hpt_megatron.errors import HptError
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.rows import Rows

RECORDS = tuple(Record(index=name, prompt=(Message("user", name),)) for name in "ab")


class Numbers:
    """A model that has made up its mind."""

    def __init__(self, *rows):
        self.rows = torch.tensor(rows)

    def scores(self, batch):
        assert batch.rows.num_rows == len(self.rows)
        return self.rows


def collected(score=(0.0, 1.0, 0.0, 1.0), valid=(True, True, True, False)):
    rows = Rows.from_lists(
        {"ids": [[1], [2], [3], [4]]},
        prompt=[0, 0, 1, 1],
        sample=[0, 1, 0, 1],
        score=list(score),
        valid=list(valid),
        reward_format=[1.0, 0.0, 1.0, 1.0],
    )
    return Collected(Batch.of_text(rows), metrics={"reward/mean": 9.0})


def learned(folder, judges, *given):
    run = load([f"trainer.run_dir={folder}", *given]).run  # the folders of the models are not looked at here
    return Learned(run, judges)


def judge(model, heads=("reward",), statistics=None):
    return Judge("rm", heads, model, statistics or (None,) * len(heads))


ASKED = Asked(records=RECORDS, places=(0, 1), samples=2, step=7)


def test_without_models_and_constraint_nothing_changes(tmp_path):
    before = collected()
    assert learned(tmp_path, []).judged(before, ASKED) is before


def test_a_score_is_the_weighted_sum_of_rules_and_normalised_heads(tmp_path):
    heads = ("helpful", "safe")
    statistics = (RewardStatistics(1.0, 2.0, 100), RewardStatistics(0.0, 0.5, 100))
    model = judge(Numbers([3.0, 1.0], [1.0, 0.0], [-1.0, 0.5], [1.0, 1.0]), heads, statistics)
    given = ["reward.learned.rules_weight=0.5", "reward.learned.weight=2.0"]
    given.append("reward.learned.heads=[{head: helpful, weight: 0.75}, {head: safe, weight: 0.25}]")
    found = learned(tmp_path, [model], *given).judged(collected(), ASKED)
    total = torch.tensor([0.75 * 1 + 0.25 * 2, 0.0, 0.75 * -1 + 0.25 * 1, 0.25 * 2])
    fields = found.batch.rows.fields
    assert torch.allclose(fields["score"], 0.5 * torch.tensor([0.0, 1.0, 0.0, 1.0]) + 2 * total)
    assert torch.allclose(fields["reward_learned"], total)
    assert fields["reward_learned/helpful"].tolist() == [1.0, 0.0, -1.0, 0.0]
    counted = fields["score"][:3]
    assert found.metrics["reward/mean"] == pytest.approx(float(counted.mean()))
    assert found.metrics["reward/learned/safe/mean"] == pytest.approx((2 + 0 + 1) / 3)
    lines = [json.loads(line) for line in (tmp_path / "learned" / "train_7.jsonl").read_text().splitlines()]
    assert [(line["uid"], line["sample"]) for line in lines] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert lines[0]["learned"] == pytest.approx(1.25)
    assert [line["score"] for line in lines] == pytest.approx(fields["score"].tolist())


@pytest.mark.parametrize(
    ("how", "expected"),
    [("mean", [2.0, 0.0]), ("min", [1.0, -2.0]), ("uncertainty", [2.0 - 0.5 * 1.0, 0.0 - 0.5 * 4.0])],
)
def test_models_agree_by_mean_minimum_or_mean_less_variance(tmp_path, how, expected):
    models = [judge(Numbers([1.0], [2.0], [0.0], [0.0])), judge(Numbers([3.0], [-2.0], [0.0], [0.0]))]
    given = [f"reward.learned.ensemble={how}", "reward.learned.uncertainty=0.5", "reward.learned.rules_weight=0.0"]
    found = learned(tmp_path, models, *given).judged(collected(), ASKED)
    assert found.batch.rows.fields["score"][:2].tolist() == pytest.approx(expected)
    assert found.metrics["reward/disagreement"] == pytest.approx((1 + 2) / 4)


def test_what_is_no_number_is_not_valid(tmp_path):
    found = learned(tmp_path, [judge(Numbers([1.0], [float("nan")], [2.0], [0.0]))]).judged(collected(), ASKED)
    assert found.batch.rows.fields["valid"].tolist() == [True, False, True, False]
    assert torch.isfinite(found.batch.rows.fields["score"]).all()
    assert found.metrics["reward/learned/mean"] == 1.5


def test_a_gate_pays_nothing_where_the_constraint_is_broken(tmp_path):
    given = ["reward.constraint.how=gate", "reward.constraint.component=format", "reward.constraint.at_least=0.5"]
    found = learned(tmp_path, [], *given).judged(collected(), ASKED)
    assert found.batch.rows.fields["score"].tolist() == [0.0, -1.0, 0.0, 1.0]
    assert found.metrics["constraint/broken"] == 0.25
    with pytest.raises(HptError, match="there is no learned/safe"):
        learned(tmp_path, [], "reward.constraint.how=gate").judged(collected(), ASKED)


def test_a_price_rises_until_the_constraint_holds_and_falls_again(tmp_path):
    given = ["reward.constraint.how=lagrange", "reward.constraint.component=format"]
    given += ["reward.constraint.at_least=0.9", "reward.constraint.rate=1.0"]
    kept = learned(tmp_path, [], *given)
    first = kept.judged(collected(), ASKED)
    assert first.batch.rows.fields["score"].tolist() == [0.0, 1.0, 0.0, 1.0], "no price before anything was missing"
    price = 0.9 - 2 / 3
    assert kept.price == pytest.approx(price)
    assert kept.judged(collected(), ASKED).metrics["constraint/price"] == kept.price, "another round of the same step"
    assert kept.price == pytest.approx(price)
    second = kept.judged(collected(), replace(ASKED, step=8))
    assert second.batch.rows.fields["score"].tolist() == pytest.approx(
        [0.1 * price, 1.0 - 0.9 * price, 0.1 * price, 1.0 + 0.1 * price]
    )
    again = learned(tmp_path, [], *given)
    again.restore(kept.state())
    assert again.price == kept.price > price
    validated = again.judged(collected(), Asked(records=RECORDS, places=(0, 1), samples=2, step=7, purpose="validate"))
    assert again.price == kept.price, "validation moves nothing"
    assert validated.metrics["constraint/price"] == kept.price


def bandit(kept, steps=400, rollouts=64):
    """A policy of two answers that goes up its reward: how often the well formed one came, and the price, by step."""
    chance = torch.Generator().manual_seed(0)
    logit, formed, prices = torch.zeros(()), [], []
    for step in range(steps):
        well_formed = torch.rand(rollouts, generator=chance) > torch.sigmoid(logit)
        paid = torch.where(well_formed, 0.3, 1.0)
        rows = Rows.from_lists(
            {"ids": [[1]] * rollouts},
            prompt=[0] * rollouts,
            sample=list(range(rollouts)),
            score=paid.tolist(),
            valid=[True] * rollouts,
            reward_format=well_formed.float().tolist(),
        )
        asked = Asked(records=RECORDS[:1], places=(0,), samples=rollouts, step=step)
        score = kept.judged(Collected(Batch.of_text(rows)), asked).batch.rows.fields["score"]
        slope = torch.where(well_formed, -torch.sigmoid(logit), 1 - torch.sigmoid(logit))
        logit = logit + 0.5 * ((score - score.mean()) * slope).mean()
        formed.append(float(well_formed.float().mean()))
        prices.append(kept.price)
    return formed, prices


def test_a_policy_that_is_charged_the_price_comes_to_keep_the_constraint(tmp_path):
    """Free of it, it takes what is paid; else the mean comes to the limit, and the price to where both weigh alike."""
    free, _ = bandit(learned(tmp_path, [], "reward.constraint.component=format"))
    assert fmean(free[-50:]) < 0.1
    given = ["reward.constraint.how=lagrange", "reward.constraint.component=format", "reward.constraint.rate=0.02"]
    kept = learned(tmp_path, [], *given, "reward.constraint.at_least=0.8")
    formed, prices = bandit(kept, steps=1500)
    assert fmean(formed[-700:]) == pytest.approx(0.8, abs=0.04)
    assert fmean(prices[-700:]) == pytest.approx(0.7, abs=0.15), "what the badly formed answer is paid more"


def test_a_step_that_is_made_again_is_written_once(tmp_path):
    model = judge(Numbers([1.0], [2.0], [3.0], [4.0]))
    path = tmp_path / "learned" / "train_7.jsonl"
    kept = learned(tmp_path, [model])
    kept.judged(collected(), ASKED)
    kept.judged(collected(), ASKED)  # another round of the same step
    assert len(path.read_text().splitlines()) == 8
    learned(tmp_path, [model]).judged(collected(), ASKED)  # another attempt
    assert len(path.read_text().splitlines()) == 4
