"""The grammar of f: what it means, that values are exact, and that errors show the place."""

from __future__ import annotations

import math
import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_kernels.patterns.growth import BEYOND, Growth, PatternError


def first(text: str, count: int = 6) -> list[int]:
    growth = Growth(text)
    return [growth(k) for k in range(count)]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("2^k", lambda k: 2**k),
        ("k^2+1", lambda k: k * k + 1),
        ("1+2*k", lambda k: 1 + 2 * k),  # products before sums
        ("2*3^k", lambda k: 2 * 3**k),  # powers before products
        ("2^k^2", lambda k: 2 ** (k**2)),  # powers to the right
        ("k-1-1+3", lambda k: k + 1),  # differences to the left
        ("12*(k+1)/6/2", lambda k: k + 1),  # quotients to the left
        ("-2^2+5+k", lambda k: 1 + k),  # the sign after the power
        ("k--1", lambda k: k + 1),
        ("8*2^-3*(k+1)", lambda k: k + 1),  # a signed exponent
        ("(k+1)*(k+2)/2", lambda k: (k + 1) * (k + 2) // 2),
        ("floor(7*k/2)+1", lambda k: 7 * k // 2 + 1),
        ("ceil(7*k/2)+1", lambda k: -(-7 * k // 2) + 1),
        ("k-floor(-1/2)", lambda k: k + 1),  # floor goes down, not towards zero
        ("k+ceil(1/2)", lambda k: k + 1),
        ("sqrt(k^4)+1", lambda k: k * k + 1),
        ("log2(2^(k+1))", lambda k: k + 1),
        ("floor(k*log(k+1))+k+1", lambda k: math.floor(k * math.log(k + 1)) + k + 1),
        ("floor((k+1)^(3/2))", lambda k: math.isqrt((k + 1) ** 3)),
        (" 2 ^ k ", lambda k: 2**k),
    ],
)
def test_spelling_means_what_mathematics_means(text: str, meaning: Callable[[int], int]) -> None:
    assert first(text) == [meaning(k) for k in range(6)]


def test_spaces_do_not_change_the_name() -> None:
    assert Growth(" k ^2 + 1").text == Growth("k^2+1").text == "k^2+1"


@given(st.integers(2, 10**9), st.integers(2, 5))
def test_roots_of_whole_powers_are_whole(base: int, power: int) -> None:
    assert Growth(f"({base}^{power})^(1/{power})+k")(0) == base


@given(st.integers(1, 10**15))
def test_floor_is_exact_next_to_a_whole_number(n: int) -> None:
    # In binary floating point both would round to n from n = 2^26 on.
    assert Growth(f"floor(sqrt({n}^2-1))+1+k")(0) == n
    assert Growth(f"ceil(sqrt({n}^2+1))+k")(0) == n + 1


def test_rational_arithmetic_is_exact() -> None:
    assert first("3*((k+1)/3)") == [1, 2, 3, 4, 5, 6]
    assert first("floor((k+1)/10*10)") == [1, 2, 3, 4, 5, 6]


def test_tiny_terms_stay_tiny_however_large_k_is() -> None:
    growth = Growth("floor(k+1+2^(-k)/2)")
    assert [growth(k) for k in (0, 5_000, 100_000)] == [1, 5_001, 100_001]


@pytest.mark.parametrize("text", ["2^(2^(2^(2^k)))", "floor(sqrt(2)^(10^(9*k)))", "(((9^4096)^4096)^4096)^k"])
def test_enormous_values_are_beyond_without_being_computed(text: str) -> None:
    assert Growth(text).terms(10**6)[-1] == BEYOND


def test_enormous_values_keep_their_sign_and_their_quotients() -> None:
    with pytest.raises(PatternError, match="must increase strictly"):
        Growth("2-5000^(5000*k)")
    assert first("9^(5000*k)/9^(5000*k-k)", 4) == [1, 9, 81, 729]


@pytest.mark.parametrize(
    ("text", "reason", "column"),
    [
        ("2^", "found the end", 2),
        ("", "found the end", 0),
        ("2^x", "found 'x'", 2),
        ("k+(2*k", "parenthesis is not closed", 6),
        ("2^k)", "unexpected ')'", 3),
        ("2 k", "unexpected 'k'", 2),
        ("k 2", "unexpected '2'", 2),
        ("1 2^k", "unexpected '2'", 2),
        ("sqrt k", "sqrt needs an argument in parentheses", 0),
        ("k+cos(k)", "found 'cos'", 2),
        ("k**2", "found '*'", 2),
        ("k+1.5", "unexpected '.'", 3),
        ("__import__('os')", "found '__import__'", 0),
    ],
)
def test_an_error_shows_its_place(text: str, reason: str, column: int) -> None:
    with pytest.raises(PatternError) as caught:
        Growth(text)
    message, shown, caret = str(caught.value).split("\n")
    assert reason in message
    assert shown == f"    {text}"
    assert caret.index("^") - 4 == column


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("k", r"f\(0\) = 0, but the smallest distance is 1"),
        ("k-5", r"f\(0\) = -5"),
        ("5-k", r"f\(1\) = 4 is not greater than f\(0\) = 5"),
        ("floor(k/2)+1", r"f\(1\) = 1 is not greater"),
        ("(k-3)^2+1", r"f\(1\) = 5 is not greater than f\(0\) = 10"),
        ("k/2+1", r"f\(1\) = 1.5 is not an integer; wrap it in floor"),
        ("sqrt(k)+1", r"f\(2\) = 2.41421 is not an integer"),
        ("1/k", r"f\(0\) is not defined"),
        ("k+log(k)", r"f\(0\) is not defined"),
        ("1-log(k)", r"f\(0\) is not defined"),
        ("k+sqrt(k-1)", r"f\(0\) is not defined"),
    ],
)
def test_a_function_that_cannot_be_used_says_where_it_fails(text: str, reason: str) -> None:
    with pytest.raises(PatternError, match=reason):
        Growth(text)


def test_a_later_violation_is_found_when_it_is_used() -> None:
    growth = Growth("1000*k+1-floor(k/300)*2000")
    assert growth.terms(10_000)[-1] == 10_001
    with pytest.raises(PatternError, match=r"f\(300\) = 298001 is not greater than f\(299\) = 299001"):
        growth.terms(400_000)


def test_a_long_text_is_refused() -> None:
    with pytest.raises(PatternError, match="at most 120 characters"):
        Growth("(" * 500 + "k" + ")" * 500)
    assert Growth("(" * 50 + "k" + ")" * 50 + "+1")(3) == 4


@given(st.text(st.sampled_from("0123456789k+-*/^() " + "floorsqrtlog2ceil"), max_size=14) | st.text(string.printable))
def test_any_text_is_a_function_or_a_pattern_error(text: str) -> None:
    try:
        terms = Growth(text).terms(100, most=20)
    except PatternError:
        return
    assert terms[0] >= 1
    assert sorted(set(terms)) == terms


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(1, 7))
def test_random_polynomials_equal_python(coefficients: list[int], constant: int) -> None:
    text = "+".join(f"{c}*k^{power}" for power, c in enumerate(coefficients, start=1)) + f"+k+{constant}"
    expected = [sum(c * k**p for p, c in enumerate(coefficients, start=1)) + k + constant for k in range(6)]
    assert first(text) == expected
