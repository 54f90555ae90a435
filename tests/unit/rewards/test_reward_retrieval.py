"""Retrieval measures in values worked out by hand, and reward 7."""

import math

import pytest
from reward_seven import RETRIEVAL

from hpt_megatron.protocol.pages import canonical
from hpt_megatron.rewards.component import Sample
from hpt_megatron.rewards.retrieval import Ndcg, Recall, ReciprocalRank

pytestmark = pytest.mark.fast


def found(*pages, gold=("a", "b", "c")):
    return Sample(turns=("<answer>4</answer>",), retrieved=pages, reference=gold)


def test_the_measures_as_worked_out():
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    sample = found("x", "a", "x", "a", "c")  # ranks: x 1, a 2, c 3
    assert Ndcg().score(sample).score == pytest.approx((1 / math.log2(3) + 1 / 2) / ideal)
    assert Ndcg(k=2).score(sample).score == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert Recall().score(sample).score == pytest.approx(2 / 3)
    assert Recall(k=1).score(sample).score == 0.0
    assert ReciprocalRank().score(sample).score == 0.5
    assert ReciprocalRank(k=1).score(sample).score == 0.0
    assert Ndcg().score(found("c", "a", "b")).score == 1.0
    assert Ndcg().score(found("x")).score == Recall().score(found()).score == 0.0


def test_the_ideal_is_not_cut_to_what_was_retrieved():
    assert Ndcg().score(found("a")).score == pytest.approx(1 / (1 + 1 / math.log2(3) + 1 / 2))


def test_slides_of_two_decks_with_one_number_are_two_pages():
    """The reference took the file's name alone, and 11,000 pages collided."""
    sample = found("left/1024.jpg", gold=("right/1024.jpg",))
    assert Ndcg().score(sample).score == 0.0
    assert Ndcg().score(found("./right/1024.PNG", gold=("right/1024.jpg",))).score == 1.0
    assert canonical("right\\1024.jpeg") == "right/1024"
    assert canonical("deck/v1.2") == "deck/v1.2"
    assert canonical("v1.2/page.PNG") == "v1.2/page"


def test_without_gold_pages_the_row_does_not_count():
    result = Ndcg().score(found("a", gold=()))
    assert (result.score, result.flags, result.valid) == (0.0, ("no_reference",), False)
    assert not RETRIEVAL.score(found("a", gold=())).valid


def test_reward_seven_is_nothing_for_a_broken_format_and_a_tenth_is_no_success():
    nothing_found = RETRIEVAL.score(found("x"))
    assert (nothing_found.total, nothing_found.success) == (0.1, False)
    all_found = RETRIEVAL.score(found("a", "b", "c"))
    assert (all_found.total, all_found.success) == (1.0, True)
    half = RETRIEVAL.score(found("x", "a", gold=("a",)))
    assert half.total == pytest.approx(0.1 + 0.9 / math.log2(3))
    broken = RETRIEVAL.score(Sample(turns=("4",), retrieved=("a",), reference=("a",)))
    assert (broken.total, broken.success, broken.valid, broken.flags) == (0.0, False, True, ("format/bad_tags",))
    assert broken.components == {"format": 0.0, "ndcg": 1.0, "score": 0.0}
