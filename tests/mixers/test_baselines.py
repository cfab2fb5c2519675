"""Baselines: what they compute, packed and decoded, with fla's operators played by their definitions."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves

from glm_kernels import fla
from glm_scale.layers.rotary import Rotary
from glm_scale.layers.sequence import Sequence
from glm_scale.mixers import MixerDims, MixerError, parse_mixer
from glm_scale.mixers.baselines.gated_deltanet import delta_row
from glm_scale.mixers.baselines.gla import gla_row
from tests.tolerances import assert_close, error, norm, rounding, unit

pytestmark = pytest.mark.numeric

DIMS = MixerDims(width=12, heads=2, head_dim=8, rotary=Rotary(8, 50.0), norm_eps=1e-5)
NAMES = ["gla", "gated_deltanet", "log_linear"]
LENGTH = 40
OPERATIONS = LENGTH + 4 * 16 + 64
"""Of an output: a sum over rows, and of scores, projections and a state."""


def by_rows(row, empty):
    """An operator with fla's arguments that takes the rows of every document one by one."""

    def run(q, k, v, *rest, scale=None, cu_seqlens=None):
        assert scale == q.shape[3] ** -0.5
        bounds = cu_seqlens.tolist() if cu_seqlens is not None else [0, q.shape[1]]
        parts = []
        for begin, end in itertools.pairwise(bounds):
            state = empty(q, v)
            for t in range(begin, end):
                y, state = row(*(x[:, t] for x in (q, k, v, *rest)), state)
                parts.append(y)
        return torch.stack(parts, 1), None

    return run


def one_state(q, v):
    return q.new_zeros(len(q), *q.shape[2:], v.shape[3])


def matrix_form(q, k, v, log_decay, level, scale, cu_seqlens=None):
    """Log-linear attention of whole documents. A row is read from the level of the highest bit in which it differs."""
    bounds = cu_seqlens.tolist() if cu_seqlens is not None else [0, q.shape[1]]
    parts = []
    for begin, end in itertools.pairwise(bounds):
        here = slice(begin, end)
        sums = log_decay[:, here].cumsum(1)
        decay = (sums[:, :, None] - sums[:, None]).exp()  # [B, i, j, H]
        numbers = range(end - begin)
        levels = torch.tensor([[(i ^ j).bit_length() if j <= i else -1 for j in numbers] for i in numbers])
        heard = level[:, here].gather(3, levels.clamp(min=0)[None, :, None].expand(len(q), -1, q.shape[2], -1))
        weights = decay.permute(0, 3, 1, 2) * heard.transpose(1, 2) * (levels >= 0)
        scores = torch.einsum("bihk,bjhk->bhij", q[:, here], k[:, here]) * scale
        parts.append(torch.einsum("bhij,bjhv->bihv", weights * scores, v[:, here]))
    return torch.cat(parts, 1), None


@pytest.fixture
def played(monkeypatch):
    operators = {
        "gla": by_rows(gla_row, one_state),
        "gated_delta_rule": by_rows(delta_row, one_state),
        "log_linear": matrix_form,
    }
    monkeypatch.setattr(fla, "operator", lambda name, gradients=True: operators[name])


def build(name):
    torch.manual_seed(0)
    mixer = parse_mixer(name).build(DIMS)
    for parameter in mixer.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
    return mixer


