"""Sampling: tokens are drawn with the probabilities that its definition says, and a chance decides which."""

import pytest
import torch

from glm_scale.inference.sampling import Sampling, draw, random_numbers

PROBABILITIES = torch.tensor([0.1, 0.4, 0.2, 0.3])


def drawn(**sampling):
    chances = random_numbers(0, 4000, 1)[:, 0]
    tokens = draw(PROBABILITIES.log().expand(4000, -1), Sampling(**sampling), chances)
    return (tokens.bincount(minlength=4) / 4000).tolist()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 0.0}, [0, 1, 0, 0]),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 9}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 0.65}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 1e-6}, [0, 1, 0, 0]),
        ({"top_k": 3, "top_p": 0.4}, [0, 1, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_the_documented_probabilities(sampling, expected):
    assert drawn(**sampling) == pytest.approx(expected, abs=0.03)


def test_documents_are_drawn_for_one_by_one():
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [-torch.inf, 0.0, 0.0]])
    assert draw(logits, Sampling(), torch.tensor([0.4, 0.6])).tolist() == [0, 2]


@pytest.mark.parametrize("chance", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("sampling", [{}, {"top_k": 2}, {"top_p": 0.5}])
def test_tokens_without_probability_are_never_drawn(chance, sampling):
    logits = torch.full((1, 1000), -torch.inf)
    logits[0, [5, 700]] = 0.0
    (token,) = draw(logits, Sampling(**sampling), torch.tensor([chance])).tolist()
    assert token in (5, 700)


def test_the_seed_decides_all_chances():
    assert torch.equal(random_numbers(3, 10, 2), random_numbers(3, 10, 2))
    assert not torch.equal(random_numbers(3, 10, 2), random_numbers(4, 10, 2))
