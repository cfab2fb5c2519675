"""Keys and values that several heads have together, and norms of queries and keys."""

import re
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from glm_kernels.attention import for_every_head
from glm_scale.mixers import MixerError
from glm_scale.model import ModelConfig
from tests.caches import bytes_that_count
from tests.mixers.test_mixers import DIMS, OPERATIONS, PACKED, build, decode, sequence
from tests.tolerances import assert_close, norm, rounding

pytestmark = pytest.mark.numeric

SHARED = replace(DIMS, heads=4, kv_heads=2)
SPELLINGS = ["attention", "local:5", "local:1", "local:4 > window:3"]
NORMED = replace(DIMS, qk_norm=True)
SAME = rounding(torch.float32, OPERATIONS)


@pytest.mark.parametrize("spelling", SPELLINGS)
@torch.no_grad()
def test_it_is_attention_in_which_keys_and_values_are_repeated(spelling):
    mixer, full = build(spelling, dims=SHARED), build(spelling, dims=replace(DIMS, heads=4))
    for name, weight in full.named_parameters():
        own = mixer.get_parameter(name)
        repeated = own.shape != weight.shape
        assert repeated == (name in ("v.weight", "stages.0.k.weight"))
        weight.copy_(own.unflatten(0, (2, 1, 8)).expand(2, 2, 8, 12).flatten(0, 2) if repeated else own)
    x = torch.randn(2, 40, 12)
    expected = full(x, sequence(40, PACKED))
    assert_close(mixer(x, sequence(40, PACKED)), expected, SAME)
    assert mixer.flops_per_token(40) == full.flops_per_token(40) - 2 * 2 * (2 * 8 * 12)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("cuts", [[1] * 40, [40], [17, 1, 1, 9, 12]], ids=["steps", "prefill", "mixed"])
@pytest.mark.parametrize("length", [None, 40])
@torch.no_grad()
def test_decoding_equals_training_and_holds_what_it_says(spelling, cuts, length):
    mixer, x = build(spelling, dims=replace(SHARED, qk_norm=True)), torch.randn(2, 40, 12)
    y, cache = decode(mixer, x, cuts, length)
    assert_close(y, mixer(x, sequence(40)), SAME)
    assert bytes_that_count(cache) == 2 * mixer.cache_bytes(40)


def test_the_cache_is_smaller_by_the_heads_that_share():
    whole, shared = (build("attention", dims=dims).cache_bytes(100) - 8 for dims in (replace(DIMS, heads=4), SHARED))
    assert whole == 2 * shared


@pytest.mark.parametrize("spelling", ["attention", "lattice:2^k", "local:4 > window:3"])
def test_norms_stand_before_the_rotation_and_every_weight_of_them_learns(spelling):
    mixer = build(spelling, dims=NORMED).double()
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    y = mixer(x, sequence(40, PACKED))
    y.square().sum().backward()
    norms = {name: p for name, p in mixer.named_parameters() if "_norm" in name}
    assert len(norms) == 2 * len(mixer.stages)
    gradients = [p.grad for p in norms.values() if p.grad is not None]
    assert len(gradients) == len(norms)
    assert all((gradient != 0).all() for gradient in gradients)
    # Queries and keys of any size mix alike.
    with torch.no_grad():
        for stage in mixer.stages:
            stage.q.weight.mul_(7.0)
            stage.k.weight.div_(3.0)
        # Norms divide by √(mean square + ε), which is not quite free of the size.
        assert_close(mixer(x, sequence(40, PACKED)), y, 1e-3, norm(y))
        for p in norms.values():
            p.mul_(2.0)
        assert not torch.allclose(mixer(x, sequence(40, PACKED)), y, rtol=1e-2)


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(ValidationError, match="kv_heads 3 does not divide the 4 heads; those that do are 1, 2, 4"):
        ModelConfig(vocab_size=8, layers=1, width=16, heads=4, kv_heads=3, mixers=("attention",))
    with pytest.raises(ValidationError, match=re.escape("none of the mixers lattice:2^k, ssm is one; leave it out")):
        ModelConfig(vocab_size=8, layers=1, width=16, heads=4, kv_heads=2, mixers=("lattice:2^k", "ssm"))
    mixer = build("attention", dims=SHARED)
    mixer.require_tensor_parallel(2)
    with pytest.raises(
        MixerError, match=r"its 2 heads of keys and values \(model.kv_heads\) over 4 .* divides them is 2"
    ):
        mixer.require_tensor_parallel(4)
    with pytest.raises(ValueError, match="3 heads of keys or values cannot be shared by 4"):
        for_every_head(torch.zeros(1, 2, 3, 4), 4)
