"""The Triton kernels of the SSM: on CPU their logic in the interpreter, on GPU the real thing."""

import pytest
import torch

from glm_kernels import reference
from glm_kernels.documents import documents_of
from glm_kernels.kernel_interface import SSMCall
from glm_kernels.torch_backend import ssm as torch_ssm
from glm_kernels.triton_backend.ssm import launch
from tests.kernels.operands import DEVICE, each, packed_starts, packing_of
from tests.tolerances import assert_pass_close, pass_errors, rounding

SCALE = 0.3


def operands(batch, length, heads, key_dim, value_dim, dtype, carried=0, decay_dtype=torch.float32):
    """q, k, v, log_decay and, for `carried` documents, a state."""
    generator = torch.Generator().manual_seed(length)
    widths = [(key_dim,), (key_dim,), (value_dim,), ()]
    q, k, v, a = (torch.randn(batch, length, heads, *width, generator=generator) for width in widths)
    rates = torch.logspace(-3, 0.3, heads)  # every head forgets at a rate of its own
    state = [torch.randn(carried, heads, key_dim, value_dim, generator=generator)] if carried else []
    made = [q.to(dtype), k.to(dtype), v.to(dtype), (-a.abs() * rates).to(decay_dtype), *state]
    return [x.to(DEVICE) for x in made]


def expected(inputs, packing, final_grad, grad):
    """y, the final state and the gradients by the reference in float64."""
    leaves = [x.double().requires_grad_() for x in inputs]
    q, k, v, a, *state = leaves
    documents = documents_of(
        q.shape[0], q.shape[1], packing.get("cu_seqlens"), packing.get("document_starts"), q.device
    )
    y, final = reference.ssm(q, k, v, a, SCALE, documents, state[0] if state else None, True)
    assert final is not None
    loss = (y * grad.double()).sum()
    if final_grad is not None:
        loss = loss + (final * final_grad.double()).sum()
    return [y.detach(), final.detach(), *torch.autograd.grad(loss, leaves)]


def relative_errors(inputs, packing=None, with_final=True):
    """Relative RMS errors of y, the final state and the gradients of q, k, v, log_decay and the state."""
    packing = packing or {}
    q, k, v, a, *state = inputs
    documents = len(packing["cu_seqlens"]) - 1 if packing.get("cu_seqlens") is not None else len(q)
    generator = torch.Generator().manual_seed(7)
    grad = torch.randn(v.shape, generator=generator).to(DEVICE, v.dtype)
    final_shape = (documents, q.shape[2], q.shape[3], v.shape[3])
    final_grad = torch.randn(final_shape, generator=generator).to(DEVICE) if with_final else None
    call = SSMCall(
        q, k, v, a, SCALE, packing.get("cu_seqlens"), packing.get("document_starts"), state[0] if state else None,
        with_final,
    )  # fmt: skip
    y, final = launch.forward(call)
    found = [y, final, *launch.backward(call, grad, final_grad)]
    judged = expected(inputs, packing, final_grad, grad)
    assert all(a is None or a.shape == b.shape for a, b in zip(found, judged, strict=True))
    pairs = [(a, b) for a, b in zip(found, judged, strict=True) if a is not None]
    ours, theirs = zip(*pairs, strict=True)
    return pass_errors(ours, theirs, outputs=2)


def same(log_decay):
    """What rounding does in float32: sums over rows and over 20 products, forward and backward. Decays are differences
    of running sums of logarithms over up to 64 rows, whose absolute error becomes the relative one of what they
    weigh."""
    length = log_decay.shape[1]
    size = float(log_decay.abs().sum(1).max()) * min(1, 64 / length)
    return rounding(torch.float32, 4 * (length + 20)) + size * rounding(torch.float32, 64)


@pytest.fixture
def short_segments(monkeypatch):
    """Segments of two chunks, so that a few dozen rows cross several of them."""
    monkeypatch.setattr(launch, "segment_rows", lambda total_rows, programs: 32)


