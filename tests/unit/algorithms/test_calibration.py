"""Accuracy, Brier score, calibration error and separation of scores, held against their definitions."""

import math

import pytest
import torch

from hpt_megatron.algorithms.calibration import BINS, COLUMNS, as_json, calibrated, histogram


def drawn(pairs: int, scale: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs whose order was drawn with the probability that their scores say, the preferred one first."""
    chance = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(pairs, generator=chance, dtype=torch.float64) for _ in range(2))
    first = torch.rand(pairs, generator=chance, dtype=torch.float64) < (one - other).sigmoid()
    return torch.where(first, one, other) * scale, torch.where(first, other, one) * scale


def test_scores_that_say_how_sure_they_are_have_hardly_any_error():
    found = calibrated(*drawn(40_000))
    assert found.ece < 0.01
    assert 0.6 < found.accuracy < 0.8


@pytest.mark.parametrize(("scale", "least"), [(4.0, 0.12), (0.25, 0.08)])
def test_scores_that_are_too_sure_or_not_sure_enough_have_one(scale, least):
    exact, off = calibrated(*drawn(40_000)), calibrated(*drawn(40_000, scale))
    assert off.accuracy == exact.accuracy
    assert off.ece > least
    assert off.brier > exact.brier


def test_every_number_is_that_of_its_definition():
    chosen, rejected = drawn(200, seed=3)
    found = calibrated(chosen, rejected)
    probability = [1 / (1 + math.exp(b - a)) for a, b in zip(chosen.tolist(), rejected.tolist(), strict=True)]
    assert found.brier == pytest.approx(sum((1 - p) ** 2 for p in probability) / 200)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for p in probability:
        sure = max(p, 1 - p)
        bins.setdefault(min(int(sure * BINS), BINS - 1), []).append((sure, p > 0.5))
    gap = sum(abs(sum(sure for sure, _ in each) - sum(right for _, right in each)) for each in bins.values())
    assert found.ece == pytest.approx(gap / 200)
    assert sum(each.pairs for each in found.bins) == 200
    wins = [(a > b) + 0.5 * (a == b) for a in chosen.tolist() for b in rejected.tolist()]
    assert found.auc == pytest.approx(sum(wins) / len(wins))
    spread = math.sqrt((float(chosen.var(correction=0)) + float(rejected.var(correction=0))) / 2)
    assert found.separation == pytest.approx(float(chosen.mean() - rejected.mean()) / spread)


def test_ties_are_half_right_and_nothing_divides_by_zero():
    found = calibrated(torch.zeros(4), torch.zeros(4))
    assert (found.accuracy, found.auc, found.separation, found.brier) == (0.5, 0.5, 0.0, 0.25)
    assert found.ece == 0.0
    assert calibrated(torch.tensor([1.0]), torch.tensor([0.0])).accuracy == 1.0


def test_the_distribution_has_every_score_once():
    chosen, rejected = drawn(100)
    counts = histogram(chosen, rejected)
    assert len(counts["edges"]) == COLUMNS + 1
    assert sum(counts["chosen"]) == sum(counts["rejected"]) == 100
    assert counts["edges"][0] == pytest.approx(float(torch.cat([chosen, rejected]).min()))
    assert histogram(torch.zeros(2), torch.zeros(2))["edges"][-1] == 1.0
    assert as_json(calibrated(chosen, rejected))["bins"][0]["pairs"] > 0
