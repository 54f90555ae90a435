"""Credit along a row: closed forms at lambda 0 and 1, observations, the plain loop of the plan, whitening."""

import pytest
import torch
from credit_rows import Row, group, pack
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, CreditSettings
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.rows import Rows

few = settings(max_examples=30, derandomize=True)


def loop(reward: list[float], value: list[float], gamma: float, lam: float) -> list[float]:
    """The plan's `_compute_gae` on one row without padding."""
    advantage, carried = [0.0] * len(reward), 0.0
    for t in reversed(range(len(reward))):
        following = value[t + 1] if t + 1 < len(reward) else 0.0
        carried = reward[t] + gamma * following - value[t] + gamma * lam * carried
        advantage[t] = carried
    return advantage


def random_rows(lengths: list[int], seed: int, kept: float) -> Rows:
    """Rewards, values and a mask of trained tokens at random; a share `kept` is trained."""
    chance = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    return Rows(
        torch.tensor(lengths),
        {
            "trained": torch.rand(total, generator=chance) < kept,
            "reward": torch.randn(total, generator=chance),
            "value": torch.randn(total, generator=chance),
            "off": torch.zeros(total, dtype=torch.bool),
        },
        {
            "prompt": torch.arange(len(lengths)),
            "off": torch.zeros(len(lengths), dtype=torch.bool),
            "valid": torch.ones(len(lengths), dtype=torch.bool),
        },
    )


def unpadded(rows: Rows, i: int) -> tuple[torch.Tensor, list[float], list[float]]:
    """Where row i is trained, and its rewards and values there."""
    here = (rows.row_of_token == i) & rows.tokens["trained"]
    return here, rows.tokens["reward"][here].tolist(), rows.tokens["value"][here].tolist()


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    seed=st.integers(0, 99),
    kept=st.sampled_from([1.0, 0.7, 0.1]),
    gamma=st.sampled_from([1.0, 0.9]),
    lam=st.sampled_from([1.0, 0.95, 0.0]),
)
@few
def test_gae_equals_the_plain_loop_on_the_trained_tokens_of_each_row(lengths, seed, kept, gamma, lam):
    rows = random_rows(lengths, seed, kept)
    found = ESTIMATORS.get("gae")(rows, CreditSettings(gamma=gamma, lam=lam))
    for i in range(rows.num_rows):
        here, reward, value = unpadded(rows, i)
        expected = loop(reward, value, gamma, lam)
        assert found.advantage[here].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
        returns = [a + v for a, v in zip(expected, value, strict=True)]
        assert found.returns[here].tolist() == pytest.approx(returns, rel=1e-5, abs=1e-5)


def test_gae_has_its_closed_forms_at_lambda_0_and_1():
    """At 0 one step of temporal difference; at 1 the discounted return minus the value."""
    rows = random_rows([300, 7, 120], seed=1, kept=0.8)
    gamma = 0.99
    at_0 = ESTIMATORS.get("gae")(rows, CreditSettings(gamma=gamma, lam=0.0))
    at_1 = ESTIMATORS.get("gae")(rows, CreditSettings(gamma=gamma, lam=1.0))
    for i in range(rows.num_rows):
        here, reward, value = unpadded(rows, i)
        steps = [r + gamma * n - v for r, v, n in zip(reward, value, [*value[1:], 0.0], strict=True)]
        assert at_0.advantage[here].tolist() == pytest.approx(steps, abs=1e-5)
        returns = [sum(gamma**j * r for j, r in enumerate(reward[t:])) for t in range(len(reward))]
        assert at_1.returns[here].tolist() == pytest.approx(returns, abs=1e-4)
        minus_value = [g - v for g, v in zip(returns, value, strict=True)]
        assert at_1.advantage[here].tolist() == pytest.approx(minus_value, abs=1e-4)


def test_gae_steps_over_an_observation():
    """Two turns with an observation of three tokens between them are one sequence of four tokens."""
    turns = Row(0, (True, True, False, False, False, True, True), (0, 0, 9, 9, 9, 0, 1), (0.1, 0.2, 7, 7, 7, 0.3, 0.4))
    dense = Row(0, (True,) * 4, (0, 0, 0, 1), (0.1, 0.2, 0.3, 0.4))
    with_gap, without = (
        ESTIMATORS.get("gae")(pack([row]), CreditSettings(gamma=0.9, lam=0.8)) for row in (turns, dense)
    )
    for gap, plain in ((with_gap.advantage, without.advantage), (with_gap.returns, without.returns)):
        assert gap[[0, 1, 5, 6]].tolist() == plain.tolist()
        assert gap[2:5].tolist() == [0.0, 0.0, 0.0]


def test_gae_keeps_its_precision_over_thousands_of_steps():
    """8,192 steps at lambda 1 and gamma 1: the values between cancel, and the return is the score on every token.

    Up to a million large, they cancel to within a float32's last place; summed in float32 they would miss by more.
    """
    length = 8192
    value = 1e6 * torch.rand(length, generator=torch.Generator().manual_seed(0))
    row = Row(0, (True,) * length, (0.0,) * (length - 1) + (1.0,), tuple(value.tolist()))
    found = ESTIMATORS.get("gae")(pack([row]), CreditSettings(lam=1.0))
    torch.testing.assert_close(found.advantage, 1.0 - value, rtol=1e-7, atol=0.0)


def test_gae_without_values_says_what_is_missing():
    rows = random_rows([3], seed=0, kept=1.0)
    bare = Rows(rows.lengths, {name: column for name, column in rows.tokens.items() if name != "value"}, rows.fields)
    with pytest.raises(UserError, match="gae needs a critic"):
        ESTIMATORS.get("gae")(bare, CreditSettings())


def test_reinforce_gives_every_token_the_score_and_discounts_on_request():
    batch = pack(group([2.0, -1.0], tokens=3))
    plain = ESTIMATORS.get("reinforce")(batch, CreditSettings())
    assert plain.advantage.tolist() == plain.returns.tolist() == [2.0, 2.0, 2.0, -1.0, -1.0, -1.0]
    discounted = ESTIMATORS.get("reinforce")(batch, CreditSettings(gamma=0.5))
    assert discounted.advantage.tolist() == [0.5, 1.0, 2.0, -0.25, -0.5, -1.0]


@pytest.mark.parametrize("name", ["reinforce_plus_plus", "reinforce_plus_plus_baseline"])
def test_the_plus_plus_estimators_are_white_over_the_trained_tokens(name):
    batch = [
        *group([1.0, 0.0, 0.0], tokens=5),
        *group([0.5, 0.0], prompt=1, tokens=2),
        *group([3.0], demos=1, prompt=2),
    ]
    rows = pack(batch)
    found = ESTIMATORS.get(name)(rows, CreditSettings(gamma=0.9)).advantage.double()
    counted = found[~rows.tokens["off"]]
    assert float(counted.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(counted.std()) == pytest.approx(1.0, abs=1e-6)
    assert bool((found[rows.tokens["off"]] > 1).all())


def test_the_returns_of_reinforce_plus_plus_are_not_whitened():
    rows = pack(group([1.0, 0.0]))
    found = ESTIMATORS.get("reinforce_plus_plus")(rows, CreditSettings(gamma=0.5))
    assert found.returns.tolist() == [0.5, 1.0, 0.0, 0.0]
    assert float(found.advantage.mean()) == pytest.approx(0.0, abs=1e-7)
