"""What holds for every component in every setting: splits, order, padding, extremes, emptiness."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from itertools import product
from math import inf, isfinite, nan
from threading import Barrier

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_cases import ALL, CASES, CORRECTIONS, IDS, LEAVES, Batch, random_batch, run

from hpt_megatron.algorithms.normalize.streams import STREAMS
from hpt_megatron.algorithms.objective.part import COMPONENTS, View
from hpt_megatron.errors import HptError

EVERY = pytest.mark.parametrize(("kind", "component"), ALL, ids=IDS)
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=5)  # times some 50 components
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def metrics_agree(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(torch.tensor(one[name]), torch.tensor(other[name]), rtol=1e-6, atol=1e-6)


def test_every_registered_component_is_in_these_tests_and_has_a_stream():
    assert set(CASES) == set(COMPONENTS.names())
    assert all(isinstance(component, COMPONENTS.get(kind)) for kind, component in ALL)
    assert {component.name for _, component in ALL} == {*STREAMS, "score"}, "the weights of scores come from pairs"


@EVERY
@FEW
@given(lengths=LENGTHS, seed=SEEDS, data=st.data())
def test_every_split_of_the_batch_gives_the_same_loss_and_gradient(kind, component, lengths, seed, data):
    """Into micro-batches of whole rows, in float64."""
    batch = random_batch(lengths, seed)
    whole = run(component, batch)
    micro_batch = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths))))
    loss, gradient, metrics = torch.zeros((), dtype=torch.float64), torch.zeros_like(whole.gradient), {}
    for number in range(3):
        tokens = (micro_batch[batch.row] == number).nonzero()[:, 0]
        part = batch.take(tokens)
        _, row = torch.unique(part.row, return_inverse=True)
        one = run(component, Batch(row, part.weight, part.columns))
        loss = loss + one.loss
        gradient[:, tokens] += one.gradient
        for name, pair in one.metrics.items():
            metrics[name] = tuple(a + b for a, b in zip(metrics.get(name, (0.0, 0.0)), pair, strict=True))
    torch.testing.assert_close(loss, whole.loss, **CLOSE)
    torch.testing.assert_close(gradient, whole.gradient, **CLOSE)
    metrics_agree(metrics, whole.metrics)


@EVERY
@FEW
@given(lengths=LENGTHS, seed=SEEDS)
def test_every_order_of_tokens_and_rows_gives_the_same_loss_and_gradient(kind, component, lengths, seed):
    batch = random_batch(lengths, seed)
    whole = run(component, batch)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(batch.row), generator=generator)
    renamed = torch.randperm(len(lengths), generator=generator)
    mixed = batch.take(order)
    other = run(component, Batch(renamed[mixed.row], mixed.weight, mixed.columns))
    torch.testing.assert_close(other.loss, whole.loss, **CLOSE)
    torch.testing.assert_close(other.gradient, whole.gradient[:, order], **CLOSE)
    metrics_agree(other.metrics, whole.metrics)


@EVERY
@FEW
@given(lengths=LENGTHS, seed=SEEDS, garbage=st.sampled_from([nan, inf, -inf, 1e308]), rows=st.integers(0, 2))
def test_padding_changes_nothing_whatever_it_holds(kind, component, lengths, seed, garbage, rows):
    """Weight-0 tokens at random places of the rows and in rows of their own; the loss is the same to the last bit."""
    batch = random_batch(lengths, seed)
    whole = run(component, batch)
    generator = torch.Generator().manual_seed(seed)
    pads = torch.randint(0, len(lengths) + rows, (5,), generator=generator)
    size = len(batch.row)
    padded = Batch(
        torch.cat([batch.row, pads]),
        torch.cat([batch.weight, torch.zeros(5, dtype=torch.float64)]),
        {
            name: torch.cat([column, torch.full((5,), garbage, dtype=torch.float64)])
            for name, column in batch.columns.items()
        },
    )
    for column in padded.columns.values():
        column[padded.weight == 0] = garbage
    other = run(component, padded)
    assert other.loss.item() == pytest.approx(whole.loss.item(), rel=1e-14, abs=1e-14)
    torch.testing.assert_close(other.gradient[:, :size], whole.gradient, rtol=1e-14, atol=1e-14)
    assert not other.gradient[:, padded.weight == 0].any()
    metrics_agree(other.metrics, whole.metrics)


@EVERY
@FEW
@given(lengths=LENGTHS, seed=SEEDS, data=st.data())
def test_a_row_that_is_cut_over_two_ranks_gives_the_same_loss_and_gradient(kind, component, lengths, seed, data):
    """Two threads in the place of two ranks of context parallelism: only row sums pass between them, and no gradient
    does. Not covered: the collective itself.
    """
    batch = random_batch(lengths, seed)
    whole = run(component, batch)
    owner = torch.tensor(data.draw(st.lists(st.integers(0, 1), min_size=len(batch.row), max_size=len(batch.row))))
    barrier, sums = Barrier(2, timeout=30), [torch.zeros(0), torch.zeros(0)]

    def rank(number: int):
        tokens = (owner == number).nonzero()[:, 0]
        part = batch.take(tokens)

        def sum_by_row(of_token):
            assert not of_token.requires_grad
            sums[number] = of_token.new_zeros(len(lengths)).index_add(0, part.row, of_token)
            barrier.wait()
            total = sums[0] + sums[1]
            barrier.wait()
            return total[part.row]

        return tokens, run(component, part, sum_by_row)

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(rank, (0, 1)))
    gradient = torch.zeros_like(whole.gradient)
    for tokens, part in parts:
        gradient[:, tokens] = part.gradient
    torch.testing.assert_close(parts[0][1].loss + parts[1][1].loss, whole.loss, **CLOSE)
    torch.testing.assert_close(gradient, whole.gradient, **CLOSE)


LOGPS = [0.0, -1e-9, -1.0, -50.0, -1e3, -1e4]
EXTREMES = {
    "entropy": [0.0, 12.0, 1e3],
    "credit": [0.0, 1.0, -1.0, 1e6, -1e6],
    "value": [0.0, 1e6, -1e6],
    "old_value": [0.0, 1e6, -1e6],
    "returns": [0.0, 1e6, -1e6],
    "kl_full": [0.0, 1e4],
}


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_numbers_never_make_a_loss_or_gradient_that_is_not_finite(kind, component, dtype):
    """Log-probs to -10000, gaps of 1000 either way, credit and returns of a million, all combinations of log-probs.

    Not covered: log-probs of trained tokens that are themselves infinite.
    """
    pairs = torch.tensor([*product(LOGPS, LOGPS), (-1.0, -1001.0), (-1001.0, -1.0)], dtype=torch.float64)
    repeated = pairs.repeat_interleave(30, dim=0)
    size = len(repeated)
    for length, seed in product((1, 7), range(2)):
        batch = random_batch([length] * (size // length) + [1] * (size % length), seed)
        generator = torch.Generator().manual_seed(seed)
        shuffle = torch.randperm(size, generator=generator)
        columns = dict(batch.columns)
        columns["logp"] = repeated[shuffle, 0]
        for name in ("old_logp", "ref_logp", "target_logp"):
            columns[name] = repeated[shuffle, 1]
        columns["rollout_logp"] = repeated[torch.randperm(size, generator=generator), 1]
        for name, values in EXTREMES.items():
            columns[name] = torch.tensor(values).double()[torch.randint(len(values), (size,), generator=generator)]
        outcome = run(component, Batch(batch.row, batch.weight, columns).to(dtype))
        assert outcome.loss.isfinite()
        assert outcome.gradient.isfinite().all()
        assert all(isfinite(number) for pair in outcome.metrics.values() for number in pair)


@EVERY
@pytest.mark.parametrize("lengths", [[], [3, 2]])
def test_a_component_nobody_uses_is_an_exact_zero_that_is_still_connected(kind, component, lengths):
    """Without tokens, and with tokens of weight 0 that hold not-a-number."""
    batch = random_batch(lengths, 0)
    columns = {name: torch.full_like(column, nan) for name, column in batch.columns.items()}
    outcome = run(component, Batch(batch.row, torch.zeros_like(batch.weight), columns))
    assert outcome.loss.item() == 0.0
    assert not outcome.gradient.any()
    assert all(pair == (0.0, 0.0) for pair in outcome.metrics.values())
    logp = torch.zeros(len(batch.row), dtype=torch.float64, requires_grad=True)
    columns = {**batch.columns, "kl_full": logp * 1}
    del columns["logp"]
    component(View.of_rows(logp, torch.zeros_like(batch.weight), batch.row, **columns)).loss.backward()
    assert logp.grad is not None


@EVERY
def test_every_component_reads_the_columns_that_it_names_and_no_others(kind, component):
    batch = random_batch([3, 4], 1)
    kept = {name: column for name, column in batch.columns.items() if name in component.reads}
    leaf = batch.columns["logp"].clone().requires_grad_()
    if "kl_full" in kept:
        kept["kl_full"] = kept["kl_full"] * leaf
    part = component(View.of_rows(leaf, batch.weight, batch.row, **kept))
    assert part.loss.requires_grad
    for name in component.reads:
        fewer = {other: column for other, column in kept.items() if other != name}
        with pytest.raises((KeyError, HptError), match=r"entropy|" + name):
            component(View.of_rows(leaf, batch.weight, batch.row, **fewer))


# Setting -> what must be set for it to matter, and another value of it. Every setting of every kind has its line.
SETTINGS = {
    "correction": ({}, CORRECTIONS[0]),
    "clip_low": ({}, 0.1),
    "clip_high": ({}, 0.1),
    "clip_dual": ({}, 1.01),
    "reshape": ({}, "pow"),
    "reshape_weight": ({"reshape": "logp"}, 0.7),
    "reshape_exponent": ({"reshape": "pow"}, 0.7),
    "impl": ({}, "seq"),
    "target_probs": ({}, True),
    "max_clip": ({}, 0.1),
    "min_clip": ({}, 0.9),
    "scale": ({}, 0.9),
    "form": ({}, "exp"),
    "negative_floor": ({}, -0.5),
    "estimator": ({}, "k1"),
    "clip": ({}, 0.01),
}


@pytest.mark.parametrize("kind", COMPONENTS.names())
def test_every_setting_of_every_component_changes_what_is_learned(kind):
    """The released code takes several settings that it never reads; here none is without effect."""
    batch = random_batch([2] * 40, 3)
    for field in fields(COMPONENTS.get(kind)):
        base, other = SETTINGS[field.name]
        before = COMPONENTS.get(kind)(**base)
        after = replace(before, **{field.name: other})
        assert not torch.equal(run(before, batch).gradient, run(after, batch).gradient), (kind, field.name)


@pytest.mark.parametrize("setting", ["kind", "level", "low", "high"])
def test_every_setting_of_the_correction_changes_what_is_learned(setting):
    batch = random_batch([2] * 40, 3)
    other = {"kind": "tis", "level": "geometric", "low": 0.99, "high": 1.01}[setting]
    before = CASES["none"][0]
    before = replace(before, correction=replace(CORRECTIONS[3], kind="mis"))
    after = replace(before, correction=replace(before.correction, **{setting: other}))
    assert not torch.equal(run(before, batch).gradient, run(after, batch).gradient)


def test_gradients_reach_only_what_a_component_learns_through():
    """Log-probs, the entropy, the value and the full KL each belong to their component."""
    batch = random_batch([2] * 20, 2)
    for kind, component in ALL:
        through = {"entropy": "entropy", "value": "value", "score": "value"}.get(kind, "logp")
        through = "kl_full" if getattr(component, "estimator", "") == "full" else through
        touched = {name for name, row in zip(LEAVES, run(component, batch).gradient, strict=True) if row.any()}
        assert touched == {through}, kind
