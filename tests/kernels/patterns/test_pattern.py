"""Patterns: intervals equal the definition, sets nest, sizes are those of the design, slots are never shared."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from glm_kernels.patterns import Lattice, Lifetime, Offsets, PatternError, parse_pattern

LIFETIMES = [
    "window:1",
    "window:7",
    "dense",
    "lattice:2^k",
    "lattice:k^2+1",
    "lattice:k^3+1",
    "lattice:3^k",
    "lattice:k+1",
    "lattice:3*k+1",
    "lattice:floor(k*log(k+1))+k+1",
]
OFFSETS = ["offsets:2^k", "offsets:k^2+1", "offsets:5*k+3"]


@st.composite
def growths(draw: st.DrawFn, start: int = 1) -> str:
    """The spelling of a strictly increasing f with f(0) = start, growing like a polynomial, a power or in between."""
    square, linear, root = draw(st.integers(0, 4)), draw(st.integers(1, 6)), draw(st.integers(0, 9))
    polynomial = f"{square}*k^2+{linear}*k+floor({root}*sqrt(k))+{start}"
    base = draw(st.integers(2, 5))
    return draw(st.sampled_from([polynomial, f"{base}^k+{start - 1}", f"{base}^k+{linear}*k+{start - 1}"]))


def lifetimes() -> st.SearchStrategy[str]:
    return st.one_of(growths().map("lattice:{}".format), st.integers(1, 40).map("window:{}".format), st.just("dense"))


def patterns() -> st.SearchStrategy[str]:
    offsets = st.integers(1, 5).flatmap(growths).map("offsets:{}".format)
    return st.one_of(lifetimes(), offsets)


def lattice_definition(pattern: Lattice, position: int) -> set[int]:
    """S_i of the paper, positions counted from 1, written out a second time."""
    i, f = position + 1, pattern.growth
    read, spacing, k = set(), 1, 0
    while f(k) < i:
        read.add(spacing * math.ceil((i - f(k)) / spacing))
        spacing *= math.ceil((f(k + 1) - f(k)) / spacing)
        k += 1
    return {j - 1 for j in read}


@given(growths())
def test_lattice_reads_are_the_sets_of_the_paper(text: str) -> None:
    pattern = parse_pattern(f"lattice:{text}")
    assert isinstance(pattern, Lattice)
    for position in range(90):
        assert set(pattern.reads(position)) == lattice_definition(pattern, position)


@given(lifetimes(), st.integers(1, 150))
def test_lifetime_intervals_equal_the_definition(spelling: str, length: int) -> None:
    pattern = parse_pattern(spelling)
    assert isinstance(pattern, Lifetime)
    last = pattern.last_readers(length)
    row = torch.arange(length)
    interval = (row[None, :] < row[:, None]) & (row[:, None] <= last[None, :])
    assert torch.equal(interval, pattern.read_matrix(length))


@given(lifetimes())
def test_a_row_that_left_the_cache_never_returns(spelling: str) -> None:
    pattern = parse_pattern(spelling)
    before: set[int] = set()
    for position in range(120):
        now = set(pattern.reads(position + 1))
        assert now <= before | {position}
        assert position in now  # the row before is always readable
        before = now


@given(patterns(), st.integers(1, 150))
def test_read_counts_count_the_definition(spelling: str, length: int) -> None:
    pattern = parse_pattern(spelling)
    assert pattern.read_counts(length).tolist() == [len(pattern.reads(i)) for i in range(length)]


@given(patterns(), st.integers(0, 100))
def test_live_rows_are_those_that_a_later_row_reads(spelling: str, position: int) -> None:
    pattern = parse_pattern(spelling)
    live = pattern.live_rows(position).tolist()
    later = {j for i in range(position, 3 * position + 10) for j in pattern.reads(i) if j < position}
    assert later <= set(live)
    if isinstance(pattern, Lifetime):
        assert live == pattern.reads(position)
    assert pattern.cache_size(position) == len(live)


@given(patterns(), st.integers(1, 150))
def test_no_two_live_rows_share_a_slot(spelling: str, length: int) -> None:
    pattern = parse_pattern(spelling)
    slots = pattern.slots(length)
    for position in range(length + 1):
        live = pattern.live_rows(position)
        assert slots[live].unique().numel() == live.numel()
        held = pattern.rows_in_slots(position)
        assert sorted(held[held >= 0].tolist()) == live.tolist()


@given(lifetimes(), st.integers(1, 200))
def test_slots_are_as_few_as_live_rows_allow(spelling: str, length: int) -> None:
    pattern = parse_pattern(spelling)
    most = max(pattern.cache_size(position) for position in range(length + 1))
    assert pattern.slot_count(length) == most


@pytest.mark.parametrize("width", [1, 2, 7, 64])
def test_window_slots_are_a_ring(width: int) -> None:
    assert parse_pattern(f"window:{width}").slots(300).tolist() == [row % width for row in range(300)]


@pytest.mark.parametrize(
    ("length", "most"), [(3_000, 42), (8_192, 69), (32_768, 136), (131_072, 269), (1_048_576, 728)]
)
def test_square_lattice_holds_the_rows_of_the_design(length: int, most: int) -> None:
    assert int(parse_pattern("lattice:k^2+1").read_counts(length).max()) == most


@pytest.mark.parametrize("power", [1, 5, 10, 17, 20])
def test_power_lattice_holds_at_most_a_logarithm_of_rows(power: int) -> None:
    counts = parse_pattern("lattice:2^k").read_counts(2**power + 1)
    assert bool((counts <= torch.arange(2**power + 1).clamp(min=1).log2() + 1).all())
    assert int(counts.max()) >= power  # and it is not far below


def test_dense_and_windows_are_lattices_too() -> None:
    assert torch.equal(parse_pattern("lattice:k+1").read_matrix(80), parse_pattern("dense").read_matrix(80))
    assert torch.equal(parse_pattern("window:80").read_matrix(80), parse_pattern("dense").read_matrix(80))


@given(st.integers(1, 5).flatmap(growths), st.integers(1, 200))
def test_offsets_are_the_distances_that_fit(text: str, length: int) -> None:
    pattern = parse_pattern(f"offsets:{text}")
    assert isinstance(pattern, Offsets)
    distances = pattern.offsets(length).tolist()
    assert all(1 <= f <= length - 1 for f in distances)
    assert pattern.reads(length - 1) == sorted(length - 1 - f for f in distances)


@pytest.mark.parametrize("spelling", LIFETIMES + OFFSETS)
def test_a_spelling_names_its_pattern(spelling: str) -> None:
    pattern = parse_pattern(spelling)
    assert str(pattern) == spelling
    assert parse_pattern(f"  {spelling.replace(':', ' : ').replace('+', ' + ')} ") == pattern


@pytest.mark.parametrize("spelling", LIFETIMES + OFFSETS)
def test_a_document_of_no_rows_reads_nothing(spelling: str) -> None:
    pattern = parse_pattern(spelling)
    assert pattern.read_counts(0).tolist() == []
    assert pattern.cache_size(0) == 0
    assert pattern.slot_count(0) == 0


@pytest.mark.parametrize(
    ("spelling", "reason"),
    [
        ("windows:3", "unknown pattern 'windows:3'; known are window:w, dense, lattice:f and offsets:f"),
        ("", "unknown pattern ''"),
        ("window", "whole number of rows ≥ 1"),
        ("window:0", "found '0'"),
        ("window:-3", "found '-3'"),
        ("window:2^k", "found '2"),
        ("dense:3", "dense takes no argument"),
        ("lattice", "found the end"),
        ("lattice:k^2", r"f\(0\) = 0"),
        ("lattice:k+2", r"f\(0\) = 2, but a lattice needs f\(0\) = 1"),
        ("offsets:k", "the smallest distance is 1"),
        ("offsets:2^", "found the end"),
        ("offsets:7-k", "must increase strictly"),
    ],
)
def test_a_pattern_that_is_none_says_why(spelling: str, reason: str) -> None:
    with pytest.raises(PatternError, match=reason):
        parse_pattern(spelling)


def test_tables_are_numbers_whatever_the_default_device_is():
    """A model may be built on the meta device first; what is cached then must serve the real one."""
    pattern = parse_pattern("lattice:7*k+1")
    with torch.device("meta"):
        assert pattern.slot_count(50) == pattern.rows_in_slots(50).numel()
        assert pattern.read_counts(50).sum() > 0


@pytest.mark.parametrize("known", [False, True], ids=["first", "again"])
def test_compilers_are_told_how_many_slots_there_are(known: bool) -> None:
    """To them tensors have shapes and no values, and those of others are a mistake."""
    length = 4096 if known else 4097
    pattern = parse_pattern("lattice:4^k+2*k")
    assert isinstance(pattern, Lifetime)
    if known:
        pattern.last_readers(length)
    with FakeTensorMode():
        told = pattern.slot_count(length)
    assert told == 1 + int(pattern.slots(length).max())
