"""Packing, shuffling and interleaving: the arithmetic of the global order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_data.ordering import Interleave, mix, permutation
from glm_data.packing import best_fit_decreasing, count_sequences, plan_sequences

lengths_and_capacities = st.integers(2, 40).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(0, 3 * capacity), max_size=80), st.just(capacity))
)


def best_fit_one_by_one(lengths: list[int], capacity: int) -> list[list[int]]:
    """The textbook: longest item first, each into the bin with the least room that holds it."""
    bins: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [items for items in bins if capacity - sum(items) >= length]
        if fitting:
            min(fitting, key=lambda items: capacity - sum(items)).append(length)
        else:
            bins.append([length])
    return bins


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 30), st.data())
def test_packing_in_bulk_is_best_fit_decreasing(capacity: int, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, capacity), max_size=60))
    bins, count = best_fit_decreasing(np.bincount(lengths, minlength=capacity + 1), capacity)
    fill = np.bincount(bins, weights=sorted(lengths, reverse=True), minlength=count)
    # Bins with equal room are interchangeable, so how full the bins are does not depend on which of them is taken.
    assert sorted(fill) == sorted(sum(items) for items in best_fit_one_by_one(lengths, capacity))


@settings(max_examples=100, deadline=None)
@given(lengths_and_capacities, st.one_of(st.none(), st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_pieces_cover_every_token_once_and_fit(
    lengths_and_capacity: tuple[list[int], int], seeds: tuple[int, ...] | None
) -> None:
    lengths, capacity = lengths_and_capacity
    plan = plan_sequences(np.array(lengths, dtype=np.uint32), capacity, seeds)
    assert len(plan) == count_sequences(np.array(lengths), capacity)
    seen = [np.zeros(length, dtype=int) for length in lengths]
    for number in range(len(plan)):
        used = 0
        for piece in range(plan.bounds[number], plan.bounds[number + 1]):
            document, start = int(plan.documents[piece]), int(plan.starts[piece])
            count = min(capacity, lengths[document] - start)
            seen[document][start : start + count] += 1
            used += count
        assert 0 < used <= capacity
    assert all((counts == 1).all() for counts in seen)


def test_epochs_have_equally_many_sequences_in_other_orders() -> None:
    lengths = np.random.default_rng(0).integers(3, 900, 2000)
    first, second = (plan_sequences(lengths, 256, (7, 0, epoch)) for epoch in range(2))
    assert len(first) == len(second)
    assert not np.array_equal(first.documents, second.documents)
    again = plan_sequences(lengths, 256, (7, 0, 1))
    assert np.array_equal(second.documents, again.documents)
    assert np.array_equal(second.starts, again.starts)


def test_validation_sequences_follow_the_documents() -> None:
    lengths = np.random.default_rng(0).integers(3, 900, 300)
    plan = plan_sequences(lengths, 256, None)
    firsts = [(int(plan.documents[at]), int(plan.starts[at])) for at in plan.bounds[:-1]]
    assert firsts == sorted(firsts)


def test_packing_wastes_next_to_nothing() -> None:
    lengths = np.exp(np.random.default_rng(0).normal(6, 1.2, 20_000)).astype(np.int64) + 3
    sequences = count_sequences(lengths, 1024)
    assert lengths.sum() / (sequences * 1024) > 0.999


def test_permutations_are_permutations_and_stay_the_same_for_ever() -> None:
    assert sorted(permutation(1000, 1, 2).tolist()) == list(range(1000))
    assert permutation(8, 0, 0, 0).tolist() == [0, 1, 4, 2, 3, 6, 7, 5]
    assert permutation(8, 0, 0, 1).tolist() != [0, 1, 4, 2, 3, 6, 7, 5]


def test_the_hash_is_splitmix64() -> None:
    assert [hex(value) for value in mix(np.array([0, 0x9E3779B97F4A7C15], dtype=np.uint64))] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_weights_are_honoured_at_every_moment(weights: list[float]) -> None:
    interleave = Interleave(weights)
    taken = np.zeros(len(weights))
    shares = np.array(weights) / sum(weights)
    for sample in range(150):
        source, number = interleave.locate(sample)
        assert number == taken[source]  # each source is read in order, without gaps
        taken[source] += 1
        assert np.abs(taken - (sample + 1) * shares).max() < 3  # one for each level of the tree


def test_weights_are_honoured_far_into_the_stream() -> None:
    interleave = Interleave([0.7, 0.2, 0.1])
    source, number = interleave.locate(10**15)
    assert abs(number - [7, 2, 1][source] * 10**14) < 3


@pytest.mark.parametrize("count", [1, 3])
def test_equal_weights_take_turns(count: int) -> None:
    interleave = Interleave([1.0] * count)
    for turn in range(20):
        assert {interleave.locate(turn * count + offset)[0] for offset in range(count)} == set(range(count))
