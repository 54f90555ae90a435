"""Boxes, spellings and refusals as text; what math-verify and sympy say of pairs of answers."""

import time

import pytest

from hpt_megatron.errors import UserError
from hpt_megatron.rewards.component import Sample
from hpt_megatron.rewards.math_text import (
    after_thinking,
    boxed,
    is_word,
    says_more,
    spelled,
    stated,
    too_heavy,
    written,
)
from hpt_megatron.rewards.mathematics import BoxedFormat, Mathematics


def scored(answer, *golds, **settings):
    return Mathematics(**settings).score(Sample(turns=(f"so \\boxed{{{answer}}}",), golds=golds))


@pytest.mark.fast
def test_the_last_box_that_closes_is_the_answer():
    assert boxed(r"\boxed{1} then \boxed{2}") == "2"
    assert boxed(r"\boxed{\frac{a}{b_{c}}}") == r"\frac{a}{b_{c}}"
    assert boxed(r"\boxed{\boxed{4}}") == "4"
    assert boxed(r"\boxed{1} \boxed{2") == "1"
    assert boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert boxed(r"\fbox {x}") == "x"
    assert boxed("boxed{1}") is None


@pytest.mark.fast
def test_thinking_and_stated_answers():
    assert after_thinking("<think>a</think>b</think> c") == " c"
    assert after_thinking("<think>a") is None
    assert stated("The answer is 5.\nbye") == "5"
    assert stated("Answer: \\frac{1}{2}\n") == "\\frac{1}{2}"
    assert stated("first\nlast\n") == "last"
    assert stated("  ") is None


@pytest.mark.fast
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        ("1,234", "1234"),
        ("$5.00", "5"),
        (r"12\text{ cm}", "12"),
        (r"45^\circ", "45"),
        (r"50\%", "50"),
        ("x = 5", "5"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"\text{East}", "east"),
        ("\N{MINUS SIGN}5", "-5"),
        ("-0", "0"),
    ],
)
def test_spellings_of_one_answer_are_the_same(one, other):
    assert spelled(one) == spelled(other)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("one", "other"),
    [("1,2", "12"), ("(1,000)", "1000"), ("2x", "2"), ("5", "-5"), ("3.5", "35"), (r"2\pi", "2"), ("A", "a")],
)
def test_spellings_of_two_answers_are_not(one, other):
    assert spelled(one) != spelled(other)


@pytest.mark.fast
def test_what_is_refused_by_its_looks_and_what_is_not():
    heavy = {
        "9^9^9": "tower",
        "9^{9^{9}}": "tower",
        "9**9**9": "tower",
        r"9^\left(9^{9}\right)": "tower",
        r"{9}^{{9}^{9}}": "tower",
        r"9 \, ^{\, 9 ^ (9)}": "tower",
        "2^{100000}": "exponent",
        "1e9999": "exponent",
        "10000!": "factorial",
        "(3!)!": "factorial",
        "1" * 101: "digits",
        "x" * 2001: "too_long",
        "(" * 41: "too_deep",
    }
    assert {text: too_heavy(text) for text in heavy} == heavy
    for text in ("10^{2019}", "e^{x^2}", "x^{2^{n}}", "5!", "3.5e10", r"\sqrt[3]{2^{10}}", "(2^3)^4"):
        assert too_heavy(text) is None, text
    assert is_word(r"\text{red fox}")
    assert not is_word("xyz")


def test_equal_mathematics_is_right_however_it_is_written():
    for answer, gold in (
        ("0.5", r"\frac{1}{2}"),
        ("x^2+2x+1", "(x+1)^2"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"\{2, 1\}", r"\{1, 2\}"),
        (r"\frac{\pi}{2}", r"0.5\pi"),
    ):
        assert scored(answer, gold, equal="verify").score == 1.0, answer
        assert scored(answer, "77", gold).score == 1.0  # any gold
    for answer, gold in (("0.6", r"\frac{1}{2}"), ("-3", "3"), ("(1,3)", "(1,2)"), ("x", "y")):
        assert scored(answer, gold).score == 0.0, answer
    assert scored("0.5", "1/2", equal="sympy").score == 1.0
    assert scored("0.5", "1/2", equal="string").score == 0.0


