"""Every bad argument is refused before anything runs: a ValueError that names it, what was found and the rule."""

import re

import pytest
import torch

from glm_kernels import RecurrenceState, attention_step, recurrence, recurrence_step, ssm, ssm_step
from glm_kernels.patterns import PatternError


def rows(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(*shape, dtype=dtype, device=device)


def state(documents=1, heads=2, slots=3, key_dim=4, value_dim=3, position=5, dtype=torch.float32):
    shape = (documents, heads, slots)
    position = torch.full((documents,), position)
    return RecurrenceState(rows(*shape, key_dim, dtype=dtype), rows(*shape, value_dim, dtype=dtype), position)


OPERANDS = [
    ({"q": rows(8, 2, 4)}, "q must have shape [B, T, H, K] with every size ≥ 1, got [8, 2, 4]"),
    ({"q": rows(1, 0, 2, 4)}, "every size ≥ 1, got [1, 0, 2, 4]"),
    ({"q": rows(0, 8, 2, 4)}, "every size ≥ 1, got [0, 8, 2, 4]"),
    ({"q": rows(1, 8, 0, 4)}, "every size ≥ 1, got [1, 8, 0, 4]"),
    ({"k": rows(1, 8, 2, 5)}, "k must have shape [1, 8, 2, 4] to go with q [1, 8, 2, 4], got [1, 8, 2, 5]"),
    ({"k": rows(1, 8, 1, 4)}, "k must have shape [1, 8, 2, 4] to go with q [1, 8, 2, 4], got [1, 8, 1, 4]"),
    ({"v": rows(1, 7, 2, 3)}, "v must have shape [1, 8, 2, V ≥ 1] to go with q [1, 8, 2, 4], got [1, 7, 2, 3]"),
    ({"v": rows(1, 8, 2, 0)}, "v must have shape [1, 8, 2, V ≥ 1] to go with q [1, 8, 2, 4], got [1, 8, 2, 0]"),
    ({"v": rows(1, 8, 2)}, "v must have shape [1, 8, 2, V ≥ 1]"),
    ({"k": rows(1, 8, 2, 4, dtype=torch.float64)}, "k is torch.float64 on cpu, but q is torch.float32 on cpu"),
    ({"v": rows(1, 8, 2, 3, device="meta")}, "v is torch.float32 on meta, but q is torch.float32 on cpu"),
    ({"v": rows(1, 8, 2, 3, dtype=torch.int64)}, "v must be a floating tensor, got torch.int64"),
    ({"scale": float("nan")}, "scale = nan; it must be finite"),
    ({"scale": float("inf")}, "scale = inf; it must be finite"),
]

PACKING = [
    ({"cu_seqlens": torch.tensor([0, 5, 3, 8])}, "cu_seqlens must not decrease, start at 0 and end at T = 8"),
    ({"cu_seqlens": torch.tensor([0, 5, 9])}, "end at T = 8; got [0, 5, 9]"),
    ({"cu_seqlens": torch.tensor([1, 8])}, "start at 0 and end at T = 8; got [1, 8]"),
    ({"cu_seqlens": torch.tensor([0.0, 8.0])}, "cu_seqlens must be int32 or int64, got torch.float32"),
    ({"cu_seqlens": torch.tensor([8])}, "cu_seqlens must be one-dimensional with documents + 1 entries, got shape [1]"),
    (
        {"cu_seqlens": torch.tensor([[0, 8]])},
        "cu_seqlens must be one-dimensional with documents + 1 entries, got shape [1, 2]",
    ),
    ({"cu_seqlens": torch.tensor([0, 8], device="meta")}, "cu_seqlens must be on cpu like q, or on cpu, got meta"),
    ({"cu_seqlens": torch.tensor([0, 8]), "document_starts": torch.zeros(1, 8).int()}, "not both"),
    ({"document_starts": torch.zeros(1, 8)}, "document_starts must be int32 or int64, got torch.float32"),
    ({"document_starts": torch.zeros(8).int()}, "document_starts must have shape [B, T] = [1, 8], got [8]"),
    ({"document_starts": torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])}, "document_starts[0, 3] = 1"),
    ({"document_starts": torch.tensor([[0, 0, 0, 3, 3, 0, 0, 0]])}, "document_starts[0, 5] = 0"),
    ({"document_starts": torch.tensor([[1, 1, 2, 3, 3, 3, 3, 3]])}, "document_starts[0, 0] = 1"),
]

