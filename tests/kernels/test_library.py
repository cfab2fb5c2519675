"""The operators as torch.library knows them: schemas, fake tensors, compilers, autocast."""

import itertools
import subprocess
import sys

import pytest
import torch

from glm_kernels import (
    RecurrenceState,
    gated_delta_rule,
    log_linear_attention,
    parse_pattern,
    recurrence,
    ssm,
)
from tests.kernels.operands import leaves, operands, packed_bounds, packed_starts, random_state
from tests.tolerances import assert_pass_close, error, rounding, unit

pytestmark = pytest.mark.numeric

OPERATORS = ["lattice:2^k", "offsets:2^k", "ssm", "kda", "log_linear"]


def mixed(name, q, k, v, gate, **packing):
    """y of an operator by its name."""
    if name == "ssm":
        return ssm(q, k, v, -gate.abs(), **packing)[0]
    if name == "log_linear":
        return log_linear_attention(q, k, v, -gate.abs(), (gate[..., None] * torch.arange(9)).sigmoid(), **packing)[0]
    if name == "kda":
        log_decay = -(gate[..., None] * q.to(gate)).abs()
        keys = torch.nn.functional.normalize(k, dim=3)
        return gated_delta_rule(q, keys, v, log_decay, gate.sigmoid(), **packing)[0]
    return recurrence(q, k, v, gate, name, **packing)[0]


def two_layers(name, q, k, v, gate, starts=None):
    y = mixed(name, torch.nn.functional.silu(q), k, v, gate, document_starts=starts)
    return mixed(name, k.tanh(), k, y * 2, gate + 1, document_starts=starts)


def packings(length, seed=0):
    return {
        "none": (2, {}),
        "document_starts": (2, {"document_starts": packed_starts(2, length, 3, seed)}),
        "cu_seqlens": (1, {"cu_seqlens": packed_bounds(length, 3, seed)}),
    }


@pytest.mark.parametrize("packing", ["none", "document_starts", "cu_seqlens"])
@pytest.mark.parametrize("continued", [False, True])
def test_the_recurrence_is_a_proper_operator(packing, continued):
    batch, given = packings(70)[packing]
    pattern = parse_pattern("lattice:2^k")
    carried = batch if packing != "cu_seqlens" else len(given["cu_seqlens"]) - 1
    state = random_state(pattern, [5, 30, 0, 17][:carried], 2, 4, 3) if continued else [None] * 4
    arguments = (given.get("cu_seqlens"), given.get("document_starts"), *state, "torch")
    torch.library.opcheck(
        torch.ops.glm_kernels.recurrence.default, (*operands(batch, 70), pattern.spelling, 0.5, *arguments)
    )


@pytest.mark.parametrize("packing", ["none", "document_starts", "cu_seqlens"])
@pytest.mark.parametrize("continued", [False, True])
def test_the_ssm_is_a_proper_operator(packing, continued):
    batch, given = packings(70)[packing]
    *inputs, gate = operands(batch, 70)
    carried = batch if packing != "cu_seqlens" else len(given["cu_seqlens"]) - 1
    state = leaves((carried, 2, 4, 3), seed=1)[0] if continued else None
    arguments = (given.get("cu_seqlens"), given.get("document_starts"), state, continued, "torch")
    log_decay = (-gate.detach().abs()).requires_grad_()
    torch.library.opcheck(torch.ops.glm_kernels.ssm.default, (*inputs, log_decay, 0.5, *arguments))


