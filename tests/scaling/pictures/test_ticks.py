"""Ticks that people can read, however wide the axis."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_scale.scaling.pictures.ticks import Unit, linear_ticks, log_ticks


@pytest.mark.parametrize(
    ("low", "high", "unit", "texts"),
    [
        (2e4, 1.2e6, "count", ["20k", "50k", "100k", "200k", "500k", "1M"]),
        (9e17, 6e18, "flops", ["10¹⁸", "2×10¹⁸", "5×10¹⁸"]),
        (1e15, 2e24, "flops", ["10¹⁶", "10¹⁸", "10²⁰", "10²²", "10²⁴"]),
        (20, 4000, "seconds", ["20 s", "30 s", "1 min", "2 min", "5 min", "10 min", "20 min", "30 min", "1 h"]),
        (1e5, 1e8, "bytes", ["100 kB", "300 kB", "1 MB", "3 MB", "10 MB", "30 MB", "100 MB"]),
        (1.2e6, 1.5e6, "count", ["1.2M", "1.3M", "1.4M", "1.5M"]),
    ],
)
def test_ticks_are_round_and_named_in_units(low: float, high: float, unit: Unit, texts: list[str]) -> None:
    assert [text for _, text in log_ticks(low, high, unit, most=9)] == texts


@given(st.floats(1, 1e20), st.floats(1.02, 1e12), st.sampled_from(["count", "flops", "seconds", "bytes"]))
def test_ticks_are_few_enough_within_the_axis_and_all_different(low: float, factor: float, unit: Unit) -> None:
    found = log_ticks(low, low * factor, unit, most=6)
    values, texts = [value for value, _ in found], [text for _, text in found]
    assert 1 <= len(found) <= 6
    assert values == sorted(set(values))
    assert len(set(texts)) == len(texts)
    assert all(low * (1 - 1e-6) <= value <= low * factor * (1 + 1e-6) for value in values)


@given(st.floats(-10, 10), st.floats(0.001, 100))
def test_linear_ticks_are_evenly_spread(low: float, length: float) -> None:
    found = linear_ticks(low, low + length)
    steps = {round((b - a) / length, 6) for a, b in pairwise(found)}
    assert 2 <= len(found) <= 7
    assert len(steps) == 1