RECURRENCE = [
    *OPERANDS,
    *PACKING,
    ({"d": rows(1, 8)}, "d must have shape [1, 8, 2] to go with q [1, 8, 2, 4], got [1, 8]"),
    ({"d": rows(1, 8, 2, dtype=torch.float16)}, "d is torch.float16 on cpu, but q is torch.float32 on cpu"),
    ({"backend": "cuda"}, "backend = 'cuda'; allowed are auto, triton, torch, reference"),
    ({"pattern": "lattice:1+k-k^2"}, "f must increase strictly"),
    ({"pattern": "offsets:5"}, "f must increase strictly"),
    ({"pattern": "lattce:2^k"}, "unknown pattern 'lattce:2^k'; known are window:w, dense, lattice:f and offsets:f"),
    ({"pattern": "window:0"}, "whole number of rows ≥ 1"),
    ({"initial_state": state(slots=2)}, "S ≥ 3 slots for lattice:2^k after 5 tokens, got [1, 2, 2, 4]"),
    ({"initial_state": state(position=-1)}, "the state's position must be ≥ 0, got -1"),
    ({"initial_state": state(documents=2)}, "the state's position must have shape [1]"),
    ({"initial_state": state(heads=1)}, "the state's k must have shape [N, H, S, K] = [1, 2, S, 4], got [1, 1, 3, 4]"),
    ({"initial_state": state(value_dim=4)}, "the state's y must have shape [N, H, S, V] = [1, 2, S, 3]"),
    ({"initial_state": state()._replace(y=rows(1, 2, 4, 3))}, "k has 3 slots and its y 4; they must agree"),
    ({"initial_state": state(dtype=torch.int8)}, "the state's k must be float32, or float64 in float64 work"),
    ({"initial_state": state()._replace(k=rows(1, 2, 3, 4, device="meta"))}, "the state's k must be on cpu like q"),
    ({"initial_state": state()._replace(position=rows(1))}, "integers, got [1] of torch.float32"),
]

SSM = [
    *OPERANDS,
    *PACKING,
    ({"log_decay": rows(1, 8)}, "log_decay must have shape [1, 8, 2] to go with q [1, 8, 2, 4], got [1, 8]"),
    ({"backend": "gpu"}, "backend = 'gpu'; allowed are auto, triton, torch, reference"),
    ({"initial_state": rows(2, 2, 4, 3)}, "the state must have shape [N, H, K, V] = [1, 2, 4, 3], got [2, 2, 4, 3]"),
    ({"initial_state": rows(1, 2, 4, 3, dtype=torch.bfloat16)}, "the state must be float32"),
    ({"initial_state": rows(1, 2, 4, 3, device="meta")}, "the state must be on cpu like q, got meta"),
]


def arguments(length=8):
    return {"q": rows(1, length, 2, 4), "k": rows(1, length, 2, 4), "v": rows(1, length, 2, 3)}


def names(table):
    return [message for _, message in table]


@pytest.mark.parametrize(
    ("bad", "message"), OPERANDS + PACKING + RECURRENCE, ids=names(OPERANDS + PACKING + RECURRENCE)
)
@pytest.mark.parametrize("backend", ["auto", "triton", "reference"])
def test_recurrence(bad, message, backend):
    given = {**arguments(), "d": rows(1, 8, 2), "pattern": "lattice:2^k", "backend": backend}
    with pytest.raises(ValueError, match=re.escape(message)):
        recurrence(**(given | bad))


