"""Discounted sums in blocks against the loop over positions, around every length at which the blocks change."""

import doctest

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from hpt_megatron.algorithms.credit import discount
from hpt_megatron.algorithms.credit.discount import BLOCK, discounted
from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, CreditSettings
from hpt_megatron.protocol.rows import Rows

EDGES = [0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, BLOCK**2 - 1, BLOCK**2, BLOCK**2 + 1, 3 * BLOCK**2 + 7]


def loop(entries: list[float], factor: float) -> list[float]:
    sums, carried = [0.0] * len(entries), 0.0
    for place in reversed(range(len(entries))):
        carried = entries[place] + factor * carried
        sums[place] = carried
    return sums


def by_loop(entries: torch.Tensor, lengths: list[int], factor: float) -> list[float]:
    return [one for row in entries.split(lengths) for one in loop(row.tolist(), factor)]


def test_the_example_of_the_module_holds():
    assert doctest.testmod(discount) == (0, 1)


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.95, 0.9999, 1.0])
def test_blocks_give_what_the_loop_gives_at_every_edge(factor):
    entries = torch.rand(sum(EDGES), generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.25
    found = discounted(entries, torch.tensor(EDGES), factor)
    assert found.tolist() == pytest.approx(by_loop(entries, EDGES, factor), rel=1e-11, abs=1e-11)


@given(st.lists(st.integers(0, 3 * BLOCK), max_size=8), st.floats(0, 1), st.integers(0, 99))
@example([], 1.0, 0)
@example([0, 0], 1.0, 0)
@example([0, 5, 0], 5e-324, 0)
def test_blocks_give_what_the_loop_gives(lengths, factor, seed):
    entries = torch.randn(sum(lengths), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = discounted(entries, torch.tensor(lengths, dtype=torch.int64), factor)
    assert found.tolist() == pytest.approx(by_loop(entries, lengths, factor), rel=1e-11, abs=1e-11)


def test_a_row_does_not_feel_its_neighbours_however_large_they_are():
    small = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    huge = torch.full((70,), 1e300, dtype=torch.float64)
    between = discounted(torch.cat([huge, small, huge]), torch.tensor([70, 3, 70]), 1.0)[70:73]
    assert between.tolist() == discounted(small, torch.tensor([3]), 1.0).tolist()


def test_rows_of_more_tokens_than_are_treated_at_a_time_get_what_each_gets_alone():
    """Five rows, two of them longer than a chunk, one empty; with and without a critic."""
    lengths = torch.tensor([150_000, 0, 90_000, 7, 140_000])
    generator = torch.Generator().manual_seed(3)
    total = int(lengths.sum())
    rows = Rows(
        lengths,
        {
            "trained": torch.rand(total, generator=generator) < 0.9,
            "off": torch.zeros(total, dtype=torch.bool),
            "reward": torch.randn(total, generator=generator),
            "value": torch.randn(total, generator=generator),
        },
        {"prompt": torch.arange(5), "off": torch.zeros(5, dtype=torch.bool), "valid": torch.ones(5, dtype=torch.bool)},
    )
    for name in ("gae", "reinforce"):
        together = ESTIMATORS.get(name)(rows, CreditSettings(gamma=0.999))
        for row in range(5):
            alone = ESTIMATORS.get(name)(rows.select(torch.tensor([row])), CreditSettings(gamma=0.999))
            here = slice(int(rows.starts[row]), int(rows.starts[row] + lengths[row]))
            assert torch.allclose(together.advantage[here], alone.advantage, rtol=1e-6, atol=1e-6)
            assert torch.allclose(together.returns[here], alone.returns, rtol=1e-6, atol=1e-6)
