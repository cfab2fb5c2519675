"""Strictly increasing functions f of k, written as text: the `2^k` in `lattice:2^k`.

A small recursive-descent grammar, never `eval`:

    sum     = product { ("+" | "-") product }
    product = signed { ("*" | "/") signed }
    signed  = "-" signed | power
    power   = atom [ "^" signed ]                  (right associative: 2^k^2 = 2^(k^2))
    atom    = integer | "k" | function "(" sum ")" | "(" sum ")"

Arithmetic is exact on integers and fractions; roots, logarithms and very large powers are computed to 60 decimal
digits, so the values are the same on every platform.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, DivisionByZero, InvalidOperation, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Any

Number = int | Fraction | Decimal

BEYOND = 2**62
"""Stands for every value too large to be a distance between rows."""

_PRECISION = 60
# What overflows is infinite, with its sign, so that a tower of powers still compares as it should.
_DIGITS = Context(prec=_PRECISION, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation, DivisionByZero])
_SNAP = Decimal(10) ** -40
_EXACT_BITS = 1 << 14
_CHECKED_TERMS = 256
_LONGEST = 120
_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_][A-Za-z_0-9]*)|(.))")


class PatternError(ValueError):
    """A pattern that is misspelled or has no meaning. The message shows the place in the spelling."""


def _decimal(x: Number) -> Decimal:
    return Decimal(x.numerator) / Decimal(x.denominator) if isinstance(x, Fraction) else Decimal(x)


def _nearest_integer(x: Number) -> int | None:
    """The integer that x equals (for roots and logarithms: to 40 digits), or None."""
    if isinstance(x, Decimal):
        nearest = int(x.to_integral_value())
        return nearest if abs(x - nearest) <= _SNAP * max(1, abs(nearest)) else None
    return int(x) if x == int(x) else None


def _is_huge(x: Number) -> bool:
    """Whether x has more digits before the point than are computed: any such value stands for an integer."""
    return isinstance(x, Decimal) and (x.is_infinite() or x.adjusted() >= _PRECISION)


def _floor(x: Number) -> Number:
    if _is_huge(x):
        return x
    exact = _nearest_integer(x)
    return exact if exact is not None else int(x // 1) - (1 if isinstance(x, Decimal) and x < 0 else 0)


def _power(base: Number, exponent: Number) -> Number:
    whole = None if _is_huge(exponent) else _nearest_integer(exponent)
    if whole is None or isinstance(base, Decimal):
        return _decimal(base) ** _decimal(exponent)
    bits = max(abs(base.numerator), base.denominator).bit_length() - 1
    if bits * abs(whole) > _EXACT_BITS:
        return _decimal(base) ** whole
    power: Number = base**whole if whole >= 0 else Fraction(1) / Fraction(base) ** -whole
    return power


def _ln(x: Number) -> Decimal:
    if x <= 0:
        raise InvalidOperation
    return _decimal(x).ln()


_FUNCTIONS: dict[str, Callable[[Number], Number]] = {
    "floor": _floor,
    "ceil": lambda x: -_floor(-x),
    "sqrt": lambda x: _decimal(x).sqrt(),
    "log": _ln,
    "log2": lambda x: _ln(x) / _ln(2),
}

_Term = Callable[[int], Number]


_OPERATORS: dict[str, Callable[[Any, Any], Number]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def _combine(symbol: str, a: _Term, b: _Term) -> _Term:
    def value(k: int) -> Number:
        x, y = a(k), b(k)
        if symbol == "^":
            return _power(x, y)
        if isinstance(x, Decimal) or isinstance(y, Decimal):
            x, y = _decimal(x), _decimal(y)
            return x / y if symbol == "/" else _OPERATORS[symbol](x, y)
        return Fraction(x) / Fraction(y) if symbol == "/" else _OPERATORS[symbol](x, y)

    return value


class _Parser:
    """Turns text into a function of k; every error carries the column it was found at."""

    def __init__(self, text: str) -> None:
        self.text = text.rstrip()
        if len(self.text) > _LONGEST:
            raise PatternError(f"a function of k has at most {_LONGEST} characters, this one has {len(self.text)}")
        self.tokens = [(m.group(m.lastindex or 0), m.start(m.lastindex or 0)) for m in _TOKEN.finditer(self.text)]
        self.next = 0

    def fail(self, reason: str, column: int | None = None) -> PatternError:
        return PatternError(f"{reason}\n{pointer(self.text, self.column if column is None else column)}")

    @property
    def column(self) -> int:
        return self.tokens[self.next][1] if self.next < len(self.tokens) else len(self.text)

    def peek(self) -> str:
        return self.tokens[self.next][0] if self.next < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.next += 1
        return token

    def parse(self) -> _Term:
        term = self.sum()
        if self.peek():
            raise self.fail(f"unexpected {self.peek()!r}")
        return term

    def sum(self) -> _Term:
        term = self.product()
        while self.peek() in ("+", "-"):
            term = _combine(self.take(), term, self.product())
        return term

    def product(self) -> _Term:
        term = self.signed()
        while self.peek() in ("*", "/"):
            term = _combine(self.take(), term, self.signed())
        return term

    def signed(self) -> _Term:
        if self.peek() == "-":
            self.take()
            operand = self.signed()
            return lambda k: -operand(k)
        base = self.atom()
        if self.peek() == "^":
            return _combine(self.take(), base, self.signed())
        return base

    def atom(self) -> _Term:
        column, token = self.column, self.take()
        if token.isdecimal():
            constant = int(token)
            return lambda k: constant
        if token == "k":
            return lambda k: k
        if token == "(":
            return self.closed(self.sum())
        if token in _FUNCTIONS:
            function = _FUNCTIONS[token]
            if self.take() != "(":
                raise self.fail(f"{token} needs an argument in parentheses", column)
            argument = self.closed(self.sum())
            return lambda k: function(argument(k))
        known = "a number, k, parentheses, or one of " + ", ".join(sorted(_FUNCTIONS))
        raise self.fail(f"expected {known}, found {repr(token) if token else 'the end'}", column)

    def closed(self, term: _Term) -> _Term:
        if self.take() != ")":
            raise self.fail("a parenthesis is not closed")
        return term


def pointer(text: str, column: int) -> str:
    """The text with a caret under `column`, for error messages."""
    return f"    {text}\n    {' ' * column}^"


@lru_cache(maxsize=256)
def _compiled(text: str) -> tuple[str, _Term]:
    """The text without spaces, and its function, which remembers its values: decimals of many digits are slow."""
    parser = _Parser(text)
    return "".join(token for token, _ in parser.tokens), lru_cache(maxsize=1 << 16)(parser.parse())


class Growth:
    """A strictly increasing f: {0, 1, 2, …} → {1, 2, …}, from its spelling.

    Raises PatternError where the text does not parse, a value is not an integer, f(0) < 1, or f does not
    increase; the first 256 values are checked at once and later ones when they are used.
    """

    def __init__(self, text: str) -> None:
        self.text, self._term = _compiled(text)
        self.terms(BEYOND - 1, most=_CHECKED_TERMS)

    def __repr__(self) -> str:
        return f"Growth({self.text!r})"

    def __call__(self, k: int) -> int:
        """f(k), or ±BEYOND where it is farther from zero than any row distance."""
        try:
            with localcontext(_DIGITS):
                value = self._term(k)
                if not -BEYOND <= value <= BEYOND:
                    return BEYOND if value > 0 else -BEYOND
                exact = _nearest_integer(value)
        except ArithmeticError as error:
            raise PatternError(f"{self.text}: f({k}) is not defined") from error
        if exact is None:
            shown = f"{float(value):.6g}"
            raise PatternError(f"{self.text}: f({k}) = {shown} is not an integer; wrap it in floor(...) or ceil(...)")
        return exact

    def terms(self, largest: int, most: int | None = None) -> list[int]:
        """[f(0), f(1), …] up to the first value above `largest`, which is included; at most `most` values."""
        values: list[int] = []
        while not values or (values[-1] <= largest and len(values) != most):
            k = len(values)
            value = self(k)
            if k == 0 and value < 1:
                raise PatternError(f"{self.text}: f(0) = {value}, but the smallest distance is 1")
            if values and value <= values[-1]:
                raise PatternError(
                    f"{self.text}: f({k}) = {value} is not greater than f({k - 1}) = {values[-1]}; "
                    "f must increase strictly"
                )
            values.append(value)
        return values