@pytest.mark.parametrize(("bad", "message"), SSM, ids=names(SSM))
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_ssm(bad, message, backend):
    given = {**arguments(), "log_decay": rows(1, 8, 2), "backend": backend}
    with pytest.raises(ValueError, match=re.escape(message)):
        ssm(**(given | bad))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"k": rows(1, 1, 1, 4)}, "k must have shape [1, 1, 2, 4] to go with q [1, 1, 2, 4], got [1, 1, 1, 4]"),
        ({"v": rows(1, 1, 2, 3).double()}, "v is torch.float64 on cpu, but q is torch.float32 on cpu"),
        ({"scale": float("inf")}, "scale = inf; it must be finite"),
    ],
)
def test_steps(bad, message):
    given = arguments(1)
    with pytest.raises(ValueError, match=re.escape(message)):
        recurrence_step(**({**given, "d": rows(1, 1, 2), "pattern": "lattice:2^k", "state": state()} | bad))
    with pytest.raises(ValueError, match=re.escape(message)):
        ssm_step(**({**given, "log_decay": rows(1, 1, 2), "state": rows(1, 2, 4, 3)} | bad))
    # Of attention several heads may have a key together.
    if "k" not in bad:
        with pytest.raises(ValueError, match=re.escape(message)):
            attention_step(**({**given, "state": state()} | bad))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"k": rows(1, 1, 3, 4)}, "k has 3 heads, which cannot be shared by the 2 heads of q"),
        ({"k": rows(1, 1, 1, 4)}, "v must have shape [1, 1, 1, V ≥ 1] to go with q [1, 1, 1, 4], got [1, 1, 2, 3]"),
    ],
)
def test_keys_and_values_that_heads_cannot_share(bad, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        attention_step(**({**arguments(1), "state": state()} | bad))


@pytest.mark.parametrize(
    ("angles", "message"),
    [
        ((rows(2, 1, 1, 2), rows(1, 1, 1, 2)), "the cosines must have shape [N or 1, 1, 1, K / 2] to go with q [1, 1"),
        ((rows(1, 1, 1, 2), rows(1, 1, 1, 3)), "the sines must have shape"),
        ((rows(1, 1, 1, 2), rows(1, 1, 1, 2).double()), "the sines must be float32 on cpu like q, got torch.float64"),
    ],
)
def test_angles(angles, message):
    given = {**arguments(1), "state": state(), "angles": angles}
    with pytest.raises(ValueError, match=re.escape(message)):
        recurrence_step(**given, d=rows(1, 1, 2), pattern="lattice:2^k")
    with pytest.raises(ValueError, match=re.escape(message)):
        attention_step(**given)


def test_steps_take_one_token():
    with pytest.raises(ValueError, match=re.escape("one token (T = 1), got T = 8; use attention for more")):
        attention_step(**arguments(), state=state())
    with pytest.raises(ValueError, match=re.escape("one token (T = 1), got T = 8; use recurrence for more")):
        recurrence_step(**arguments(), d=rows(1, 8, 2), pattern="dense", state=state())
    with pytest.raises(ValueError, match=re.escape("one token (T = 1), got T = 8; use ssm for more")):
        ssm_step(**arguments(), log_decay=rows(1, 8, 2), state=rows(1, 2, 4, 3))


def test_a_pattern_error_is_a_value_error():
    assert issubclass(PatternError, ValueError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": torch.float64}, "q is torch.float64; supported are float32, bfloat16 and float16"),
        ({"width": 257}, "K = 257 and V = 257; the largest width is 256"),
    ],
)
def test_triton_says_what_it_does_not_serve(change, message):
    made = {"dtype": torch.float32, "width": 16} | change
    shape = (1, 8, 1, made["width"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    q, k, v, d = (rows(*size, dtype=made["dtype"]).to(device) for size in (shape, shape, shape, shape[:3]))
    with pytest.raises(ValueError, match=re.escape(f"backend = 'triton' cannot serve this call: {message}")):
        recurrence(q, k, v, d, "lattice:2^k", backend="triton")


def test_triton_needs_a_gpu_unless_it_is_interpreted(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="q is on cpu, and Triton needs a GPU; use backend = 'auto'"):
        recurrence(**arguments(), d=rows(1, 8, 2), pattern="lattice:2^k", backend="triton")
