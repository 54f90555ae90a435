"""What holds for every registered estimator, whatever the batch: the invariants of the interface.

Each drawn batch goes through all estimators. A new one fails here until `PLAIN` has its formula a second time.
"""

from dataclasses import replace

import pytest
import torch
from credit_rows import EXTREME, Row, batches, group, pack, with_greedy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from plain_credit import PLAIN

from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, CreditSettings
from hpt_megatron.config.algorithm import ADV_ESTIMATORS

NAMES = ESTIMATORS.names()
LOOKS_AT_BATCH = ("gpg", "reinforce_plus_plus", "reinforce_plus_plus_baseline")
COMPARES_IN_GROUP = ("grpo", "grpo_split", "dr_grpo", "rloo", "opo", "gpg", "pass_at_k")
CENTRED = ("grpo", "grpo_split", "dr_grpo", "gpg", "rloo", "pass_at_k")

few = settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
chosen = st.builds(
    CreditSettings,
    use_std=st.booleans(),
    include_demo=st.booleans(),
    gamma=st.sampled_from([1.0, 0.9, 0.0]),
    lam=st.sampled_from([1.0, 0.95, 0.0]),
    pass_k=st.integers(1, 5),
)


def advantage(name: str, batch: list[Row], credit: CreditSettings) -> list[torch.Tensor]:
    """The advantage of each row, checked for what must always hold."""
    rows = pack(batch)
    found = ESTIMATORS.get(name)(rows, credit)
    silent = ~(rows.tokens["trained"] & rows.per_token(rows.fields["valid"]))
    for column in (found.advantage, found.returns):
        assert column.shape == (rows.num_tokens,), name
        assert column.dtype == torch.float32, name
        assert not column.requires_grad, name
        assert bool(column.isfinite().all()), (name, column)
        assert bool((column[silent] == 0).all()), (name, column)
    return list(found.advantage.split(rows.lengths.tolist()))


