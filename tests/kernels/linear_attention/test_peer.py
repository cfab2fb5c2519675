"""Which calls flash-linear-attention's kernels take, and what they are given."""

import logging
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glm_kernels import fla
from glm_kernels.linear_attention import peer
from tests.kernels.linear_attention.cases import mixed, operands
from tests.kernels.operands import packed_starts
from tests.tolerances import assert_close

pytestmark = pytest.mark.numeric


@pytest.fixture
def there(monkeypatch):
    """As if fla could be had and trusted."""
    monkeypatch.setattr(fla, "why_not", lambda name: None)
    peer._tell.cache_clear()


def reason(name, key_dim=64, value_dim=64, dtype=torch.float32, packed_state=False):
    return peer._why_not(name, dtype, key_dim, value_dim, packed_state)


def test_sizes_and_calls_that_it_does_not_take_are_told(there):
    assert reason("kda") is None
    assert "K = 512" in str(reason("gla", key_dim=512))
    assert "float64" in str(reason("gla", dtype=torch.float64))
    assert "packed documents" in str(reason("gla", packed_state=True))
    assert "K = 48 and V = 64" in str(reason("log_linear", key_dim=48))
    assert "V = 24" in str(reason("log_linear", value_dim=24))
    assert reason("gla", key_dim=48, value_dim=24) is None


def test_deterministic_algorithms_are_ours(there):
    torch.use_deterministic_algorithms(True)
    try:
        assert "autotuner" in str(reason("kda"))
    finally:
        torch.use_deterministic_algorithms(False)


def test_on_a_gpu_a_line_says_why_ours_are_taken_once(monkeypatch, caplog):
    monkeypatch.setattr(fla, "why_not", lambda name: "it is known to be wrong")
    peer._tell.cache_clear()
    q: Any = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, shape=(1, 1, 1, 64))
    with caplog.at_level(logging.INFO, "glm_kernels"):
        for _ in range(2):
            assert not peer.serves("kda", q, q, "auto")
    assert caplog.messages == ["kda runs in torch and not on flash-linear-attention's kernels: it is known to be wrong"]


@pytest.mark.parametrize("served", [False, True])
def test_a_compiler_is_told_the_answer(monkeypatch, served):
    monkeypatch.setattr(fla, "why_not", lambda name: None if served else "it is known to be wrong")
    peer._tell.cache_clear()
    torch._dynamo.reset()

    def chosen(q):
        return q * 3 if peer._why_not("kda", q.dtype, q.shape[3], q.shape[3], False) is None else q * 2

    q = torch.ones(1, 2, 1, 64)
    assert torch.equal(torch.compile(chosen, backend="eager", fullgraph=True)(q), q * (3 if served else 2))


@pytest.mark.parametrize("packed", [False, True])
def test_documents_and_states_reach_it_as_it_takes_them(there, monkeypatch, packed):
    """Played by ours, document by document."""

    def played(q, k, v, g, beta, scale, cu_seqlens=None, initial_state=None, output_final_state=False):
        inputs, options = [q, k, v, g, beta], {"scale": scale, "backend": "torch"}
        if cu_seqlens is None:
            return mixed("kda", inputs, initial_state=initial_state, output_final_state=output_final_state, **options)
        bounds = cu_seqlens.tolist()
        lengths = [end - begin for begin, end in pairwise(bounds)]
        pieces = zip(*(x.split(lengths, 1) for x in inputs), strict=True)
        return torch.cat([mixed("kda", list(piece), **options)[0] for piece in pieces], 1), None

    monkeypatch.setattr(fla, "operator", lambda name: {"kda": played}[name])
    inputs = [x.detach().float() for x in operands("kda", 2, 30)]
    options = (
        {"document_starts": packed_starts(2, 30, 3)}
        if packed
        else {"initial_state": torch.randn(2, 2, 4, 3), "output_final_state": True}
    )
    found, expected = (mixed("kda", inputs, backend=backend, **options) for backend in ("fla", "torch"))
    assert_close(found[0], expected[0], 1e-5)
    assert packed or torch.equal(found[1], expected[1])
