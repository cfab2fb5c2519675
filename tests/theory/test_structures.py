"""Costs follow from the sparsity of A and B, and the mixers agree with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glm_kernels.patterns import PatternError
from glm_scale.theory import parse_structure
from glm_scale.theory.plots import uniform_weights
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
    structure = parse_structure(spelling)
    A, B = uniform_weights(structure, 40)
    assert structure.input_entries(40).tolist() == np.count_nonzero(A, axis=1).tolist()
    assert structure.output_entries(40).tolist() == np.count_nonzero(B, axis=1).tolist()
    assert structure.reads(40).tolist() == (np.count_nonzero(A, 1) + np.count_nonzero(B, 1) - 1).tolist()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_uniform_weights_average_the_inputs(spelling: str) -> None:
    A, B = uniform_weights(parse_structure(spelling), 40)
    assert np.array_equal(A, np.tril(A))
    assert np.array_equal(B, np.tril(B, -1))
    mixing = np.linalg.solve(np.eye(40) - B, A)
    nothing = rounding(torch.float64, 40)  # of a row: sums of up to 40 numbers, none of them larger than one
    assert mixing.min() >= -nothing
    np.testing.assert_allclose(mixing.sum(axis=1), 1, rtol=0, atol=nothing)


def test_flops_of_a_worked_example() -> None:
    # Four rows, keys of 2 and values of 3: an entry costs 2·(2 + 3) = 10 FLOPs.
    assert parse_structure("attention").flops_per_token(4, 2, 3) == 10 * (1 + 2 + 3 + 4) / 4
    assert parse_structure("dense").flops_per_token(4, 2, 3) == 10 * (0 + 1 + 2 + 3) / 4
    assert parse_structure("local:2").flops_per_token(4, 2, 3) == 10 * (1 + 2 + 2 + 2) / 4
    assert parse_structure("window:1").flops_per_token(4, 2, 3) == 10 * 3 / 4
    assert parse_structure("offsets:2^k").flops_per_token(4, 2, 3) == 10 * (0 + 1 + 2 + 2) / 4
    assert parse_structure("ssm").flops_per_token(4, 2, 3) == 4 * 2 * 3
    both = parse_structure("local:2 > window:1").flops_per_token(4, 2, 3)
    assert both == 10 * (1 + 2 + 2 + 2 + 3) / 4


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_mixers_count_the_same_flops(spelling: str) -> None:
    from glm_scale.layers.rotary import Rotary
    from glm_scale.mixers.contract import MixerDims
    from glm_scale.mixers.registry import parse_mixer

    dims = MixerDims(width=32, heads=2, head_dim=16, state_dim=16, rotary=Rotary(16, 10_000.0), norm_eps=1e-5)
    mixer = parse_mixer(spelling).build(dims)
    mixing = {n: 2 * parse_structure(spelling).flops_per_token(n, 16, 16) for n in (64, 192)}
    # What remains, the projections, does not depend on the length.
    rest = {n: mixer.flops_per_token(n) - mixing[n] for n in mixing}
    assert rest[64] == pytest.approx(rest[192])
    assert rest[64] > 0


def test_cache_is_what_a_decoder_holds() -> None:
    held = {s: parse_structure(s).cache_rows(4096, 64) for s in ("attention", "local:16", "ssm", "window:16", "dense")}
    assert held == {"attention": 4096, "local:16": 15, "ssm": 64, "window:16": 16, "dense": 4096}
    assert parse_structure("offsets:2^k").cache_rows(4096, 64) == 4096
    assert parse_structure("lattice:2^k").cache_rows(4096, 64) == 13
    assert parse_structure("lattice:k^2+1").cache_rows(3000, 64) == 42
    assert parse_structure("local:16 > lattice:2^k").cache_rows(4096, 64) == 15 + 13
    assert parse_structure("window:16").cache_rows(5, 64) == 5


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        (" attention ", "attention"),
        ("local:064", "local:64"),
        ("lattice: k^2 + 1", "lattice:k^2+1"),
        ("local:8>lattice:2^k", "local:8 > lattice:2^k"),
        ("attention > ssm", "attention > ssm"),
    ],
)
def test_spellings_have_one_name(spelling: str, name: str) -> None:
    assert str(parse_structure(spelling)) == name


@pytest.mark.parametrize(
    ("spelling", "reason"),
    [
        ("mamba", "unknown structure 'mamba'; known are attention, local:w, ssm"),
        ("attention:3", "attention takes no argument"),
        ("local", "whole number of rows ≥ 1"),
        ("local:0", "whole number of rows ≥ 1"),
        ("lattice:k^2", r"f\(0\) = 0"),
        ("lattice:2^k > local:4", "only attention, local:w can stand before '>', not 'lattice:2"),
        ("local:4 > local:4", "unknown structure 'local:4'"),
        ("local:4 >", "unknown structure ''"),
        ("", "unknown structure ''"),
    ],
)
def test_a_structure_that_is_none_says_why(spelling: str, reason: str) -> None:
    with pytest.raises(PatternError, match=reason):
        parse_structure(spelling)
