"""Answers against golds: text, numbers and options, in values worked out by hand."""

import random

import pytest

from hpt_megatron.errors import UserError
from hpt_megatron.rewards.answers import Choice, Number, number, option
from hpt_megatron.rewards.component import Sample
from hpt_megatron.rewards.text import Anls, ExactMatch, TokenF1, anls, distance, f1, same

pytestmark = pytest.mark.fast


def answered(answer, *golds, choices=()):
    return Sample(turns=(), answer=answer, golds=golds, choices=tuple(choices))


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [
        ("The Eiffel Tower.", "eiffel tower", True),
        ("\uff21\uff22\uff23", "abc", True),  # full-width letters
        ("1,000", "1000", True),
        ("-5", "5", False),
        ("\u22125", "-5", True),  # the minus sign
        ("3.5", "35", False),
        (".5", "5", False),
        ("state-of-the-art", "stateoftheart", True),
        ("", "the", False),
        ("", "+", False),
        ("+", "-", False),
        ("The", "the", True),
        ("paris", "london", False),
    ],
)
def test_exact_match_ignores_what_squad_ignores_but_no_sign_and_no_decimal_point(answer, gold, equal):
    assert same(answer, gold) is same(gold, answer) is equal
    assert ExactMatch().score(answered(answer, gold)).score == float(equal)


def test_any_gold_is_right_and_no_gold_is_not_the_answers_fault():
    assert ExactMatch().score(answered("two", "2", "Two")).score == 1.0
    without = ExactMatch().score(answered("two"))
    assert (without.score, without.flags, without.valid) == (0.0, ("no_gold",), False)
    missing = ExactMatch().score(answered(None, ""))
    assert (missing.score, missing.flags, missing.valid) == (0.0, ("no_answer",), True)


def test_f1_counts_words_as_often_as_they_occur():
    assert f1("the cat sat", "a cat sat down") == pytest.approx(4 / 5)
    assert f1("no no no no", "no") == pytest.approx(2 / 5)
    assert f1("dog", "cat") == 0.0
    assert f1("", "cat") == 0.0
    assert TokenF1().score(answered("cat sat", "dog", "cat")).score == pytest.approx(2 / 3)


def naive(a, b):
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]


def test_the_distance_is_that_of_the_table():
    draw = random.Random(3)
    for _ in range(500):
        a, b = ("".join(draw.choices("abc", k=draw.randrange(90))) for _ in range(2))
        assert distance(a, b) == distance(b, a) == naive(a, b)


def test_anls_is_nothing_at_and_behind_its_threshold():
    assert anls("helo", "hello", 0.5) == pytest.approx(0.8)
    assert anls("ab", "abcd", 0.5) == anls("abxy", "abcd", 0.5) == 0.0  # half of it is wrong
    assert anls("abc", "abcd", 0.5) == pytest.approx(0.75)
    assert anls("ab", "abcd", 0.7) == pytest.approx(0.5)
    assert anls("", "", 0.5) == 1.0
    assert anls(" HELLO ", "hello", 0.5) == 1.0
    assert Anls().score(answered("helo", "no", "hello")).score == pytest.approx(0.8)
    with pytest.raises(UserError, match="threshold"):
        Anls(threshold=0.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("about 1,234.5 kg", 1234.5),
        ("45%", 45.0),
        ("$5", 5.0),
        ("12 m2", 12.0),
        ("-1/4", -0.25),
        ("\u00bd", 0.5),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("3 or 4", None),
        ("5-3", None),
        ("1/0", None),
        ("none", None),
        ("1e999", None),
        ("9" * 5000, None),
    ],
)
def test_a_number_is_read_where_there_is_exactly_one(text, value):
    assert number(text) == value


def test_the_tolerance_is_the_golds():
    close = Number(rel_tol=0.05)
    assert close.score(answered("105", "100")).score == 1.0
    assert close.score(answered("105.2", "100")).score == 0.0  # within 5 % of the answer, not of the gold
    assert Number().score(answered("0.0000001", "0")).score == 0.0
    assert Number(abs_tol=0.01).score(answered("0.005", "0")).score == 1.0
    hedged = close.score(answered("100 or 200", "100"))
    assert (hedged.score, hedged.flags, hedged.valid) == (0.0, ("not_one_number",), True)
    wrong_data = close.score(answered("100", "many"))
    assert (wrong_data.flags, wrong_data.valid) == (("gold_is_no_number",), False)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("B", 1),
        ("(b)", None),
        ("[B].", 1),
        ("b", None),
        ("B) Paris", 1),
        ("A) Paris", None),  # the letter of one, the words of another
        ("paris", 1),
        ("The answer is (C).", 2),
        ("Option B", 1),
        ("answer: A, or answer: B", None),
        ("A dog", None),
        ("D", None),
        ("London or Paris", None),
        ("", None),
    ],
)
def test_one_option_is_named_or_none(text, place):
    assert option(text, ["London", "Paris", "Rome"]) == place


def test_a_choice_is_right_by_letter_or_words():
    options = ["London", "Paris"]
    assert Choice().score(answered("(B)", "Paris", choices=options)).score == 1.0
    assert Choice().score(answered("Paris", "B", choices=options)).score == 1.0
    assert Choice().score(answered("A", "B", choices=options)).score == 0.0
    assert Choice().score(answered("A or B", "B", choices=options)).flags == ("not_one_option",)
    assert not Choice().score(answered("A", "C", choices=options)).valid
