"""Shortest paths equal a breadth-first search over the definition, and the laws of the paper."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_scale.mixers import Structure
from glm_scale.theory import shortest_paths
from tests.theory.structures import structure_of


def searched(structure: Structure, row: int) -> list[float]:
    """Distances from output `row` to every input, nearest first, by breadth-first search."""
    hops = {row: 0}
    frontier = [row]
    while frontier:
        found = []
        for at in frontier:
            for read in structure.pattern.reads(at) if structure.pattern else []:
                if read not in hops:
                    hops[read] = hops[at] + 1
                    found.append(read)
        frontier = found
    width = structure.input_width or row + 1
    return [
        min((h + (at != source) for at, h in hops.items() if source <= at < source + width), default=math.inf)
        for source in range(row, -1, -1)
    ]


FRONTS = st.sampled_from(["", "attention > ", "local:1 > ", "local:2 > ", "local:5 > ", "local:16 > "])
BACKS = st.sampled_from(
    [
        "ssm",
        "window:1",
        "window:6",
        "dense",
        "lattice:2^k",
        "lattice:k^2+1",
        "lattice:3^k",
        "lattice:k^3+1",
        "lattice:4*k+1",
        "offsets:2^k",
        "offsets:k^2+1",
        "offsets:3*k+2",
        "offsets:3^k",
        "offsets:7^k+2",
    ]
)


@given(FRONTS, BACKS, st.integers(0, 130))
def test_paths_equal_a_breadth_first_search(front: str, back: str, row: int) -> None:
    structure = structure_of(front + back)
    assert shortest_paths(structure, row).tolist() == searched(structure, row)


@given(st.integers(1, 20), st.integers(0, 60))
def test_local_attention_reaches_its_window_and_no_farther(width: int, row: int) -> None:
    paths = shortest_paths(structure_of(f"local:{width}"), row)
    assert paths.tolist() == [0 if d == 0 else 1 if d < width else math.inf for d in range(row + 1)]


@pytest.mark.parametrize("spelling", ["attention", "dense", "lattice:k+1", "offsets:k+1", "attention > ssm"])
def test_who_reads_everything_needs_one_hop(spelling: str) -> None:
    assert shortest_paths(structure_of(spelling), 500).tolist() == [0] + [1] * 500


def test_first_order_needs_as_many_hops_as_rows() -> None:
    assert shortest_paths(structure_of("ssm"), 300).tolist() == list(range(301))


@pytest.mark.parametrize("width", [2, 16, 64])
def test_a_window_divides_the_distance(width: int) -> None:
    expected = [math.ceil(distance / width) for distance in range(1001)]
    assert shortest_paths(structure_of(f"window:{width}"), 1000).tolist() == expected


def test_powers_of_two_need_one_hop_for_each_binary_digit() -> None:
    paths = shortest_paths(structure_of("offsets:2^k"), 2**16 - 1)
    assert paths.tolist() == [distance.bit_count() for distance in range(2**16)]
    assert paths.max() <= 16


def test_squares_plus_one_need_at_most_four_hops() -> None:
    paths = shortest_paths(structure_of("offsets:k^2+1"), 2**16 - 1)
    assert paths.max() == 4


def test_powers_lattice_needs_a_logarithm_of_hops() -> None:
    for power in (6, 10, 15):
        assert shortest_paths(structure_of("lattice:2^k"), 2**power - 1).max() == power


def test_a_million_rows_of_offsets_take_a_moment() -> None:
    begun = time.perf_counter()
    paths = shortest_paths(structure_of("offsets:k^2+1"), 999_999)
    assert paths.shape == (1_000_000,)
    assert np.isfinite(paths).all()
    assert time.perf_counter() - begun < 20  # under a second where nothing else runs
