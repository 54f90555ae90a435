"""Scores of served models: ensembles and normalisation in values worked out by hand, and samples without a score."""

import math

import pytest

from hpt_megatron.errors import UserError
from hpt_megatron.rewards.component import Sample
from hpt_megatron.rewards.composition_file import read_composition
from hpt_megatron.rewards.reward_model import Normalisation, RewardModelScore, ensemble, normalised, scored_by

pytestmark = pytest.mark.fast


class Served:
    """Plays the models: two members, who say what the question is."""

    def scores(self, samples):
        return [tuple(float(x) for x in sample.question.split()) for sample in samples]


def test_ensembles_by_hand():
    members = [1.0, 2.0, 6.0]
    assert ensemble(members, "mean") == 3.0
    assert ensemble(members, "min") == 1.0
    assert ensemble(members, "uncertainty", 0.25) == pytest.approx(3.0 - 0.25 * 14 / 3)
    assert ensemble([2.0], "uncertainty", 9.0) == 2.0


def test_the_steps_are_applied_in_their_order():
    """Whitened, divided by the length and bounded, in that order; in another the numbers differ."""
    everything = Normalisation(mean=1.0, std=2.0, batch=True, length=True, low=-0.3, high=0.2)
    assert normalised([1.0, 5.0], [2, 4], everything) == [-0.3, 0.2]
    assert normalised([1.0, 5.0], [2, 4], Normalisation(mean=1.0, std=2.0, batch=True, length=True)) == [-0.5, 0.25]
    assert normalised([1.0, 5.0], [2, 4], Normalisation(mean=1.0, std=2.0)) == [0.0, 2.0]
    assert normalised([3.0, 3.0], [0, 1], Normalisation(batch=True, length=True)) == [0.0, 0.0]
    assert normalised([7.0], [3], Normalisation(std=0.0)) == [7.0]
    assert normalised([1.0, 5.0], [2, 4], Normalisation()) == [1.0, 5.0]
    assert normalised([], [], everything) == []
    for wrong in ({"std": -1.0}, {"low": 1.0, "high": 1.0}, {"mean": math.nan}):
        with pytest.raises(UserError):
            Normalisation(**wrong)


def test_scores_travel_with_the_samples_and_those_without_one_move_nothing():
    samples = [Sample(turns=(), question=text) for text in ("1 10", "", "3 30", "nan 1")]
    scored = scored_by(samples, Served(), steps=Normalisation(batch=True))
    assert [sample.scores["reward_model"] for sample in scored[:3]] == [(-1.0, -1.0), (), (1.0, 1.0)]
    results = [RewardModelScore(ensemble="min").score(sample) for sample in scored]
    assert [(result.score, result.valid) for result in results] == [(-1, True), (0, False), (1, True), (0, False)]
    assert RewardModelScore().score(samples[0]).flags == ("no_score",)


def test_several_heads_are_a_composition():
    """Helpful, safe and honest, each a model of its own name, each logged by itself."""
    heads = {"helpful": 0.5, "safe": 0.3, "honest": 0.2}
    parts = [{"name": "reward_model", "as": head, "weight": w, "settings": {"of": head}} for head, w in heads.items()]
    composition = read_composition({"components": parts, "gate": [{"component": "safe", "op": ">", "value": 0.0}]})
    sample = Sample(turns=(), scores={"helpful": (1.0,), "safe": (2.0,), "honest": (3.0,)})
    assert composition.score(sample).total == pytest.approx(0.5 + 0.6 + 0.6)
    assert composition.score(Sample(turns=(), scores={**sample.scores, "safe": (-1.0,)})).total == 0.0
