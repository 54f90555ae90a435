"""Sums, gates, clips and failures; lengths, repetition and keywords in values worked out by hand."""

import math
from dataclasses import dataclass

import pytest

from hpt_megatron.errors import UserError
from hpt_megatron.protocol.conditions import Condition
from hpt_megatron.rewards.component import Result, Sample
from hpt_megatron.rewards.composition import Composition, Weighted
from hpt_megatron.rewards.extent import Length, Overlong, Repetition
from hpt_megatron.rewards.keywords import Accuracy, Quality, found

pytestmark = pytest.mark.fast


@dataclass(frozen=True)
class Fixed:
    value: float
    valid: bool = True

    def score(self, sample):
        return Result(self.value, valid=self.valid)


class Broken:
    def score(self, sample):
        raise ZeroDivisionError("x" * 1000)


EMPTY = Sample(turns=())


def parts(**scores):
    return tuple(
        Weighted(name, 0.5, value if hasattr(value, "score") else Fixed(value)) for name, value in scores.items()
    )


def test_the_sum_is_weighted_clipped_and_scaled_by_the_rows_modality():
    both = Composition(parts=parts(a=1.0, b=4.0), clip=(-1.0, 2.0), modality={"image": 0.25})
    assert both.score(EMPTY).total == 2.0
    assert both.score(Sample(turns=(), modality="image")).total == 0.5
    assert both.score(EMPTY).success is None
    assert both.score(EMPTY).components == {"a": 1.0, "b": 4.0, "score": 2.0}


def test_a_shut_gate_gives_its_own_score_and_the_components_are_still_reported():
    gates = (Condition("a"), Condition("b", ">", 0.0))
    gated = Composition(parts=parts(a=0.5, b=0.0), gates=gates, gate_score=-1.0).score(EMPTY)
    assert (gated.total, gated.gated, gated.components["a"]) == (-1.0, ("a", "b"), 0.5)
    assert Composition(parts=parts(a=1.0, b=0.1), gates=gates, gate_score=-1.0).score(EMPTY).gated == ()
    below = Composition(parts=parts(a=0.0), gates=(Condition("a"),), gate_score=-1.0, clip=(0.0, 1.0))
    assert below.score(EMPTY).total == -1.0  # the clip is the sum's


def test_success_needs_every_condition():
    rule = (Condition("a"), Condition("score", ">", 0.75))
    assert Composition(parts=parts(a=1.0, b=1.0), success=rule).score(EMPTY).success is True
    assert Composition(parts=parts(a=1.0, b=0.5), success=rule).score(EMPTY).success is False
    assert Composition(parts=parts(a=0.9, b=2.0), success=rule).score(EMPTY).success is False


def test_what_a_row_shows_moves_no_threshold_of_success():
    """Neither here nor under `algorithm.success`, which compares `components`."""
    half = Composition(parts=parts(a=1.0, b=1.0), success=(Condition("score", ">", 0.75),), modality={"image": 0.5})
    scored = half.score(Sample(turns=(), modality="image"))
    assert (scored.total, scored.success, scored.components["score"]) == (0.5, True, 1.0)
    double = Composition(parts=parts(a=1.0), success=(Condition("score", ">", 0.75),), modality={"image": 2.0})
    assert double.score(Sample(turns=(), modality="image")).success is False


@dataclass(frozen=True)
class Turned:
    turns: tuple

    def score(self, sample):
        return Result(1.0, turns=self.turns)


class Leaves:
    def score(self, sample):
        raise SystemExit(0)


TURNED = [Turned((1.0, math.nan)), Turned(("1",)), Turned((1.0, 1.0))]
BAD = [Broken(), Fixed(math.nan), Fixed(math.inf), *TURNED, Leaves()]


@pytest.mark.parametrize("broken", BAD)
def test_a_component_that_fails_is_flagged_and_its_row_does_not_count(broken):
    composition = Composition(parts=parts(a=1.0, b=broken), on_error=2.0, success=(Condition("b"),))
    scored = composition.score(EMPTY)
    assert (scored.valid, scored.success, scored.flags) == (False, False, ("b/error",))
    assert scored.failed
    assert scored.turns == ()
    assert scored.total == 1.5  # the score for errors is 2, yet it meets no condition
    assert 0 < len(scored.results["b"].details["error"]) <= 300


def test_an_invalid_result_meets_no_condition():
    scored = Composition(parts=parts(a=Fixed(1.0, valid=False)), gates=(Condition("a"),)).score(EMPTY)
    assert (scored.total, scored.valid, scored.gated) == (0.0, False, ("a",))


def test_the_length_reward_peaks_where_it_should():
    peak = Length(optimal_length=100, length_weight=0.1)
    scores = [peak.score(Sample(turns=(), tokens=n)).score for n in (0, 50, 100, 200, 300, 900)]
    assert scores == pytest.approx([0.0, 0.05, 0.1, 0.0, -0.1, -0.1])
    turns = Sample(turns=("one two", "three"), tokens=99)
    assert Length(optimal_length=3, unit="words").score(turns).score == 1.0
    assert Length(optimal_length=12, unit="characters").score(turns).score == 1.0
    with pytest.raises(UserError, match="optimal_length"):
        Length(optimal_length=0)


def test_the_overlong_penalty_is_daposs():
    lengths = (0, 80, 85, 100, 101, 10**9)
    soft, step = Overlong(longest=100, buffer=20), Overlong(longest=100, buffer=0)
    assert [soft.score(Sample(turns=(), tokens=n)).score for n in lengths] == [0.0, 0.0, -0.25, -1.0, -1.0, -1.0]
    assert [step.score(Sample(turns=(), tokens=n)).score for n in lengths] == [0.0, 0.0, 0.0, 0.0, -1.0, -1.0]


def test_repetition_is_the_share_of_n_grams_seen_before():
    assert Repetition(n=2).score(Sample(turns=("a b a b a",))).score == pytest.approx(-0.5)
    assert Repetition(n=2, scale=0.2).score(Sample(turns=("a b", "a b"))).score == pytest.approx(-0.1)
    assert Repetition(n=2).score(Sample(turns=("a b", "b a"))).score == 0.0  # no n-gram across turns
    assert Repetition(n=9).score(Sample(turns=("a a a",))).score == 0.0


def test_a_keyword_is_a_word_where_letters_have_cases_and_a_stem_elsewhere():
    assert found(["right", "correct"], "bright, incorrect, rightly") == []
    assert found(["right", "correct"], "bright RIGHT") == ["right"]
    assert found(["\uc815\ud655"], "\uc815\ud655\ud569\ub2c8\ub2e4") == ["\uc815\ud655"]
    assert found(["c++", ""], "c++11") == ["c++"]


def test_quality_counts_once_unless_told_per_hit():
    settings = {"quality_keywords": ("neat", "clear"), "negative_keywords": ("bad",)}
    both = Sample(turns=("neat and clear", "not bad, bad"))
    assert Quality(**settings).score(both).score == 0.5
    assert Quality(**settings, per_hit=True).score(both).score == 1.5
    assert Quality(**settings).score(EMPTY).score == 0.0


def test_accuracy_prefers_the_gold_to_its_keywords():
    keywords = Accuracy(correct_keywords=("yes",))
    assert keywords.score(Sample(turns=("oh yes",))).score == 1.0
    assert keywords.score(Sample(turns=("oh yes",), answer="4", golds=("5",))).score == 0.0
    assert keywords.score(Sample(turns=("no",), answer="5", golds=("5",))).score == 1.0
    assert not Accuracy().score(Sample(turns=("yes",))).valid