def same(name: str, found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert [len(row) for row in found] == [len(row) for row in expected], name
    if found:
        one, other = torch.cat(found), torch.cat(expected)
        assert torch.allclose(one, other, rtol=1e-5, atol=2e-6), (name, one, other)


def test_every_estimator_of_the_configuration_is_registered_and_has_a_plain_twin():
    assert set(NAMES) == set(ADV_ESTIMATORS) == set(PLAIN)
    assert len(NAMES) == 13


@given(batch=batches(), credit=chosen)
@few
def test_every_estimator_agrees_with_plain_python(batch, credit):
    for name in NAMES:
        expected = [torch.tensor(row, dtype=torch.float32) for row in PLAIN[name](batch, credit)]
        same(name, advantage(name, batch, credit), expected)


@given(batch=batches(), credit=chosen, data=st.data())
@few
def test_the_order_of_rows_and_the_names_of_groups_do_not_matter(batch, credit, data):
    order = data.draw(st.permutations(range(len(batch))))
    prompts = data.draw(st.permutations([-7, 11, 2**40, 5]))
    shuffled = [replace(batch[i], prompt=prompts[batch[i].prompt]) for i in order]
    for name in NAMES:
        before = advantage(name, batch, credit)
        same(name, advantage(name, shuffled, credit), [before[i] for i in order])


@given(batch=batches(), credit=chosen, data=st.data())
@few
def test_untrained_tokens_and_rows_that_are_not_valid_change_nothing(batch, credit, data):
    """Padding and observations may hold anything, and so may a failed row."""
    nan, padded, kept = float("nan"), [], []
    for row in batch:
        cut = data.draw(st.integers(0, len(row.trained)))
        fill = {"trained": (False,) * 2, "reward": (nan, 1e9), "value": (nan, float("inf"))}
        wider = {key: (*getattr(row, key)[:cut], *more, *getattr(row, key)[cut:]) for key, more in fill.items()}
        padded.append(replace(row, **wider))
        kept.append(torch.tensor([*range(cut), *range(cut + 2, len(row.trained) + 2)], dtype=torch.int64))
    failure = Row(0, (True,) * 2, (nan, -1e9), (nan, nan), valid=False)
    failures = [replace(failure, prompt=prompt, off=off) for prompt in (0, 1) for off in (True, False)]
    for name in NAMES:
        found = advantage(name, [*padded, *failures], credit)[: len(batch)]
        same(name, [row[index] for row, index in zip(found, kept, strict=True)], advantage(name, batch, credit))


def split(name: str, batch: list[Row], credit: CreditSettings) -> list[torch.Tensor]:
    """The credit of prompts with an even number and of the others, each on their own."""
    halves = {}
    for half in (0, 1):
        index = [i for i, row in enumerate(batch) if row.prompt % 2 == half]
        halves |= dict(zip(index, advantage(name, [batch[i] for i in index], credit), strict=True))
    return [halves[i] for i in range(len(batch))]


@given(batch=batches(), credit=chosen)
@few
def test_a_batch_may_be_split_between_groups(batch, credit):
    for name in NAMES:
        if name not in LOOKS_AT_BATCH:
            same(name, split(name, batch, credit), advantage(name, batch, credit))


@pytest.mark.parametrize("name", LOOKS_AT_BATCH)
def test_those_that_look_at_the_whole_batch_say_so(name):
    """Splitting shows in them; otherwise they belong to the test above."""
    batch = [*group([1.0, 0.0], prompt=0), *group([0.5, 0.5], prompt=1), *group([4.0, 0.0], prompt=2)]
    whole, apart = advantage(name, batch, CreditSettings()), split(name, batch, CreditSettings())
    assert any(not torch.allclose(one, other) for one, other in zip(whole, apart, strict=True))


@pytest.mark.parametrize("score", [0.0, 1.0, -0.3, 1e6, -1e30])
@pytest.mark.parametrize("n", [1, 2, 3, 17, 64])
def test_equal_rewards_give_no_credit_where_there_is_a_comparison(n, score):
    """A row that has nothing to compare with gets its score; without any comparison, every row does."""
    batch = [*group([score] * n, prompt=0), *group([score] * n, prompt=1)]
    for credit in (CreditSettings(pass_k=4, lam=1.0), CreditSettings(use_std=True, lam=1.0)):
        for name in NAMES:
            found = torch.cat(advantage(name, batch, credit))
            if (name in COMPARES_IN_GROUP and n > 1) or name == "remax" or name.startswith("reinforce_plus_plus"):
                torch.testing.assert_close(found, torch.zeros_like(found), rtol=0.0, atol=1e-7)
            elif name == "grpo_balance":
                assert found.unique().tolist() == [1.0 if score > 0 else -1.0]
            else:
                torch.testing.assert_close(found, torch.full_like(found, score), rtol=2e-6, atol=0.0)


@given(batch=batches(score=EXTREME), credit=chosen)
@example(batch=[], credit=CreditSettings())
@example(batch=[Row(0, (), (), ())], credit=CreditSettings())
@example(batch=[Row(0, (False,), (1.0,), (1.0,), greedy=True)], credit=CreditSettings())
@example(batch=with_greedy([Row(0, (True,), (1.0,), (1.0,), valid=False)] * 3), credit=CreditSettings())
@example(batch=[Row(0, (True,), (1.0,), (1.0,), off=True)] * 3, credit=CreditSettings(use_std=True))
@few
def test_no_batch_makes_a_not_a_number(batch, credit):
    """Empty batches, rows and groups, failures and demonstrations alone, rewards up to 1e30 (all finite)."""
    for name in NAMES:
        advantage(name, batch, credit)


@given(n=st.integers(1, 64), data=st.data(), credit=chosen)
@few
def test_groups_of_1_to_64_are_finite_and_their_credit_is_centred(n, data, credit):
    scores = data.draw(st.lists(st.floats(-1e6, 1e6, width=32), min_size=n, max_size=n))
    for name in NAMES:
        found = torch.stack([row[0] for row in advantage(name, group(scores), credit)]).double()
        if name in CENTRED and n > 1:
            assert abs(float(found.mean())) <= 1e-6 * max(float(found.abs().max()), 1e-6)


@given(batch=batches(), credit=chosen)
@few
def test_an_estimator_leaves_its_rows_alone(batch, credit):
    for name in NAMES:
        rows, again = pack(batch), pack(batch)
        ESTIMATORS.get(name)(rows, credit)
        for before, after in ((again.tokens, rows.tokens), (again.fields, rows.fields)):
            assert all(torch.equal(before[key], after[key]) for key in before), name


@given(batch=batches(), credit=chosen, moved=st.sampled_from([-3.0, 0.5, 1e6]))
@few
def test_the_reward_of_a_demonstration_that_is_not_counted_moves_no_rollout(batch, credit, moved):
    credit = replace(credit, include_demo=False)
    changed = [replace(row, reward=(moved,) * len(row.reward)) if row.off else row for row in batch]
    rollouts = [i for i, row in enumerate(batch) if not row.off]
    for name in NAMES:
        before, after = advantage(name, batch, credit), advantage(name, changed, credit)
        same(name, [after[i] for i in rollouts], [before[i] for i in rollouts])