@pytest.mark.exact
def test_the_triton_kernels_are_a_proper_operator():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = [(1, 33, 1, 16)] * 3 + [(1, 33, 1)]
    inputs = [x.detach().to(device).requires_grad_() for x in leaves(*shapes, dtype=torch.float32)]
    torch.library.opcheck(
        torch.ops.glm_kernels.recurrence.default,
        (*inputs, "lattice:2^k", 0.25, *[None] * 6, "triton"),
        # Compiled and not, they add up in the same order but for the additions of atomics.
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


@pytest.mark.parametrize(
    ("name", "packed"),
    [*itertools.product(OPERATORS[:3], [False, True]), ("kda", True), ("log_linear", False)],
)
def test_compiled_layers_have_no_graph_break_and_equal_eager_ones(name, packed):
    """One graph for every length, forward and backward."""
    torch._dynamo.reset()
    compiled = torch.compile(two_layers, fullgraph=True, dynamic=True, backend="aot_eager")
    graphs = []
    for length in (70, 33, 129):
        inputs = operands(2, length, seed=length)
        starts = packed_starts(2, length, 3) if packed else None
        results = []
        for function in (two_layers, compiled):
            y = function(name, *inputs, starts)
            results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
        # Two layers, each with sums over rows, in chains of rows, forward and backward; decays as in `test_ssm`.
        decays = 1 + float(inputs[3].detach().abs().add(1).sum(1).max()) if name == "ssm" else 1
        eager, found = results
        assert_pass_close(found, eager, decays * rounding(torch.float64, 8 * (length + 4)))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[-1]


def test_a_state_passes_through_a_compiled_call():
    torch._dynamo.reset()
    pattern = parse_pattern("lattice:k^2+1")
    state = random_state(pattern, [9, 40], 2, 4, 3)
    inputs = [*operands(2, 20), state.k, state.y]

    def function(q, k, v, d, state_k, state_y):
        return recurrence(q, k, v, d, pattern, initial_state=RecurrenceState(state_k, state_y, state.position))[0]

    results = []
    for run in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        y = run(*inputs)
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("name", OPERATORS)
def test_autocast_rounds_operands_and_nothing_else(name):
    q, k, v, gate = (x.detach().float() for x in operands(2, 100))
    with torch.autocast("cpu", torch.bfloat16):
        found = mixed(name, q.requires_grad_(), k.bfloat16(), v, gate)
        found.float().sum().backward()
    assert found.dtype == torch.bfloat16
    assert q.grad is not None
    assert q.grad.dtype == torch.float32
    exact_q, exact_k, exact_v = (x.detach().bfloat16().double() for x in (q, k, v))
    expected = mixed(name, exact_q, exact_k, exact_v, gate.double())
    # Rounded once, to nearest, after sums in float32, in which decays are differences of running sums.
    decays = float(gate.detach().abs().sum(1).max()) if name == "ssm" else 0
    assert error(found, expected) <= unit(torch.bfloat16) + (1 + decays) * rounding(torch.float32, 4 * 104)


@pytest.mark.parametrize("name", OPERATORS)
def test_operands_need_not_be_contiguous(name):
    """Heads in front of rows, every second batch row, a slice of wider rows: as projections leave them."""
    q, k, v, gate = (x.detach() for x in operands(2, 50))
    awkward = [
        q.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_(),
        k.repeat_interleave(2, 0)[::2].requires_grad_(),
        torch.cat([v, v], 3)[..., :3].requires_grad_(),
        gate.permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_(),
    ]
    assert not any(x.is_contiguous() for x in awkward)
    plain = [x.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for x in awkward]
    results = []
    for inputs in (plain, awkward):
        y = mixed(name, *inputs)
        weights = torch.arange(y.numel(), dtype=y.dtype).view(y.shape[::-1]).permute(3, 2, 1, 0)
        results.append([y, *torch.autograd.grad((y * weights).sum(), inputs)])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_of_gradients_are_refused(name):
    inputs = operands(1, 9)
    gradient = torch.autograd.grad(mixed(name, *inputs).sum(), inputs[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="cannot be differentiated; use backend = 'reference'"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", OPERATORS)
def test_only_the_gradients_asked_for_are_given(name):
    q, k, v, gate = operands(1, 20)
    y = mixed(name, q, k.detach(), v, gate.detach())
    expected = torch.autograd.grad(mixed(name, q, k, v, gate).sum(), [q, v])
    assert all(map(torch.equal, torch.autograd.grad(y.sum(), [q, v]), expected))


def test_importing_touches_no_device():
    code = "import torch, glm_kernels; assert not torch.cuda.is_initialized(); assert glm_kernels.recurrence"
    environment = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ":".join(sys.path), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["lattice:2^k", "window:100", "dense", "ssm"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mode", ["reduce-overhead", "default"])
def test_layers_compiled_for_a_gpu_equal_eager_ones(name, mode, packed):
    """With CUDA graphs too: what runs inside an operator can be captured, and what it remembers is not the graph's."""
    torch._dynamo.reset()
    length = {"reduce-overhead": 300, "default": 310}[mode] + packed  # tables of another test would not be new
    shapes = [(1, length, 2, 64)] * 3 + [(1, length, 2)]
    inputs = [x.detach().cuda().requires_grad_() for x in leaves(*shapes, dtype=torch.float32)]

    starts = None
    if packed:
        rows = torch.arange(length, dtype=torch.int32, device="cuda").unsqueeze(0)
        starts = rows - rows % 70

    def layers(q, k, v, gate):
        v = mixed(name, q, k, v, gate, document_starts=starts)
        return mixed(name, q, k, v, gate, document_starts=starts)

    compiled = torch.compile(layers, fullgraph=True, mode=mode)
    for _ in range(4):  # the first calls of a CUDA graph are not replays
        y = compiled(*inputs)
        found = [y.clone(), *(x.clone() for x in torch.autograd.grad(y.sum(), inputs))]
    expected = layers(*inputs)
    expected = [expected, *torch.autograd.grad(expected.sum(), inputs)]
    # Two layers of sums over rows and of scores of 64, forward and backward.
    assert_pass_close(found, expected, rounding(torch.float32, 8 * (length + 64)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bounds_on_the_host_serve_operands_on_a_gpu():
    q, k, v, gate = (x.detach().float().cuda() for x in operands(1, 70))
    bounds = packed_bounds(70, 3)
    expected = mixed("lattice:2^k", q, k, v, gate, cu_seqlens=bounds.cuda())
    assert torch.equal(mixed("lattice:2^k", q, k, v, gate, cu_seqlens=bounds), expected)
    with pytest.raises(ValueError, match="end at T = 70"):
        mixed("lattice:2^k", q, k, v, gate, cu_seqlens=torch.tensor([0, 71]))
