"""Congestion: bounds prove what they claim, routings are real, and both meet where the answer is known."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_scale.mixers import Structure
from glm_scale.theory import Congestion, congestion
from glm_scale.theory.congestion import Network, certified
from tests.theory.structures import structure_of


def routes_from(structure: Structure, source: int, length: int) -> list[tuple[int, ...]]:
    """Every route from input `source` to output `source` + `length`, written out from the definition."""
    target = source + length
    width = structure.input_width or 2 * length

    def ending_at(row: int) -> list[tuple[int, ...]]:
        starts = [(row,)] if source <= row < source + width else []
        reads = [j for j in structure.pattern.reads(row) if j >= source] if structure.pattern else []
        return starts + [(*route, row) for j in reads for route in ending_at(j)]

    return ending_at(target)


def exhaustive(structure: Structure, length: int) -> int | None:
    """The congestion by depth-first search over all routings, cut off at loads that are not better."""
    choices = [sorted(routes_from(structure, source, length), key=len) for source in range(length)]
    if not all(choices):
        return None
    loads = [0] * (2 * length)

    def fits(source: int, capacity: int) -> bool:
        if source == length:
            return True
        for route in choices[source]:
            if all(loads[row] < capacity for row in route):
                for row in route:
                    loads[row] += 1
                if fits(source + 1, capacity):
                    return True
                for row in route:
                    loads[row] -= 1
        return False

    for capacity in itertools.count(1):
        loads[:] = [0] * (2 * length)
        if fits(0, capacity):
            return capacity
    raise AssertionError


def check(structure: Structure, result: Congestion) -> None:
    """The routing and the certificate hold, judged by the definition alone."""
    width = structure.input_width or 2 * result.length
    loads = [0] * (2 * result.length)
    for source, route in enumerate(result.routes):
        assert source <= route[0] < source + width
        assert route[-1] == source + result.length
        for read, row in itertools.pairwise(route):
            assert structure.pattern is not None
            assert read in structure.pattern.reads(row)
        for row in route:
            loads[row] += 1
    assert max(loads) == result.found
    assert certified(Network(structure, result.length), result.weights) == result.lower
    assert 1 <= result.lower <= result.found


BACKS = [
    "ssm",
    "window:2",
    "window:5",
    "dense",
    "lattice:2^k",
    "lattice:k^2+1",
    "lattice:3^k",
    "lattice:4*k+1",
    "offsets:2^k",
    "offsets:k^2+1",
    "offsets:3^k",
]


@settings(max_examples=40)
@given(st.sampled_from(BACKS), st.sampled_from(["", "local:2 > ", "local:3 > "]), st.integers(1, 6))
def test_small_copies_equal_an_exhaustive_search(back: str, front: str, length: int) -> None:
    structure = structure_of(front + back)
    result = congestion(structure, length)
    assert result is not None
    check(structure, result)
    exact = exhaustive(structure, length)
    assert exact is not None
    assert result.lower <= exact <= result.found
    assert result.exact


@settings(max_examples=15)
@given(st.sampled_from(BACKS), st.sampled_from(["", "local:4 > "]), st.integers(7, 32))
def test_routings_and_certificates_hold(back: str, front: str, length: int) -> None:
    structure = structure_of(front + back)
    result = congestion(structure, length)
    assert result is not None
    check(structure, result)
    assert result.found <= result.lower + 1


@given(st.sampled_from(["lattice:2^k", "offsets:2^k", "window:3", "local:2 > lattice:2^k"]), st.data())
def test_no_weights_prove_more_than_a_routing_allows(spelling: str, data: st.DataObject) -> None:
    structure = structure_of(spelling)
    result = congestion(structure, 9)
    assert result is not None
    weights = data.draw(st.lists(st.integers(0, 100), min_size=18, max_size=18).filter(any))
    assert certified(Network(structure, 9), weights) <= result.found


@pytest.mark.parametrize("length", [1, 2, 7, 30])
def test_the_ends_of_the_scale(length: int) -> None:
    for spelling in ("attention", "dense", "attention > ssm"):
        assert str(congestion(structure_of(spelling), length)) == "1"
    assert str(congestion(structure_of("ssm"), length)) == str(length)
    assert str(congestion(structure_of("window:1"), length)) == str(length)


@pytest.mark.parametrize("width", [2, 5, 16])
def test_a_window_divides_the_congestion(width: int) -> None:
    for length in (16, 40):
        assert str(congestion(structure_of(f"window:{width}"), length)) == str(math.ceil(length / width))


@pytest.mark.parametrize("length", [8, 15, 31, 60])
def test_offsets_stay_within_the_bounds_of_the_paper(length: int) -> None:
    powers = congestion(structure_of("offsets:2^k"), length)
    squares = congestion(structure_of("offsets:k^2+1"), length)
    assert powers is not None
    assert squares is not None
    assert powers.found <= math.log2(length + 1)
    assert squares.found <= 4


def test_a_lattice_is_bounded_by_its_cache() -> None:
    for spelling in ("lattice:2^k", "lattice:k^2+1"):
        structure = structure_of(spelling)
        assert structure.pattern is not None
        result = congestion(structure, 48)
        assert result is not None
        assert result.lower >= math.ceil(48 / structure.pattern.cache_size(48))


def test_what_is_out_of_reach_has_no_congestion() -> None:
    assert congestion(structure_of("local:8"), 8) is None
    assert str(congestion(structure_of("local:9"), 8)) == "1"


def test_the_result_is_the_same_every_time() -> None:
    structure = structure_of("lattice:k^2+1")
    assert congestion(structure, 20) == congestion(structure, 20)


def test_an_open_gap_is_shown() -> None:
    assert str(Congestion(4, 2, 3, (), ())) == "2–3"
    assert str(Congestion(4, 3, 3, (), ())) == "3"
