"""Scores of served models: ensembles in values worked out by hand, and samples without a score."""

import pytest

from hpt_megatron.rewards.component import Sample
from hpt_megatron.rewards.composition_file import read_composition
from hpt_megatron.rewards.reward_model import RewardModelScore, ensemble, scored_by

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


def test_scores_travel_with_the_samples_and_without_one_a_row_is_not_valid():
    samples = [Sample(turns=(), question=text) for text in ("1 10", "", "3 30", "nan 1")]
    scored = scored_by(samples, Served())
    assert [sample.scores["reward_model"] for sample in scored[:3]] == [(1.0, 10.0), (), (3.0, 30.0)]
    results = [RewardModelScore(ensemble="min").score(sample) for sample in scored]
    assert [(result.score, result.valid) for result in results] == [(1, True), (0, False), (3, True), (0, False)]
    assert RewardModelScore().score(samples[0]).flags == ("no_score",)


def test_several_heads_are_a_composition():
    """Helpful, safe and honest, each a model of its own name, each logged by itself."""
    heads = {"helpful": 0.5, "safe": 0.3, "honest": 0.2}
    parts = [{"name": "reward_model", "as": head, "weight": w, "settings": {"of": head}} for head, w in heads.items()]
    composition = read_composition({"components": parts, "gate": [{"component": "safe", "op": ">", "value": 0.0}]})
    sample = Sample(turns=(), scores={"helpful": (1.0,), "safe": (2.0,), "honest": (3.0,)})
    assert composition.score(sample).total == pytest.approx(0.5 + 0.6 + 0.6)
    assert composition.score(Sample(turns=(), scores={**sample.scores, "safe": (-1.0,)})).total == 0.0
