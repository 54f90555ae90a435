"""Policy losses and the correction between engine and trainer, value by value."""

from math import exp, log

import pytest
import torch

from hpt_megatron.algorithms.objective.cispo import Cispo
from hpt_megatron.algorithms.objective.correction import Correction
from hpt_megatron.algorithms.objective.gspo import Gspo
from hpt_megatron.algorithms.objective.part import View
from hpt_megatron.algorithms.objective.policy import Clip, DualClip, Unclipped
from hpt_megatron.errors import UserError


def view(ratios, credits, row=None, gaps=None, logp=-1.0) -> View:
    """Tokens of given ratio to the old policy, of log-prob -1 unless told, and of given gap trainer - engine."""
    size = len(ratios)
    new = torch.full((size,), logp, dtype=torch.float64, requires_grad=True)
    old = new.detach() - torch.tensor(ratios, dtype=torch.float64).log()
    columns = {"old_logp": old, "credit": torch.tensor(credits, dtype=torch.float64)}
    if gaps is not None:
        columns["rollout_logp"] = old - torch.tensor(gaps, dtype=torch.float64).log()
    row = torch.arange(size) if row is None else torch.tensor(row)
    return View.of_rows(new, torch.ones(size, dtype=torch.float64), row, **columns)


def terms(component, of: View) -> list[float]:
    """The loss of every token."""
    log_ratio = of.logp - of.stored["old_logp"]
    return component.surrogate(of, log_ratio)[0].tolist()


def gradient(component, of: View) -> list[float]:
    return torch.autograd.grad(component(of).loss, of.logp)[0].tolist()


def mean(component, of: View, metric: str) -> float:
    total, count = component(of).metrics[metric]
    return (total / count).item()


RATIOS = [0.5, 0.9, 1.0, 1.25, 4.0]


@pytest.mark.parametrize(
    ("component", "credit", "losses", "learns"),
    [
        (Clip(), 2.0, [-1.0, -1.8, -2.0, -2.4, -2.4], [1, 1, 1, 0, 0]),
        (Clip(), -2.0, [1.6, 1.8, 2.0, 2.5, 8.0], [0, 1, 1, 1, 1]),
        (Clip(clip_low=0.05, clip_high=0.3), 2.0, [-1.0, -1.8, -2.0, -2.5, -2.6], [1, 1, 1, 1, 0]),
        (Clip(clip_low=0.05, clip_high=0.3), -2.0, [1.9, 1.9, 2.0, 2.5, 8.0], [0, 0, 1, 1, 1]),
        (DualClip(), 2.0, [-1.0, -1.8, -2.0, -2.4, -2.4], [1, 1, 1, 0, 0]),
        (DualClip(), -2.0, [1.6, 1.8, 2.0, 2.5, 6.0], [0, 1, 1, 1, 0]),
        (Unclipped(), 2.0, [-1.0, -1.8, -2.0, -2.5, -8.0], [1, 1, 1, 1, 1]),
    ],
)
def test_the_clip_takes_the_larger_loss_and_no_gradient_beyond_it(component, credit, losses, learns):
    """Both signs of the credit; the gradient is -A r, or 0 where the clip acts."""
    of = view(RATIOS, [credit] * 5)
    assert terms(component, of) == pytest.approx(losses)
    expected = [-credit * ratio * on for ratio, on in zip(RATIOS, learns, strict=True)]
    assert gradient(component, of) == pytest.approx(expected)
    assert mean(component, of, "actor/pg_clipfrac") == pytest.approx(1 - sum(learns) / 5)


def test_a_dual_clip_at_or_below_one_is_refused():
    with pytest.raises(UserError, match=r"clip_dual: 1\.0 would hold tokens that never moved; above 1"):
        DualClip(clip_dual=1.0)


def test_gspo_judges_all_tokens_of_a_row_by_the_rows_mean():
    """Log-ratios .3 and -.1 have the mean .1; the other row's mean is 0."""
    of = view([exp(0.3), exp(-0.1), exp(0.2), exp(-0.2)], [2.0, 2.0, -1.0, -1.0], row=[0, 0, 1, 1])
    wide = Gspo(clip_low=0.2, clip_high=0.2)
    assert terms(wide, of) == pytest.approx([-2 * exp(0.1)] * 2 + [1.0] * 2)
    assert gradient(wide, of) == pytest.approx([-2 * exp(0.1)] * 2 + [1.0] * 2)
    assert terms(Gspo(), of) == pytest.approx([-2 * 1.0004] * 2 + [1.0] * 2)
    assert gradient(Gspo(), of) == pytest.approx([0.0, 0.0, 1.0, 1.0])


