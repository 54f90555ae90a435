"""Habits of responses in values worked out by hand, in English and Korean; nothing raises and nothing takes long.

Not covered: that these words are the ones a judge falls for; the lists are ours, and growth is what is watched.
"""

import doctest
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.rewards import habits
from hpt_megatron.rewards.habits import Habits, habit_metrics, habits_of

pytestmark = pytest.mark.fast


def test_the_examples_hold():
    assert doctest.testmod(habits).failed == 0


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one two three", 0.0),
        ("one two three four five six seven", 0.0),
        ("a b c d a b c d", 1 / 5),
        ("A b c d a B C D", 1 / 5),
        ("so so so so so so so", 3 / 4),
        ("so " * 400, 396 / 397),
        ("so...........", 7 / 9),
        ("\uadf8\ub798\uc11c \ub2f5\uc740 \uc0bc \uc774\ub2e4 " * 2, 1 / 5),
        ("\u6240\u4ee5\u7b54\u6848" * 2, 1 / 5),
    ],
)
def test_repetition_is_the_share_of_runs_of_four_that_were_there_before(text, share):
    assert habits_of(text).repetition == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("Definitely. It is certainly four.", 2 / 5),
        ("Without a\n doubt, of course", 2 / 5),
        ("I'm sure; 100% sure", 2 / 5),
        ("unclear, uncertain, perhaps definitive", 0.0),
        ("\ub2f5\uc740 \ud655\uc2e4\ud788 \uc0bc\uc774\ub2e4", 1 / 3),
        ("\ubc18\ub4dc\uc2dc \uc0bc\uc774\ub2e4, \ubd84\uba85\ud788", 2 / 3),
        ("\ubd88\ud655\uc2e4\ud558\ub2e4 \ubd88\ubd84\uba85\ud558\ub2e4", 0.0),
        ("\uc808\ub300\uac12\uc740 \uc0bc", 0.0),
        ("\uc758\uc2ec\uc758 \uc5ec\uc9c0\uac00 \uc5c6\ub2e4", 1 / 3),
        ("?!", 0.0),
    ],
)
def test_assertive_wording_is_counted_for_each_word(text, share):
    """Unsure and unclear are no certainty, in either language, and an absolute value is a value."""
    assert habits_of(text).assertive == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("Two ways:\n- one\n* two\n\n  \u2022 three", 3 / 4),
        ("1. a\n2) b\n(3) c\na) d\n\u2460e", 1.0),
        ("-5 + 3\n3.5 is it\n*bold* word\nA plain line\n2024", 0.0),
        ("\n\n", 0.0),
    ],
)
def test_lists_are_the_share_of_lines_that_begin_as_an_item(text, share):
    assert habits_of(text).lists == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("an epistemological note", 1 / 3),
        ("abcdefghijk abcdefghijkl", 1 / 2),
        ("123456789012345 a1b2c3d4e5f6g7", 0.0),
        ("\uac00\ub098\ub2e4\ub77c\ub9c8\ubc14 \uac00\ub098\ub2e4\ub77c\ub9c8", 1 / 2),
    ],
)
def test_long_words_have_twelve_letters_or_six_syllables(text, share):
    assert habits_of(text).long_words == pytest.approx(share, abs=1e-4)


@given(st.text(max_size=300))
def test_every_text_has_its_rates(text):
    found = habits_of(text)
    for rate in (found.repetition, found.assertive, found.lists, found.long_words):
        assert 0 <= rate <= 1


@pytest.mark.parametrize("piece", ["-", "<", "a", "\n", " \t", "100 ", "without any ", "\uac00", "I'm ", "1", "((("])
def test_no_text_takes_long(piece):
    began = time.perf_counter()
    habits_of(piece * (200_000 // len(piece)))
    assert time.perf_counter() - began < 2.0


def test_a_step_has_the_means_and_the_wrong_ones_apart():
    def one(assertive, lists=0.0):
        return Habits(repetition=0.5, assertive=assertive, lists=lists, long_words=0.0)

    told = habit_metrics([one(0.1), one(0.3), one(0.2, lists=0.9)], [True, True, False])
    assert told == pytest.approx(
        {
            "habits/repetition": 0.5,
            "habits/assertive": 0.2,
            "habits/assertive_when_wrong": 0.2,
            "habits/lists": 0.3,
            "habits/long_words": 0.0,
        }
    )
    assert "habits/assertive_when_wrong" not in habit_metrics([one(0.1)], [False])
    assert habit_metrics([], []) == {}