def sequence(starts=None):
    starts = None if starts is None else torch.tensor(starts, dtype=torch.int32)
    return Sequence.of(LENGTH, DIMS.rotary, torch.device("cpu"), starts)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_decoding_equals_training(name, played):
    mixer, x = build(name), torch.randn(2, LENGTH, 12)
    expected, cache, parts = mixer(x, sequence()), mixer.empty_cache(2), []
    for piece in x.split([17, 1, 1, 21], 1):
        y, cache = mixer.prefill(piece, cache)
        parts.append(y)
    assert_close(torch.cat(parts, 1), expected, rounding(torch.float32, OPERATIONS))
    assert sum(leaf.nbytes for leaf in tree_leaves(cache)) == 2 * mixer.cache_bytes(LENGTH)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_documents_do_not_see_one_another(name, played):
    mixer, x = build(name), torch.randn(2, LENGTH, 12)
    packed = mixer(x, sequence([[0] * 9 + [9] + [10] * 30, [0] * 23 + [23] * 17]))
    for row, bounds in enumerate([[0, 9, 10, 40], [0, 23, 40]]):
        for begin, end in itertools.pairwise(bounds):
            alone, _ = mixer.prefill(x[row : row + 1, begin:end], mixer.empty_cache(1))
            assert_close(packed[row : row + 1, begin:end], alone, rounding(torch.float32, OPERATIONS), norm(packed))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name, played):
    mixer, x = build(name), torch.randn(2, LENGTH, 12)
    mixer(x, sequence()).square().sum().backward()
    assert all(p.grad is not None for p in mixer.parameters())
    nothing = rounding(torch.float32, 2 * OPERATIONS) * norm(*(p.grad for p in mixer.parameters()))
    assert all(norm(p.grad) > nothing for p in mixer.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU says")
def test_without_fla_or_a_gpu_a_baseline_says_what_it_needs(name):
    with pytest.raises(MixerError, match=f"mixer '{name}' runs on flash-linear-attention, but .*(install|needs a GPU)"):
        build(name)(torch.randn(1, LENGTH, 12), sequence())


@pytest.mark.parametrize("name", [*NAMES, "mamba2"])
def test_a_baseline_takes_its_state(name):
    assert parse_mixer(name).name == name == parse_mixer(f"{name}:64").name
    assert parse_mixer(f"{name}:128").name == f"{name}:128"
    for wrong in ("", "0", "many", "-1"):
        with pytest.raises(MixerError, match=f"'{name}:{wrong}': {name} takes its state expansion, .*{name}:128"):
            parse_mixer(f"{name}:{wrong}")


def test_sizes_that_a_kernel_does_not_take_are_refused():
    with pytest.raises(MixerError, match=r"state of 48.*multiple of 64"):
        parse_mixer("log_linear:48").build(DIMS)


@pytest.mark.parametrize(("name", "reason"), [("gla", "baseline for one device"), ("mamba2", "serve all heads")])
def test_heads_that_cannot_be_spread_over_tensor_ranks_are_refused(name, reason):
    mixer = build(name)
    mixer.require_tensor_parallel(1)
    with pytest.raises(MixerError, match=reason):
        mixer.require_tensor_parallel(2)


def by_matrix(*operands, scale):
    q, k, v, log_decay, level = (x.cpu() for x in operands)
    return matrix_form(q, k, v, log_decay, level, scale)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="fla's kernels need a GPU")
@pytest.mark.parametrize("name", ["gla", "gated_delta_rule", "log_linear"])
def test_operators_equal_their_definitions_on_a_gpu(name):
    reason = fla.why_not(name)
    if reason:
        pytest.skip(reason)
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(1, 200, 2, 64, device="cuda", generator=generator) for _ in range(3))
    k = F.normalize(k, dim=-1)
    gate = -torch.rand(1, 200, 2, *([64] if name == "gla" else []), device="cuda", generator=generator)
    rest = {"gla": [], "gated_delta_rule": [gate.exp()], "log_linear": [torch.rand(1, 200, 2, 18, device="cuda")]}
    definition = {
        "gla": by_rows(gla_row, one_state),
        "gated_delta_rule": by_rows(delta_row, one_state),
        "log_linear": by_matrix,
    }[name]
    operands = [q, k, v, gate, *rest[name]]
    expected = definition(*(x.double() for x in operands), scale=64**-0.5)[0].to("cuda")
    found = fla.operator(name)(*(x.bfloat16() for x in operands), scale=64**-0.5)[0]
    # Four inputs, scores, states and outputs are rounded to nearest, some of them more than once.
    assert error(found, expected) < 10 * unit(torch.bfloat16) / 2
