"""Triton's kernels for many live tokens: on CPU their logic in the interpreter, on GPU the real thing."""

import itertools

import pytest
import torch

from glm_kernels import parse_pattern
from glm_kernels.kernel_interface import RecurrenceCall
from glm_kernels.triton_backend.chained import launch
from tests.kernels.exactness import kernel_errors, same
from tests.kernels.operands import DEVICE, each, kernel_state, operands, packing_of


def float32(batch, length, heads, key_dim, value_dim):
    return operands(batch, length, heads, key_dim, value_dim, dtype=torch.float32, device=DEVICE)


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of 16 rows, runs of two: a few dozen rows then make a chain with rows that are older than a chunk."""
    monkeypatch.setattr(launch, "_configuration", lambda *_: launch._Configuration(chunk=16, tile=16))
    monkeypatch.setattr(launch, "_SHORTEST_RUN", 2)
    monkeypatch.setattr(launch, "_LONGEST_RUN", 2)


@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize(
    ("spelling", "packing"),
    [
        *itertools.product(["window:40", "lattice:k^2+1"], ["none", "document_starts", "cu_seqlens"]),
        ("window:12", "document_starts"),  # without a state nothing is older than a chunk
    ],
)
def test_float32_equals_the_reference(spelling, packing, continued, short_chunks):
    length, batch = 53, 2 if packing == "document_starts" else 1
    given = packing_of(packing, batch, length, 2, device=DEVICE)
    positions = [17, 40, 0][: 3 if packing == "cu_seqlens" else batch]
    state = kernel_state(parse_pattern(spelling), positions) if continued else None
    assert max(kernel_errors(launch, float32(batch, length, 1, 12, 20), spelling, state, **given)) <= same(length)


@pytest.mark.parametrize("length", [1, 16, 33, 65])
@pytest.mark.parametrize("value_dim", [16, 64])
def test_lengths_of_few_chunks(length, value_dim, short_chunks):
    """Rows of 64 numbers are not padded: their z arrives by itself."""
    assert max(kernel_errors(launch, float32(1, length, 2, 16, value_dim), "lattice:k^2+1")) <= same(length)


@pytest.mark.parametrize("spelling", ["lattice:k^2+1", "window:90"])
def test_gradients_pass_through_several_runs(spelling, short_chunks, monkeypatch):
    """With sums that are carried through a whole run, and rows that outlive more than one."""
    monkeypatch.setattr(launch, "_SHORTEST_RUN", 4)
    monkeypatch.setattr(launch, "_LONGEST_RUN", 4)
    assert max(kernel_errors(launch, float32(2, 170, 1, 16, 16), spelling)) <= same(170)


def test_more_documents_than_can_carry_anything(short_chunks):
    """What they carry is then told apart by the rows at which they start."""
    bounds = torch.tensor([0, 1, 2, 3, 50, 50, 53, 100], dtype=torch.int32, device=DEVICE)
    errors = kernel_errors(launch, float32(1, 100, 1, 16, 16), "lattice:k^2+1", cu_seqlens=bounds)
    assert max(errors) <= same(100)


def test_windows_of_one_chunk_carry_nothing(short_chunks):
    configuration = launch._configuration(torch.float32, 16)
    assert launch._tiles_needed(parse_pattern("window:16"), 100, False, configuration) == 0
    assert launch._tiles_needed(parse_pattern("window:17"), 100, False, configuration) == 2


def test_what_the_kernels_cannot_serve_is_said():
    def reason(spelling, length):
        inputs = (torch.empty(1, length, 1, 16, device="meta"),) * 3 + (torch.empty(1, length, 1, device="meta"),)
        return launch.why_not(RecurrenceCall(*inputs, parse_pattern(spelling), 1.0, None, None, None))

    assert reason("offsets:2^k", 8) == "offsets:2^k is not a lifetime pattern"
    assert reason("dense", 8) == "dense has more than 1024 live rows after 8 tokens"
    assert reason("window:2000", 4096) == "window:2000 has more than 1024 live rows after 4096 tokens"
    assert reason("lattice:k^2+1", 4096) is None


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter has no real bfloat16")
@pytest.mark.parametrize("spelling", ["window:64", "window:100", "lattice:k^2+1"])
@pytest.mark.parametrize("widths", [(128, 128), (80, 100), (256, 64)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_dtype_on_a_gpu(spelling, widths, dtype):
    packing = packing_of("document_starts", 2, 1000, 5, device=DEVICE)
    inputs = operands(2, 1000, 2, *widths, dtype=dtype, device=DEVICE)
    y_error, *errors = kernel_errors(launch, inputs, spelling, **packing)
    # As measured on GPUs: what is rounded to a short dtype loses at most the last digit of bf16.
    assert y_error < (1e-5 if dtype == torch.float32 else 3.3e-3)
    assert max(errors) < (1e-4 if dtype == torch.float32 else 3.3e-3)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="programs of the interpreter run one after the other")
@pytest.mark.parametrize("spelling", ["window:64", "lattice:k^2+1"])
def test_every_run_gives_the_same_bits(spelling):
    inputs = each(torch.Tensor.detach, operands(2, 4096, 16, 128, 128, dtype=torch.bfloat16, device=DEVICE))
    grad = torch.randn_like(inputs[2])
    call = RecurrenceCall(*inputs, parse_pattern(spelling), 128**-0.5, None, None, None)

    def results():
        y, lse, residual = launch.forward(call)
        return [y, *launch.backward(call, y, grad, lse, residual)]

    first = results()
    assert all(all(map(torch.equal, first, results())) for _ in range(5))
