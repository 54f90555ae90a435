"""`remove_sfted_data`: who goes, when, in which order, and that a resume changes nothing.

Not covered: the sampler that asks for the prompts of an epoch; it comes with the data.
"""

import doctest
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.algorithms import imitated
from hpt_megatron.algorithms.imitated import ImitatedPrompts
from hpt_megatron.algorithms.routing.decision import Decision, Mix, Outcome, route
from hpt_megatron.algorithms.routing.plain import Plain
from hpt_megatron.algorithms.routing.soft import Soft, soft_table
from hpt_megatron.algorithms.routing.switch import Switch
from hpt_megatron.errors import HptError

pytestmark = pytest.mark.fast

NAMES = ["d", "b", "a", "c", "e"]


def seen(ledger, strategy, **successes):
    """One step over prompts by name, with 8 rollouts each."""
    outcomes = [Outcome(8, k, prompt=name) for name, k in successes.items()]
    ledger.observe(outcomes, route(strategy, outcomes, 0).decisions)


def resumed(ledger):
    again = ImitatedPrompts()
    again.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    return again


def test_the_example_of_the_module_holds():
    assert doctest.testmod(imitated) == (0, 6)


def test_imitated_prompts_go_at_the_start_of_the_next_epoch_and_never_come_back():
    ledger = ImitatedPrompts()
    assert ledger.start_epoch(0, NAMES, least=2) == NAMES
    seen(ledger, Switch(), a=0, b=1, c=8, d=0)
    assert ledger.start_epoch(0, NAMES, least=2) == NAMES
    assert ledger.counts() == {"data/sfted_removed": 0, "data/sfted_waiting": 2}
    assert ledger.start_epoch(1, NAMES, least=2) == ["b", "c", "e"]
    assert ledger.counts() == {"data/sfted_removed": 2, "data/sfted_waiting": 0}
    seen(ledger, Switch(), b=0, c=3)
    assert ledger.start_epoch(2, NAMES, least=2) == ["c", "e"]
    assert ledger.start_epoch(3, NAMES, least=2) == ["c", "e"]


def test_the_ids_decide_and_not_the_places_of_the_prompts():
    """In the released code a second removal, or a second file, takes away other prompts than were imitated."""
    ledger = ImitatedPrompts()
    seen(ledger, Switch(), b=0)
    assert ledger.start_epoch(1, NAMES, least=1) == ["d", "a", "c", "e"]
    seen(ledger, Switch(), a=0)
    assert ledger.start_epoch(2, list(reversed(NAMES)), least=1) == ["e", "c", "d"]
    assert ledger.start_epoch(2, ["x", *NAMES, "b"], least=1) == ["x", "d", "c", "e"]


def test_both_lower_arms_and_a_table_without_rollouts_remove_and_a_blend_does_not():
    ledger = ImitatedPrompts()
    seen(ledger, Switch(gate=0, gate_off=2), d=0, b=2, a=3)
    assert ledger.waiting == {"d", "b"}
    ledger = ImitatedPrompts()
    seen(ledger, Soft(*soft_table("published_0")[:1], shifted=True), d=0, b=2, a=8)
    assert ledger.waiting == {"d"}
    seen(ledger, Switch(remove=3), c=0)  # some rollouts stay, and yet the target took the place of three
    assert ledger.waiting == {"d", "c"}
    seen(ledger, Plain(n_prefix=1), e=0)
    assert ledger.waiting == {"d", "c"}


def test_a_prompt_whose_target_was_missing_stays():
    ledger = ImitatedPrompts()
    for treatment in ("keep", "drop"):
        outcomes = [Outcome(8, 0, has_target=False, prompt="a"), Outcome(0, 0, prompt="b")]
        ledger.observe(outcomes, route(Switch(), outcomes, 0, treatment).decisions)
    assert ledger.waiting == set()


def test_a_resume_in_the_middle_or_at_the_end_of_an_epoch_changes_nothing():
    ledger = ImitatedPrompts()
    ledger.start_epoch(0, NAMES, least=1)
    seen(ledger, Switch(), a=0)
    ledger.start_epoch(1, NAMES, least=1)
    seen(ledger, Switch(), c=0)
    again = resumed(ledger)
    assert again.start_epoch(1, NAMES, least=1) == ["d", "b", "c", "e"]
    assert again == ledger
    for one in (ledger, again):
        seen(one, Switch(), d=0)
    assert resumed(again).start_epoch(2, NAMES, least=1) == ledger.start_epoch(2, NAMES, least=1) == ["b", "e"]


def test_a_removal_that_leaves_less_than_a_batch_waits_until_it_does_not():
    ledger = ImitatedPrompts()
    seen(ledger, Switch(), d=0, b=0, a=0)
    assert ledger.start_epoch(1, NAMES, least=3) == NAMES
    assert ledger.counts() == {"data/sfted_removed": 0, "data/sfted_waiting": 3}
    assert resumed(ledger).start_epoch(1, NAMES, least=3) == NAMES
    assert ledger.start_epoch(2, [*NAMES, "f"], least=3) == ["c", "e", "f"]


def test_a_prompt_without_an_id_is_refused():
    with pytest.raises(HptError, match="without an id"):
        seen(ImitatedPrompts(), Switch(), **{"": 0})


def test_outcomes_and_decisions_must_belong_together():
    with pytest.raises(ValueError, match="shorter"):
        ImitatedPrompts().observe([Outcome(8, 0, prompt="a"), Outcome(8, 0, prompt="b")], [Decision(Mix(1, 0, 0))])


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=4), max_size=6), st.integers(1, 8), st.randoms())
def test_an_epoch_keeps_the_order_and_a_batch_and_loses_only_what_was_imitated(epochs, least, random):
    names = list("abcdefgh")
    ledger, imitated_so_far, before = ImitatedPrompts(), set(), names
    for epoch, imitates in enumerate(epochs):
        random.shuffle(imitates)
        now = ledger.start_epoch(epoch, names, least)
        assert now == [name for name in before if name in now]
        assert set(names) - set(now) <= imitated_so_far
        assert len(now) >= least
        seen(ledger, Switch(), **dict.fromkeys(imitates, 0))
        imitated_so_far |= set(imitates)
        ledger, before = resumed(ledger), now
