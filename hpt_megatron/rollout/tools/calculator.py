"""`<calculator>(1 + 2) * 3</calculator>`: arithmetic, read by a parser of its own. Nothing is evaluated as a program.

    sum: product (+ - product)*      product: sign (* / // % sign)*      sign: (+ -) sign | power      power: atom **
    sign

Invariants
    1. At most `LONGEST` characters and `DEEPEST` levels of brackets; the size of a power is estimated before it is
       computed, so `9**9**9` is refused and not tried.
    2. Whole numbers stay whole; only a division, a decimal point or a negative power makes a fraction, which is exact
       until it is written.

Example:
    >>> calculate("(1 + 2) * 3"), calculate("7 / 2"), calculate("2 ** -2")
    ('9', '3.5', '0.25')
"""

import re
from fractions import Fraction

from hpt_megatron.rollout.tools.tool import TOOLS, Equipment, Outcome, Scene

LONGEST = 200
DEEPEST = 20
MOST_BITS = 1024
TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|(\*\*|//|[-+*/%()^]))")
POWER = ("**", "^")


class BadSumError(Exception):
    """What cannot be computed; its text is one word."""


def calculate(text: str) -> str:
    """The value of an expression, as text."""
    if len(text) > LONGEST:
        raise BadSumError("long")
    tokens: list[str] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        found = TOKEN.match(text, at)
        if not found:
            raise BadSumError("syntax")
        tokens.append(found[1] or found[2])
        at = found.end()
    reader = _Reader(tokens)
    value = reader.sum(0)
    if reader.peek():
        raise BadSumError("syntax")
    return _written(value)


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    try:
        return f"{float(value):.12g}"
    except OverflowError as error:
        raise BadSumError("large") from error


class _Reader:
    """Reads by recursive descent."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens[::-1]

    def peek(self) -> str:
        return self._tokens[-1] if self._tokens else ""

    def take(self) -> str:
        return self._tokens.pop() if self._tokens else ""

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value = _bounded(value + sign * self._product(depth))
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._sign(depth)
        while self.peek() in ("*", "/", "//", "%"):
            value = _bounded(_divided(self.take(), value, self._sign(depth)))
        return value

    def _sign(self, depth: int) -> Fraction:
        if depth > DEEPEST:
            raise BadSumError("deep")
        if self.peek() in ("+", "-"):
            return self._sign(depth + 1) if self.take() == "+" else -self._sign(depth + 1)
        base = self._atom(depth)
        if self.peek() in POWER:
            self.take()
            return _power(base, self._sign(depth + 1))
        return base

    def _atom(self, depth: int) -> Fraction:
        token = self.take()
        if token == "(":
            value = self.sum(depth + 1)
            if self.take() != ")":
                raise BadSumError("syntax")
            return value
        if not token or not (token[0].isdigit() or token[0] == "."):
            raise BadSumError("syntax")
        return _bounded(Fraction(token))


def _divided(operator: str, left: Fraction, right: Fraction) -> Fraction:
    if operator == "*":
        return left * right
    if not right:
        raise BadSumError("zero")
    if operator == "/":
        return left / right
    return Fraction(left // right) if operator == "//" else left % right


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise BadSumError("power")
    if not base and exponent < 0:
        raise BadSumError("zero")
    if base in (0, 1, -1):
        return Fraction(int(exponent == 0) if base == 0 else int(base) ** (exponent.numerator % 2))
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent.numerator) * bits > MOST_BITS:
        raise BadSumError("large")
    return base**exponent.numerator


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
        raise BadSumError("large")
    return value


@TOOLS.add("calculator")
class Calculator:
    """Computes."""

    def __init__(self, equipment: Equipment) -> None:
        pass

    async def use(self, body: str, scene: Scene) -> Outcome:
        """The value, or invalid."""
        try:
            return Outcome("shown", text=calculate(body))
        except BadSumError as error:
            return Outcome("invalid", why=str(error))
