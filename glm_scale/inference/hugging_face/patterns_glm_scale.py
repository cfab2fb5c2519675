"""Patterns: which earlier rows a row of a structured recurrence reads. Needs torch only: exported models carry it.

Positions count from 0 within a document, and −1 stands for no row. Source of the patterns: arXiv 2605.31367.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Number = Fraction | Decimal

ENDLESS = 2**62
"""Rows that a row lives which is read by all later ones."""

# Roots, logarithms and huge powers have so many digits, so that values are the same on every platform.
_DIGITS = Context(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN)
_SNAP = Decimal(10) ** -40
_EXACT_BITS = 1 << 14


class Pattern:
    """`window:w`, `dense`, `lattice:f` or `offsets:f`."""

    def __init__(self, spelling: str) -> None:
        self.family, _, self.argument = spelling.partition(":")
        if self.family not in ("window", "dense", "lattice", "offsets"):
            raise ValueError(f"{spelling!r} is no pattern of a recurrence that this file knows")

    @property
    def forgets(self) -> bool:
        """Whether rows come to an end after which nothing reads them."""
        return self.family in ("window", "lattice")

    def reads(self, i: Tensor, j: Tensor, reach: int) -> Tensor:
        """bool: whether the rows at positions i read those at j; all are below `reach`. Tensors broadcast."""
        distance = i - j
        earlier = (j >= 0) & (distance > 0)
        if self.family == "offsets":
            table = _distances(self.argument, _rounded(reach), i.device)
            return earlier & table[distance.clamp(0, reach - 1)]
        return earlier & (distance <= self.lives(j, reach))

    def lives(self, j: Tensor, reach: int) -> Tensor:
        """int64: how many rows after itself the row at j is read for the last time."""
        if not self.forgets:
            return torch.full_like(j, ENDLESS)
        levels = _levels(self.argument, _rounded(reach)) if self.family == "lattice" else ((1, int(self.argument)),)
        # They ascend, and the longest life of a row counts.
        life = torch.zeros_like(j)
        for period, rows in levels:
            life = torch.where((j + 1) % period == 0, rows, life)
        return life


def _rounded(reach: int) -> int:
    """One of few sizes, so that few tables are made while a text grows."""
    return 1 << max(reach - 1, 1).bit_length()


@lru_cache(maxsize=256)
def _levels(function: str, reach: int) -> tuple[tuple[int, int], ...]:
    """(period, life), ascending: rows at multiples of `period`, counted from 1, are read by `life` later rows.

    With a_0 = 1 and a_{k+1} = a_k ⌈(f(k+1) − f(k)) / a_k⌉, multiples of a_k are read until f(k) rows later.
    """
    values = terms(function, reach)
    spacing, levels = 1, {1: values[0]}
    for before, value in pairwise(values):
        spacing *= -((before - value) // spacing)
        levels[spacing] = value
    return tuple(levels.items())


@lru_cache(maxsize=64)
def _distances(function: str, reach: int, device: torch.device) -> Tensor:
    """bool `[reach]`: whether a row reads the one so many rows before it."""
    table = torch.zeros(reach, dtype=torch.bool)
    table[[value for value in terms(function, reach) if value < reach]] = True
    return table.to(device)


@lru_cache(maxsize=256)
def terms(function: str, largest: int) -> tuple[int, ...]:
    """(f(0), f(1), …) of an increasing function of k, such as "k^2+1", up to its first value above `largest`."""
    tree = ast.parse(function.replace("^", "**"), mode="eval").body
    values: list[int] = []
    with localcontext(_DIGITS):
        while not values or values[-1] <= largest:
            value = _evaluated(tree, len(values))
            values.append(ENDLESS if value > ENDLESS else int(_snapped(value)))
    return tuple(values)


def _evaluated(node: ast.expr, k: int) -> Number:
    match node:
        case ast.Constant(value=int(value)):
            return Fraction(value)
        case ast.Name(id="k"):
            return Fraction(k)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluated(operand, k)
        case ast.BinOp(left=left, op=operation, right=right):
            return _combined(_OPERATIONS[type(operation)], _evaluated(left, k), _evaluated(right, k))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            return _FUNCTIONS[name](_evaluated(argument, k))
    raise ValueError(f"{ast.unparse(node)!r} is no function of k")


def _combined(operation: Callable[[Any, Any], Any], x: Number, y: Number) -> Number:
    if operation is operator.pow:
        return _power(x, y)
    if isinstance(x, Decimal) or isinstance(y, Decimal):
        x, y = _decimal(x), _decimal(y)
    result: Number = operation(x, y)
    return result


def _power(x: Number, y: Number) -> Number:
    y = _snapped(y)
    if isinstance(x, Decimal) or isinstance(y, Decimal) or y.denominator != 1:
        return _decimal(x) ** _decimal(y)
    if max(abs(x.numerator), x.denominator).bit_length() * abs(y) > _EXACT_BITS:
        return _decimal(x) ** _decimal(y)
    return x ** int(y)


def _decimal(x: Number) -> Decimal:
    return x if isinstance(x, Decimal) else Decimal(x.numerator) / x.denominator


def _snapped(x: Number) -> Number:
    """The integer that x equals to 40 digits, if it does."""
    if isinstance(x, Fraction) or x.is_infinite() or x.adjusted() >= _DIGITS.prec:
        return x
    nearest = Fraction(int(x.to_integral_value()))
    return nearest if abs(x - int(nearest)) <= _SNAP * max(1, abs(int(nearest))) else x


def _floor(x: Number) -> Number:
    x = _snapped(x)
    if isinstance(x, Decimal) and (x.is_infinite() or x.adjusted() >= _DIGITS.prec):
        return x
    return Fraction(int(x // 1) - (isinstance(x, Decimal) and x < 0))


_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[[Number], Number]] = {
    "floor": _floor,
    "ceil": lambda x: -_floor(-x),
    "sqrt": lambda x: _decimal(x).sqrt(),
    "log": lambda x: _decimal(x).ln(),
    "log2": lambda x: _decimal(x).ln() / Decimal(2).ln(),
}