def test_gspos_gradient_is_that_of_the_sequence_level_loss():
    """One credit and one weight per row, as in the paper: |row| A s differentiated as a whole."""
    of = view([1.1, 0.7, 1.3, 0.8, 1.0], [0.5, 0.5, -1.5, -1.5, -1.5], row=[0, 0, 1, 1, 1])
    log_ratio = of.logp - of.stored["old_logp"]
    whole = -2 * 0.5 * log_ratio[:2].mean().exp() + 3 * 1.5 * log_ratio[2:].mean().exp()
    expected = torch.autograd.grad(whole, of.logp)[0].tolist()
    assert gradient(Gspo(clip_low=0.9, clip_high=0.9), of) == pytest.approx(expected)


def test_cispo_bounds_the_weight_and_every_token_still_learns():
    of = view(RATIOS, [2.0, -2.0, 2.0, -2.0, 2.0])
    bounded = Cispo(clip_low=0.2, clip_high=0.2)
    weights = [0.8, 0.9, 1.0, 1.2, 1.2]
    credits = [2.0, -2.0, 2.0, -2.0, 2.0]
    assert gradient(bounded, of) == pytest.approx([-w * a for w, a in zip(weights, credits, strict=True)])
    assert terms(bounded, of) == pytest.approx([w * a for w, a in zip(weights, credits, strict=True)])
    assert mean(bounded, of, "actor/pg_clipfrac") == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("kind", "level", "factors"),
    [
        ("tis", "token", [0.5, 1.6, 2.0]),
        ("tis", "sequence", [2.0, 2.0, 2.0]),
        ("tis", "geometric", [3.2 ** (1 / 3)] * 3),
        ("mis", "token", [0.0, 1.6, 0.0]),
        ("mis", "sequence", [0.0, 0.0, 0.0]),
        ("mis", "geometric", [3.2 ** (1 / 3)] * 3),
    ],
)
def test_the_correction_truncates_or_masks_by_token_and_by_row(kind, level, factors):
    """Gaps .5, 1.6 and 4 in one row: their product is 3.2. Bounds .6 and 2; a row by itself is not touched by it."""
    correction = Correction(kind=kind, level=level, low=0.6, high=2.0)
    of = view([1.0] * 4, [1.0] * 4, row=[0, 0, 0, 1], gaps=[0.5, 1.6, 4.0, 1.0])
    factor, metrics = correction.factor(of)
    assert factor.tolist() == pytest.approx([*factors, 1.0])
    assert not factor.requires_grad
    assert gradient(Clip(correction=correction), of) == pytest.approx([-f for f in [*factors, 1.0]])
    total, count = metrics["correction/abs_gap"]
    assert (total / count).item() == pytest.approx((log(2) + log(1.6) + log(4)) / 4)
    cut = sum(f in (0.0, 2.0) for f in factors)
    assert metrics["correction/cut"][0].item() == cut
    assert metrics["correction/factor"][0].item() == pytest.approx(sum(factors) + 1)


def test_without_a_correction_the_gap_is_only_reported():
    of = view([1.0, 1.0], [1.0, 1.0], gaps=[2.0, 0.5])
    assert gradient(Clip(), of) == [-1.0, -1.0]
    assert mean(Clip(), of, "correction/abs_gap") == pytest.approx(log(2))
    assert "correction/abs_gap" not in Clip()(view([1.0], [1.0])).metrics


def test_a_correction_without_the_engines_log_probs_fails_instead_of_doing_nothing():
    with pytest.raises(KeyError, match="rollout_logp"):
        Clip(correction=Correction(kind="tis"))(view([1.0], [1.0]))


def test_equal_engine_and_trainer_leave_every_loss_as_it_was():
    of = view(RATIOS, [1.0, -1.0, 1.0, -1.0, 1.0], gaps=[1.0] * 5)
    for kind in ("tis", "mis"):
        for level in ("token", "sequence", "geometric"):
            corrected = Clip(correction=Correction(kind=kind, level=level))
            assert gradient(corrected, of) == gradient(Clip(), of)


def test_a_ratio_that_ran_away_is_held_and_gets_no_gradient():
    """e^30 is held at e^20 with its gradient off, without a clip too; e^-2000 is 0 with gradient 0."""
    of = view([exp(30), 1.0], [-1.0, -1.0])
    assert terms(Unclipped(), of) == pytest.approx([exp(20), 1.0])
    assert gradient(Unclipped(), of) == [0.0, 1.0]
    far = view([1.0], [1.0], logp=-2000.0)
    far.stored["old_logp"].zero_()
    assert gradient(Unclipped(), far) == [0.0]
