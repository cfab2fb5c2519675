"""Packed attention: which pieces a batch is cut into, and what their kernels make of it."""

import pytest
import torch
from torch import Tensor

from glm_kernels import Packing, attention
from glm_kernels.attention import packed
from tests.kernels.attention.test_operator import by_definition
from tests.kernels.operands import leaves, packed_starts, values_and_gradients
from tests.tolerances import assert_pass_close, rounding

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")


def starts_at(length: int, *begins: list[int]) -> Tensor:
    """Document starts of sequences in which documents begin at these tokens besides 0."""
    rows = []
    for own in begins:
        row = torch.zeros(length, dtype=torch.int32)
        for begin in own:
            row[begin:] = begin
        rows.append(row)
    return torch.stack(rows)


def test_bounds_are_where_documents_begin() -> None:
    packing = Packing.of(starts_at(10, [], [3, 7], [1]), CPU)
    assert packing.bounds.tolist() == [0, 10, 13, 17, 20, 21, *[30] * 25]
    assert packing.on_host.equal(packing.bounds)


@pytest.mark.parametrize(
    ("begins", "spans"),
    [
        ([[], []], [(0, 2, 0, 10)]),
        ([[], [4], [], []], [(0, 1, 0, 10), (1, 2, 0, 4), (1, 2, 4, 10), (2, 4, 0, 10)]),
        ([[2, 3]], [(0, 1, 0, 2), (0, 1, 2, 3), (0, 1, 3, 10)]),
    ],
)
def test_dense_pieces_are_runs_of_whole_sequences_and_documents(
    begins: list[list[int]], spans: list[tuple[int, ...]]
) -> None:
    packing = Packing.of(starts_at(10, *begins), CPU)
    found = packed.spans_of(packed._begins(packing.on_host, 10 * len(begins)), len(begins), 10)
    assert [tuple(span) for span in found] == spans


def dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """What cuDNN's dense kernel computes."""
    scores = causal_scores(q, k, scale)
    return torch.einsum("bhij,bjhv->bihv", scores.softmax(-1), v), scores.logsumexp(-1, keepdim=True)


def dense_gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, log_sums: Tensor, scale: float
) -> tuple[Tensor, ...]:
    """What its backward kernel computes, of the results of the forward kernel."""
    weights = (causal_scores(q, k, scale) - log_sums).exp()
    of_weights = torch.einsum("bihv,bjhv->bhij", grad, v) - torch.einsum("bihv,bihv->bhi", grad, y)[..., None]
    of_scores = weights * of_weights * scale
    dq = torch.einsum("bhij,bjhk->bihk", of_scores, k)
    return dq, torch.einsum("bhij,bihk->bjhk", of_scores, q), torch.einsum("bhij,bihv->bjhv", weights, grad)


def causal_scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    later = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
    return (torch.einsum("bihk,bjhk->bhij", q, k) * scale).masked_fill(later, -torch.inf)


@pytest.mark.parametrize("cuts", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("grain", [1, 8, 64])
def test_dense_calls_for_documents_make_the_attention_within_them(
    cuts: int, grain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "GRAIN", grain)
    monkeypatch.setattr(packed, "_FEW", 99)
    monkeypatch.setattr(packed, "_dense", dense)
    monkeypatch.setattr(packed, "_dense_gradients", dense_gradients)
    q, k, v = inputs = leaves((3, 40, 2, 4), (3, 40, 2, 4), (3, 40, 2, 4))
    starts = packed_starts(3, 40, cuts)
    expected = values_and_gradients([by_definition(q, k, v, None, starts)], inputs)
    found = values_and_gradients([packed.packed_attention(q, k, v, Packing.of(starts, CPU), None)], inputs)
    # The sums of the softmax are kept in fp32.
    assert_pass_close(found, expected, rounding(torch.float32, 2 * 40))


def test_what_it_does_not_compute_is_left_to_others() -> None:
    q = torch.zeros(1, 4, 1, 8)
    assert packed.why_not_packed(q, q, None) == "it is on no GPU"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "begins",
    [[[], []], [[700], []], [[100, 1500], [1]], [[*range(7, 2048, 90)], [5, 6, 7]]],
    ids=["whole", "one boundary", "few documents", "many documents"],
)
@pytest.mark.parametrize("head", [64, 128])
def test_kernels_are_as_exact_as_their_precision(begins: list[list[int]], head: int) -> None:
    starts = starts_at(2048, *begins)
    q, k, v = inputs = [
        torch.randn(2, 2048, 2, head, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
    ]
    assert packed.why_not_packed(q, v, None) is None
    y = attention(q, k, v, document_starts=starts.cuda(), packing=Packing.of(starts, torch.device("cuda")))
    found = values_and_gradients([y], inputs)
    q, k, v = exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = values_and_gradients([by_definition(q, k, v, None, starts.cuda())], exact)
    for one, other in zip(found, expected, strict=True):
        assert float((one.double() - other).norm() / other.norm()) < 1e-2
