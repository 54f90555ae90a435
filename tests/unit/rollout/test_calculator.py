"""Arithmetic that a policy writes."""

import asyncio
import random
from fractions import Fraction

import pytest

from hpt_megatron.rewards.component import Sample
from hpt_megatron.rewards.turns import Format
from hpt_megatron.rollout.agent.views import Viewer
from hpt_megatron.rollout.tools.calculator import BadSumError, Calculator, calculate
from hpt_megatron.rollout.tools.tool import TOOLS, Equipment, Scene

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3+5", "8"),
        (" ( 1 + 2 ) * 3 ", "9"),
        ("-2 ** 2", "-4"),
        ("2 ** -2", "0.25"),
        ("2^3^2", "512"),
        ("7 // 2 - 7 % 3", "2"),
        ("1/3", "0.333333333333"),
        ("0.1 + 0.2", "0.3"),
        ("1. * .5", "0.5"),
        ("(-1) ** 999999999", "-1"),
        ("0 ** 0", "1"),
        ("--+5", "5"),
    ],
)
def test_sums_have_their_values(text, value):
    assert calculate(text) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("9**9**9", "large"),
        ("10 ** 400", "large"),
        ("1/0", "zero"),
        ("0 ** -1", "zero"),
        ("5 % 0", "zero"),
        ("2 ** 0.5", "power"),
        ("", "syntax"),
        ("1 +", "syntax"),
        ("(1", "syntax"),
        ("1 2", "syntax"),
        ("__import__('os')", "syntax"),
        ("a + 1", "syntax"),
        ("1e9", "syntax"),
        ("9" * 201, "long"),
        ("(" * 60 + "1" + ")" * 60, "deep"),
        ("-" * 100 + "1", "deep"),
        ("*".join(["9" * 60] * 3) + "*9**300", "large"),
        ("*".join(["9**300"] * 9), "large"),
    ],
)
def test_what_is_no_sum_or_too_large_is_refused(text, why):
    with pytest.raises(BadSumError, match=why):
        calculate(text)


def test_ten_thousand_random_texts_neither_hang_nor_raise_anything_else():
    draw, good = random.Random(0), 0
    for _ in range(10_000):
        text = "".join(draw.choices("0123456789+-*/%()^. ", k=draw.randint(1, 24)))
        try:
            Fraction(calculate(text))
            good += 1
        except BadSumError:
            pass
    assert good > 300


def test_the_tool_is_known_by_its_name_and_says_invalid_for_nonsense():
    tool = TOOLS.get("calculator")(Equipment(Viewer()))
    assert isinstance(tool, Calculator)
    assert asyncio.run(tool.use("6*7", Scene())).text == "42"
    assert asyncio.run(tool.use("six", Scene())).kind == "invalid"


def test_a_turn_with_a_further_tool_is_well_formed_where_the_format_knows_the_tool():
    seen = Sample(turns=("<think>a</think><calculator>1+1</calculator>", "<answer>2</answer>"))
    assert Format().score(seen).flags == ("bad_tags",)
    assert Format(tools=("calculator",), strict=True).score(seen).score == 1.0
    empty = Sample(turns=("<calculator> </calculator>", "<answer>2</answer>"))
    assert Format(tools=("calculator",)).score(empty).flags == ("bad_body",)
