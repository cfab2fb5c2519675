"""Repeated n-grams are found as by looking through the document, token by token."""

import time

import numpy as np
import pytest

from glm_scale.training.repeats import repeat_distances


def looked_through(tokens: np.ndarray, labels: np.ndarray, starts: np.ndarray, n: int) -> np.ndarray:
    found = np.zeros(tokens.shape, np.int64)
    for row, column in np.ndindex(*tokens.shape):
        seen = tokens[row, starts[row, column] : column + 1].tolist()
        label = labels[row, column]
        if label < 0 or len(seen) < n - 1:
            continue
        ngram = [*seen[len(seen) - (n - 1) :], label]
        for end in range(n, len(seen) + 1):
            if seen[end - n : end] == ngram:
                found[row, column] = len(seen) + 1 - end
    return found


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    shape, vocabulary = (draw.integers(1, 4), draw.integers(1, 40)), draw.integers(1, 6)
    tokens = draw.integers(vocabulary, size=shape)
    # As the data pipeline has them, or any.
    labels = np.roll(tokens, -1, 1) if seed % 2 else draw.integers(vocabulary, size=shape)
    labels[draw.random(shape) < 0.1] = -100
    starts = np.maximum.accumulate(np.where(draw.random(shape) < 0.1, np.arange(shape[1]), 0), 1)
    return tokens, labels, starts


@pytest.mark.parametrize("seeds", [range(first, first + 50) for first in range(0, 200, 50)], ids=str)
def test_repetitions_are_those_of_a_search_through_each_document(seeds: range) -> None:
    lengths = np.zeros(9, np.int64)
    for seed in seeds:
        tokens, labels, starts = drawn(seed)
        for n, found in zip((2, 4, 8), repeat_distances(tokens, labels, starts, 3), strict=True):
            np.testing.assert_array_equal(found, looked_through(tokens, labels, starts, n))
            lengths[n] += (found > 0).sum()
    assert lengths[[2, 4, 8]].all(), "some of each"


def test_what_another_document_has_had_or_what_comes_later_is_no_repetition() -> None:
    tokens = np.array([[7, 8, 9, 7, 8, 9, 7]])
    labels = np.array([[8, 9, -100, 8, 9, 7, 8]])
    one, two = np.zeros((1, 7), np.int64), np.array([[0, 0, 0, 3, 3, 3, 3]])
    assert next(repeat_distances(tokens, labels, one, 1)).tolist() == [[0, 0, 0, 3, 3, 3, 3]]
    assert next(repeat_distances(tokens, labels, two, 1)).tolist() == [[0, 0, 0, 0, 0, 0, 3]]


def test_large_vocabularies_are_told_apart() -> None:
    """Pairs of 31-bit numbers, which 32 bits do not hold."""
    largest = 2**31 - 2
    tokens = np.array([[largest, 0, 0, largest, largest, 0]])
    found = next(repeat_distances(tokens, np.roll(tokens, -1, 1), np.zeros_like(tokens), 1))
    assert found.tolist() == [[0, 0, 0, 0, 4, 3]]


def test_a_long_sequence_takes_milliseconds() -> None:
    """A model takes a tenth of a second for as many tokens on the fastest GPU; here it is 15 ms. Quadratic: minutes."""
    tokens = np.random.default_rng(0).zipf(1.2, (1, 32_768)) % 32_768
    begin = time.process_time()
    list(repeat_distances(tokens, np.roll(tokens, -1, 1), np.zeros_like(tokens), 2))
    assert time.process_time() - begin < 1