def test_a_gold_in_its_box_is_unboxed_and_one_that_is_not_understood_leaves_the_row_out():
    assert scored("4", r"so \boxed{4}").score == 1.0
    unread = scored("4", "}{")
    assert (unread.score, unread.valid, unread.flags) == (0.0, False, ("gold_not_understood",))
    assert scored("}{", "4").valid is True
    assert scored("4").valid is False
    assert scored("4", "", "4").score == 1.0


def test_words_are_no_products_of_letters():
    """math-verify reads a word as factors, and their order does not matter to it."""
    assert scored("east", r"\text{East}").score == 1.0
    assert scored("seat", r"\text{East}") == scored("north", "East")


def test_a_difference_is_no_word_and_letters_behind_a_number_are_no_unit():
    for answer, gold in (
        ("-y + x", "x - y"),
        ("-cd + ab", "ab - cd"),
        ("a - c + b", "a + b - c"),
        (r"2\sqrt{2}\ \mathrm{m}", r"\sqrt{8}"),
        ("12 square feet", "12"),
        (r"12 \text{ apples}", "12"),
        (r"\frac{10}{2}\text{ km}", "5"),
        ("Red-Blue", "red-blue"),
    ):
        assert scored(answer, gold).score == 1.0, answer
    for answer, gold in (
        ("y - x", "x - y"),
        ("2 xyz", "2"),
        ("3 ab", "3"),
        ("2t", "2"),
        ("3 million", "3"),
        (r"3\text{ million}", "3"),
        ("3", "3 million"),
        ("5 or more", "5"),
        ("1, 234", "1234"),
        ("3 4", "34"),
    ):
        assert scored(answer, gold).score == 0.0, answer


def test_what_math_verify_or_sympy_cannot_compare_is_flagged(monkeypatch):
    def raises(*_, **__):
        raise TypeError("cannot determine truth value")

    monkeypatch.setattr("math_verify.verify", raises)
    monkeypatch.setattr("sympy.simplify", raises)
    assert scored("x + 1", "x + 2").flags == ("not_compared",)
    assert scored("x + 1", "x + 2", equal="sympy").flags == ("not_compared",)
    assert scored("x + 1", "x + 1", equal="verify").score == 1.0
    monkeypatch.setattr("math_verify.verify", lambda *_, **__: False)
    assert scored("x + 1", "x + 2", equal="verify").flags == ()


def test_the_texts_that_are_looked_at():
    def text(turn, **settings):
        return Mathematics(**settings).score(Sample(turns=(turn,), golds=("4",)))

    assert text("<think>5</think> The answer is 4", extract="text", think="required").score == 1.0
    assert text("The answer is 4", extract="text", think="required").flags == ("no_think",)
    assert text("<think> \\boxed{4} </think> done", think="required").flags == ("no_box",)
    assert text("it is 4.0001", extract="stated", rel_tol=1e-4).score == 0.0
    assert text("answer is 4.0001", extract="stated", rel_tol=1e-4).score == 1.0
    assert text(r"the answer is \boxed{4", extract="stated").flags == ("no_answer",)
    assert text("", unformatted=-1.0).score == -1.0
    assert (
        Mathematics(extract="text").score(Sample(turns=("<answer>4</answer>",), answer="4", golds=("4",))).score == 1.0
    )
    assert BoxedFormat().score(Sample(turns=("<think>a</think>\\boxed{4}",))).score == 1.0
    assert BoxedFormat().score(Sample(turns=("\\boxed{4}",))).flags == ("no_think",)
    assert BoxedFormat(think=False).score(Sample(turns=("\\boxed{4}",))).score == 1.0
    with pytest.raises(UserError, match="tolerance"):
        Mathematics(rel_tol=1.0)


@pytest.mark.fast
@pytest.mark.parametrize(
    "piece", ["\\boxed{", "{", "9^", "answer is ", "1,", "\\text{", "0", " ", "}", "((9)^", "a b ", "\\frac"]
)
def test_long_text_is_looked_at_in_time(piece):
    """Under 1 s of processor time where it grows with the length, hours where it grows with the square."""
    long = piece * (200_000 // len(piece))
    start = time.process_time()
    for look in (boxed, spelled, too_heavy, stated, after_thinking, is_word, written, says_more):
        look(long)
        look(long[:2000])
    assert time.process_time() - start < 30
