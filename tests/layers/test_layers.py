"""Norm, rotary embedding, short convolution and gated MLP against their definitions."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from glm_scale.layers.conv import ShortConv
from glm_scale.layers.mlp import GatedMLP
from glm_scale.layers.norm import RMSNorm
from glm_scale.layers.rotary import Rotary
from glm_scale.layers.sequence import Sequence
from tests.tolerances import assert_close, norm, rounding, unit

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("groups", [1, 2])
def test_norm_divides_each_group_by_its_root_mean_square(groups):
    rms = RMSNorm(8, eps=1e-12, groups=groups)
    torch.nn.init.normal_(rms.weight)
    x = torch.randn(3, 5, 8)
    parts = x.unflatten(-1, (groups, -1))
    expected = (parts / parts.square().mean(-1, keepdim=True).sqrt()).flatten(-2) * rms.weight
    assert_close(rms(x), expected, rounding(torch.float32, 8 + 4))


@pytest.mark.parametrize("groups", [1, 4])
def test_norm_takes_its_statistics_in_fp32(groups):
    """In bf16 a mean of 4096 squares of the same sign would stop growing long before the end."""
    rms = RMSNorm(4096, eps=1e-6, groups=groups).bfloat16()
    x = torch.rand(2, 4096).bfloat16() + 1
    exact = RMSNorm(4096, eps=1e-6, groups=groups)(x.float())
    assert_close(rms(x), exact, unit(torch.bfloat16) + rounding(torch.float32, 4096))


def test_rotated_scores_depend_on_the_distance_alone():
    rotary = Rotary(head_dim=8, base=100.0)
    q, k = torch.randn(2, 1, 1, 1, 8).double().float()
    rows = torch.arange(6)[None]
    scores = rotary(rows)(q.expand(1, 6, 1, 8))[0, :, 0] @ rotary(rows)(k.expand(1, 6, 1, 8))[0, :, 0].T
    for shift in range(-5, 6):
        diagonal = scores.diagonal(shift)
        # A sum of 8 products that may cancel; angles of up to 5 are rounded, and their sines.
        bound = rounding(torch.float32, 8 + 4 * 5**2)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal), bound, norm(q) * norm(k))
    assert scores.diagonal(1)[0] != scores.diagonal(2)[0]


def test_rotation_of_bf16_vectors_is_computed_in_fp32():
    x = torch.randn(1, 1, 1, 64).bfloat16()
    far = torch.tensor([[30_001]])
    rotary = Rotary(head_dim=64, base=10000.0)
    assert_close(rotary(far)(x), rotary(far)(x.float()), unit(torch.bfloat16))
    assert rotary(far)(x).dtype is torch.bfloat16


def sequence(length, starts=None):
    return Sequence.of(length, Rotary(head_dim=4, base=10000.0), torch.device("cpu"), starts)


def naive_convolution(conv, x, starts):
    y = x.clone()
    for b, t, shift in torch.cartesian_prod(*(torch.arange(n) for n in (*x.shape[:2], conv.width))).tolist():
        if t - shift >= starts[b, t]:
            y[b, t] += conv.weight[shift] * x[b, t - shift]
    return y


def test_convolution_reads_earlier_rows_of_the_same_document():
    conv = ShortConv(4, width=3)
    torch.nn.init.normal_(conv.weight)
    x = torch.randn(2, 7, 4)
    starts = torch.tensor([[0, 0, 0, 0, 4, 4, 6], [0, 1, 1, 3, 3, 3, 3]])
    assert_close(conv(x, sequence(7, starts)), naive_convolution(conv, x, starts), rounding(torch.float32, 2 * 4))


def test_convolution_starts_as_the_identity():
    x = torch.randn(1, 5, 4)
    assert torch.equal(ShortConv(4, width=4)(x, sequence(5)), x)


@pytest.mark.parametrize("cuts", [[1] * 7, [3, 4], [1, 5, 1]])
def test_convolution_continues_from_its_cache(cuts):
    conv = ShortConv(4, width=4)
    torch.nn.init.normal_(conv.weight)
    x = torch.randn(2, 7, 4)
    cache, parts = conv.empty_cache(2), []
    for piece in x.split(cuts, dim=1):
        y, cache = conv.extend(piece, cache)
        parts.append(y)
    assert_close(torch.cat(parts, 1), conv(x, sequence(7)), rounding(torch.float32, 2 * 5))
    assert cache.nbytes == 2 * conv.cache_bytes()


def test_mlp_counts_its_matrix_multiplications():
    mlp = GatedMLP(8, 24)
    with FlopCounterMode(display=False) as counter:
        mlp(torch.randn(1, 5, 8))
    assert counter.get_total_flops() == 5 * mlp.flops_per_token()
