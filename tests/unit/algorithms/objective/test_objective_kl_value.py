"""KL estimators, entropy bonus and value loss: values, gradients and what they mean for a policy."""

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.algorithms.objective.entropy import Entropy
from hpt_megatron.algorithms.objective.kl import KL_ESTIMATORS, Kl
from hpt_megatron.algorithms.objective.part import View
from hpt_megatron.algorithms.objective.value import Value, explained_variance
from hpt_megatron.errors import HptError, UserError


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def distributions() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a policy (a leaf) and the log-probs of a reference, over 5 tokens."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    reference = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(0)
    return logits, reference


def expected(kind: str, logits: torch.Tensor, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean over the policy's own samples of an estimator as a loss: value, and gradient in the logits.

    Exact, by giving each token the probability with which it is sampled as its weight.
    """
    logp = logits.log_softmax(0)
    weight = logp.detach().exp()
    part = Kl(estimator=kind)(View.of_rows(logp, weight, torch.arange(5), ref_logp=reference))
    return part.loss.detach(), torch.autograd.grad(part.loss, logits)[0]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("k1", 0.7),
        ("k2", 0.245),
        ("mse", 0.245),
        ("k3", 0.19658530379140951),
        ("low_var", 0.19658530379140951),
        ("abs", 0.7),
    ],
)
def test_every_estimator_matches_its_formula(kind, value):
    """log pi = -0.3, log ref = -1."""
    assert KL_ESTIMATORS.get(kind)(number(-0.3), number(-1.0)).item() == pytest.approx(value, abs=1e-12)


@given(logp=st.floats(-1e4, 0), ref_logp=st.floats(-1e4, 0))
def test_estimators_are_finite_and_all_but_k1_are_never_negative(logp, ref_logp):
    for kind in KL_ESTIMATORS.names():
        value = KL_ESTIMATORS.get(kind)(number(logp), number(ref_logp))
        assert value.isfinite()
        assert kind == "k1" or value >= 0, kind
        assert logp != ref_logp or value == 0
    assert 0 <= KL_ESTIMATORS.get("low_var")(number(logp), number(ref_logp)) <= 10


def test_on_average_k1_and_k3_are_the_kl_itself():
    logits, reference = distributions()
    logp = logits.detach().log_softmax(0)
    exact = (logp.exp() * (logp - reference)).sum()
    for kind in ("k1", "k3"):
        torch.testing.assert_close(expected(kind, logits, reference)[0], exact)


def test_as_a_loss_k2_and_full_have_the_gradient_of_the_kl_and_k1_has_none():
    logits, reference = distributions()
    logp = logits.log_softmax(0)
    exact = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), logits)[0]
    assert exact.abs().max() > 0.1
    torch.testing.assert_close(expected("k2", logits, reference)[1], exact)
    torch.testing.assert_close(expected("k1", logits, reference)[1], torch.zeros_like(exact), atol=1e-12, rtol=0)
    logp = logits.log_softmax(0)
    column = (logp.exp() * (logp - reference)).sum().expand(1)
    view = View.of_rows(logp[:1], torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64), kl_full=column)
    torch.testing.assert_close(torch.autograd.grad(Kl(estimator="full")(view).loss, logits)[0], exact)


def test_a_full_kl_without_a_gradient_is_refused_where_one_is_needed():
    logp = torch.zeros(2, requires_grad=True)
    view = View.of_rows(logp, torch.ones(2), torch.arange(2), kl_full=torch.ones(2))
    with pytest.raises(HptError, match="kl_full has no gradient"):
        Kl(estimator="full")(view)
    with torch.no_grad():
        assert Kl(estimator="full")(view).loss.item() == 2.0


def test_the_reference_itself_has_a_kl_of_exactly_zero():
    logp = torch.tensor([-0.3, -7.0, -1e4])
    for kind in KL_ESTIMATORS.names():
        view = View.of_rows(logp, torch.ones(3), torch.arange(3), ref_logp=logp.clone())
        assert Kl(estimator=kind)(view).loss.item() == 0.0


def test_an_unknown_estimator_is_refused_by_listing_the_known_ones():
    with pytest.raises(UserError, match="no such KL estimator: k4; one of k1, k2, k3, low_var, abs, mse"):
        Kl(estimator="k4")(View.of_rows(torch.zeros(1), torch.ones(1), torch.arange(1), ref_logp=torch.zeros(1)))


def test_a_positive_weight_on_the_entropy_component_raises_the_entropy():
    """One step of plain gradient descent; and what is often taken for a bonus, the mean of -log pi over own samples,
    has an expected gradient of zero.
    """

    def entropy(of: torch.Tensor) -> torch.Tensor:
        logp = of.log_softmax(0)
        return -(logp.exp() * logp).sum()

    logits, _ = distributions()
    before = entropy(logits)
    one = torch.ones(1, dtype=torch.float64)
    view = View.of_rows(logits.log_softmax(0)[:1], one, torch.zeros(1, dtype=torch.int64), entropy=before.expand(1))
    step = torch.autograd.grad(Entropy()(view).loss, logits)[0]
    assert entropy((logits - 0.1 * step).detach()) > before + 1e-3
    logp = logits.log_softmax(0)
    sampled = torch.autograd.grad((logp.detach().exp() * logp).sum(), logits)[0]
    torch.testing.assert_close(sampled, torch.zeros_like(sampled), atol=1e-12, rtol=0)


def test_entropy_without_its_column_is_refused():
    with pytest.raises(HptError, match="needs the entropy of every token"):
        Entropy()(View.of_rows(torch.zeros(1), torch.ones(1), torch.arange(1)))


VALUES, OLD, RETURNS = [1.0, 2.0, 3.0, 0.5], [1.0, 1.0, 1.0, 1.0], [2.0, 3.0, 1.0, 0.0]


def critic(value: torch.Tensor) -> View:
    columns = {"value": value, "old_value": torch.tensor(OLD).double(), "returns": torch.tensor(RETURNS).double()}
    return View.of_rows(torch.zeros(4).double(), torch.full((4,), 0.25).double(), torch.arange(4), **columns)


@pytest.mark.parametrize(
    ("component", "terms", "gradient", "clipped"),
    [
        (Value(clip=None), [1.0, 1.0, 4.0, 0.25], [-2.0, -2.0, 4.0, 1.0], 0),
        (Value(clip=0.5), [1.0, 2.25, 4.0, 0.25], [-2.0, 0.0, 4.0, 1.0], 1),
        (Value(clip=0.2), [1.0, 3.24, 4.0, 0.64], [-2.0, 0.0, 4.0, 0.0], 2),
    ],
)
def test_the_value_loss_is_the_larger_of_both_squares(component, terms, gradient, clipped):
    """Value 2, old 1, return 3: moved by 1 towards the return, so the clip acts; value 3, return 1 moved away."""
    value = torch.tensor(VALUES, dtype=torch.float64, requires_grad=True)
    part = component(critic(value))
    assert part.loss.item() == pytest.approx(sum(terms) / 4)
    assert (4 * torch.autograd.grad(part.loss, value)[0]).tolist() == pytest.approx(gradient)
    assert part.metrics["critic/vf_clipfrac"][0].item() == clipped


def test_the_explained_variance_comes_from_the_summed_metrics():
    returns, error = torch.tensor(RETURNS), torch.tensor(RETURNS) - torch.tensor(VALUES)
    metrics = Value()(critic(torch.tensor(VALUES).double())).metrics
    means = {name: (total / count).item() for name, (total, count) in metrics.items()}
    expected = 1 - (error.var(correction=0) / returns.var(correction=0)).item()
    assert explained_variance(means) == pytest.approx(expected, abs=1e-6)
    flat = {"critic/returns": 1.0, "critic/returns_square": 1.0, "critic/error": 0.5, "critic/error_square": 1.0}
    assert explained_variance(flat) == 0.0


def test_k3_is_held_where_its_exponential_would_overflow():
    """Above d = 20 its value is constant and its gradient 0; on the other side it stays linear."""
    logp = torch.tensor([-1000.0, -1.0], dtype=torch.float64, requires_grad=True)
    ref_logp = torch.tensor([-1.0, -1000.0], dtype=torch.float64)
    value = KL_ESTIMATORS.get("k3")(logp, ref_logp)
    assert value[1].item() == pytest.approx(998.0)
    assert log(value[0].item()) == pytest.approx(20, abs=1e-6)
    assert torch.autograd.grad(value.sum(), logp)[0].tolist() == [0.0, 1.0]