@pytest.mark.parametrize("packing", ["none", "document_starts", "cu_seqlens"])
@pytest.mark.parametrize("continued", [False, True])
def test_float32_equals_the_reference(packing, continued, short_segments):
    batch, length = (1 if packing == "cu_seqlens" else 2), 77
    given = packing_of(packing, batch, length, 3, device=DEVICE)
    carried = (4 if packing == "cu_seqlens" else batch) if continued else 0
    inputs = operands(batch, length, 1 if packing == "none" else 2, 12, 20, torch.float32, carried)
    assert max(relative_errors(inputs, given, with_final=continued)) <= same(inputs[3])


@pytest.mark.parametrize("length", [1, 15, 16, 65])
def test_lengths_shorter_than_a_segment(length):
    inputs = operands(1, length, 1, 16, 16, torch.float32, 1)
    assert max(relative_errors(inputs)) <= same(inputs[3])


def test_only_the_final_state_is_differentiated(short_segments):
    q, k, v, a = operands(1, 40, 1, 16, 16, torch.float32)
    call = SSMCall(q, k, v, a, SCALE, None, None, None, True)
    final_grad = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    exact_k, exact_v, exact_a = leaves = [x.double().requires_grad_() for x in (k, v, a)]
    documents = documents_of(1, 40, None, None, q.device)
    _, final = reference.ssm(q.double(), exact_k, exact_v, exact_a, SCALE, documents, None, True)
    assert final is not None
    expected = torch.autograd.grad((final * final_grad.double()).sum(), leaves)
    dq, *found = launch.backward(call, None, final_grad)
    assert not dq.any()
    assert_pass_close(found, expected, same(a), outputs=0)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kernel", [launch, torch_ssm], ids=["triton", "torch"])
def test_shards_linked_by_their_summaries_equal_the_whole(kernel, packed, short_segments):
    """Forward: the state that enters a shard; backward: the gradient of the state that leaves it."""
    q, k, v, a = operands(2, 96, 1, 16, 16, torch.float32)
    grad = torch.randn(v.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    starts = torch.zeros(2, 96, dtype=torch.int32, device=DEVICE)
    if packed:
        starts[0, 60:], starts[1, 10:], starts[1, 48:] = 60, 10, 48

    def call(begin, end, state=None):
        rows = each(lambda x: x[:, begin:end].contiguous(), (q, k, v, a))
        return SSMCall(*rows, SCALE, None, (starts[:, begin:end] - begin).clamp(min=0), state, True)

    whole = call(0, 96)
    y, final = kernel.forward(whole)
    expected = [y[:, 48:], final, *(x[:, :48] for x in kernel.backward(whole, grad, None))]

    first, second = call(0, 48), call(48, 96)
    # A document that starts at the shard's edge takes nothing over.
    goes_on = (starts[:, 48] < 48)[:, None, None, None]
    _, added = kernel.summary(first.k, first.v, first.log_decay, first.document_starts)
    found = list(kernel.forward(call(48, 96, added * goes_on)))
    _, adjoint = kernel.adjoint_summary(
        second.q, grad[:, 48:].contiguous(), second.log_decay, SCALE, second.document_starts
    )
    found += kernel.backward(first, grad[:, :48].contiguous(), adjoint * goes_on)
    assert_pass_close(found, expected, same(a), outputs=2)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter has no real bfloat16")
@pytest.mark.parametrize("widths", [(128, 128), (80, 100), (256, 64), (16, 256)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_dtype_on_a_gpu(widths, dtype):
    key_dim, value_dim = widths
    packing = {"document_starts": packed_starts(2, 1000, 5).to(DEVICE)}
    y_error, _, *gradient_errors = relative_errors(operands(2, 1000, 2, key_dim, value_dim, dtype, 2), packing)
    # As measured on GPUs: what is rounded to a short dtype loses at most its last digit.
    assert y_error < (1e-5 if dtype == torch.float32 else 3.3e-3)
    assert max(gradient_errors) < (1e-5 if dtype == torch.float32 else 3.3e-3)
