"""Costs follow from the sparsity of A and B, and mixers count by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glm_scale.mixers import parse_mixer
from glm_scale.theory.plots import uniform_weights
from tests.theory.structures import structure_of
from tests.tolerances import rounding

SPELLINGS = [
    "attention",
    "local:5",
    "ssm",
    "window:3",
    "dense",
    "offsets:2^k",
    "lattice:2^k",
    "lattice:k^2+1",
    "local:4 > lattice:2^k",
    "attention > window:2",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_entries_count_the_matrices(spelling: str) -> None:
    structure = structure_of(spelling)
    A, B = uniform_weights(structure, 40)
    assert structure.input_entries(40).tolist() == np.count_nonzero(A, axis=1).tolist()
    assert structure.output_entries(40).tolist() == np.count_nonzero(B, axis=1).tolist()
    assert structure.reads(40).tolist() == (np.count_nonzero(A, 1) + np.count_nonzero(B, 1) - 1).tolist()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_uniform_weights_average_the_inputs(spelling: str) -> None:
    A, B = uniform_weights(structure_of(spelling), 40)
    assert np.array_equal(A, np.tril(A))
    assert np.array_equal(B, np.tril(B, -1))
    mixing = np.linalg.solve(np.eye(40) - B, A)
    nothing = rounding(torch.float64, 40)  # of a row: sums of up to 40 numbers, none of them larger than one
    assert mixing.min() >= -nothing
    np.testing.assert_allclose(mixing.sum(axis=1), 1, rtol=0, atol=nothing)


def test_flops_of_a_worked_example() -> None:
    # Four rows, keys of 2 and values of 3: an entry costs 2·(2 + 3) = 10 FLOPs.
    assert structure_of("attention").flops_per_token(4, 2, 3) == 10 * (1 + 2 + 3 + 4) / 4
    assert structure_of("dense").flops_per_token(4, 2, 3) == 10 * (0 + 1 + 2 + 3) / 4
    assert structure_of("local:2").flops_per_token(4, 2, 3) == 10 * (1 + 2 + 2 + 2) / 4
    assert structure_of("window:1").flops_per_token(4, 2, 3) == 10 * 3 / 4
    assert structure_of("offsets:2^k").flops_per_token(4, 2, 3) == 10 * (0 + 1 + 2 + 2) / 4
    assert structure_of("ssm:2").flops_per_token(4, 2, 3) == 4 * 2 * 3
    assert structure_of("kda:2").flops_per_token(4, 2, 3) == 6 * 2 * 3
    assert structure_of("gated_deltanet:2").flops_per_token(4, 2, 3) == 6 * 2 * 3
    both = structure_of("local:2 > window:1").flops_per_token(4, 2, 3)
    assert both == 10 * (1 + 2 + 2 + 2 + 3) / 4


def test_matrices_are_told_in_a_word() -> None:
    words = {spelling: structure_of(spelling).matrices for spelling in SPELLINGS}
    assert words == {
        "attention": ("dense", "none"),
        "local:5": ("band 5", "none"),
        "ssm": ("diag", "band 1"),
        "window:3": ("diag", "band 3"),
        "dense": ("diag", "dense"),
        "offsets:2^k": ("diag", "i−f(k)"),
        "lattice:2^k": ("diag", "lattice"),
        "lattice:k^2+1": ("diag", "lattice"),
        "local:4 > lattice:2^k": ("band 4", "lattice"),
        "attention > window:2": ("dense", "band 2"),
    }
    assert parse_mixer("log_linear").structure is None


def test_cache_is_what_a_decoder_holds() -> None:
    held = {s: structure_of(s).cache_rows(4096) for s in ("attention", "local:16", "ssm", "window:16", "dense")}
    assert held == {"attention": 4096, "local:16": 15, "ssm": 64, "window:16": 16, "dense": 4096}
    assert structure_of("offsets:2^k").cache_rows(4096) == 4096
    assert structure_of("lattice:2^k").cache_rows(4096) == 13
    assert structure_of("lattice:k^2+1").cache_rows(3000) == 42
    assert structure_of("local:16 > lattice:2^k").cache_rows(4096) == 15 + 13
    assert structure_of("window:16").cache_rows(5) == 5
