"""The patterns that exported models carry are those of the kernels."""

import pytest
import torch

from glm_kernels import Lifetime, parse_pattern
from glm_kernels.patterns import Lattice, Offsets
from glm_scale.inference.hugging_face.patterns_glm_scale import Pattern, terms

LENGTH = 150
SPELLINGS = [
    "window:1", "window:5", "dense", "lattice:2^k", "lattice:k^2+1", "lattice:k^3+1", "lattice:3^k", "lattice:k+1",
    "lattice:floor(k*log(k+1))+k+1", "lattice:2^k^2", "lattice:2^2^k-1", "offsets:2^k", "offsets:k^2+1",
    "offsets:ceil(sqrt(k)*4)+k+1", "offsets:floor(log2(k+1)*7)+k*2+3", "offsets:(k+1)*(k+2)/2",
    "offsets:8^(k/3)*8^(2*k/3)", "offsets:2^2^k", "offsets:-(-k)^3 + 5",
]  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_rows_read_the_same_rows_and_live_as_long(spelling: str) -> None:
    pattern = parse_pattern(spelling)
    ours = Pattern(str(pattern))
    rows = torch.arange(LENGTH)
    assert torch.equal(ours.reads(rows[:, None], rows, LENGTH), pattern.read_matrix(LENGTH))
    assert not ours.reads(rows[:, None], torch.tensor([-1]), LENGTH).any()
    assert ours.forgets == (isinstance(pattern, Lifetime) and spelling != "dense")
    for length in (1, 64, 133):
        alive = length - rows[:length] <= ours.lives(rows[:length], length)
        assert torch.equal(alive.nonzero().squeeze(1), pattern.live_rows(length))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_functions_have_the_same_values(spelling: str) -> None:
    pattern = parse_pattern(spelling)
    if isinstance(pattern, Lattice | Offsets):
        assert terms(pattern.growth.text, 20_000) == tuple(pattern.growth.terms(20_000))


@pytest.mark.parametrize("text", ["__import__('os')", "k.real", "[k]", "k if k else 1", "open(k)", "2.5"])
def test_what_is_no_function_of_k_is_not_evaluated(text: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        terms(text, 10)
