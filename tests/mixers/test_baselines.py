"""Published mixers: layers as their operators' definitions have them, spellings, and fla's kernels on a GPU."""

from functools import partial
from typing import Any

import pytest
import torch

from glm_kernels import fla
from glm_scale.layers.rotary import Rotary
from glm_scale.layers.sequence import Sequence
from glm_scale.mixers import MixerDims, MixerError, parse_mixer
from glm_scale.mixers.baselines import log_linear
from glm_scale.parallel.sequence import linear_attention
from tests.kernels.linear_attention.cases import GATED, mixed, operands
from tests.kernels.operands import packed_starts, values_and_gradients
from tests.tolerances import largest_error, pass_errors, unit

pytestmark = pytest.mark.numeric

DIMS = MixerDims(width=12, heads=2, head_dim=8, rotary=Rotary(8, 50.0), norm_eps=1e-5)
NAMES = ["gla", "gated_deltanet", "kda", "log_linear"]
LENGTH = 70
EXACT = 1e-5
"""What is asked of a layer in float32."""


def build(name):
    torch.manual_seed(0)
    mixer = parse_mixer(name).build(DIMS)
    for parameter in mixer.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return mixer


def by_definition(monkeypatch):
    """Operators run by their definitions from here on."""
    for module, names in (
        (linear_attention, ("gated_linear_attention", "gated_delta_rule")),
        (log_linear, ("log_linear_attention",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, partial(getattr(module, name), backend="reference"))


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_is_what_its_definition_says_in_float64(name, monkeypatch):
    mixer, x = build(f"{name}:16"), torch.randn(2, LENGTH, 12)
    starts = packed_starts(2, LENGTH, 3)
    grad = torch.randn(2, LENGTH, 12)
    results = []
    for dtype in (torch.float32, torch.float64):
        layer: Any = mixer.to(dtype)
        if dtype == torch.float64:
            by_definition(monkeypatch)
        leaf = x.to(dtype).requires_grad_()
        y = layer(leaf, Sequence.of(LENGTH, DIMS.rotary, torch.device("cpu"), starts))
        results.append([y, *torch.autograd.grad(y, [leaf, *layer.parameters()], grad.to(dtype))])
    found, expected = results
    assert largest_error(found[:1], expected[:1]) < EXACT
    assert max(pass_errors(found, expected)) < EXACT


@pytest.mark.parametrize("name", [*NAMES, "mamba2"])
def test_a_baseline_takes_its_state(name):
    assert parse_mixer(name).name == name == parse_mixer(f"{name}:64").name
    assert parse_mixer(f"{name}:128").name == f"{name}:128"
    for wrong in ("", "0", "many", "-1"):
        with pytest.raises(MixerError, match=f"'{name}:{wrong}': {name} takes its state expansion, .*{name}:128"):
            parse_mixer(f"{name}:{wrong}")


def test_how_log_linear_attention_cannot_be_spread_is_refused():
    mixer: Any = parse_mixer("log_linear").build(DIMS)
    with pytest.raises(MixerError, match=r"'log_linear' cannot split .* by 'scan'; it can by 'a2a'"):
        mixer.require_sequence_strategy("scan", 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="fla's kernels need a GPU")
@pytest.mark.parametrize("name", [*GATED, "log_linear"])
@pytest.mark.parametrize("decay", [0.1, 5.0, 30.0])
@pytest.mark.parametrize("packed", [False, True])
def test_operators_of_fla_equal_their_definitions_on_a_gpu(name, decay, packed):
    """Outputs and gradients. Inputs, scores, states and outputs are rounded to nearest, some of them more than once."""
    reason = fla.why_not(name)
    if reason:
        pytest.skip(reason)
    inputs = operands(name, 2, 200, key_dim=64, value_dim=64, decay=decay)
    if name == "log_linear":
        inputs[4] = torch.rand(2, 200, 2, 18, dtype=torch.float64).requires_grad_()
    starts = packed_starts(2, 200, 3) if packed else None
    rounded = [
        x.detach().cuda().to(torch.float32 if i == 3 else torch.bfloat16).requires_grad_() for i, x in enumerate(inputs)
    ]
    exact = [x.detach().double().cpu().requires_grad_() for x in rounded]
    on_device = None if starts is None else starts.cuda()
    found = values_and_gradients([mixed(name, rounded, document_starts=on_device, backend="fla")[0]], rounded)
    expected = values_and_gradients([mixed(name, exact, document_starts=starts, backend="reference")[0]], exact)
    assert max(pass_errors([x.cpu() for x in found], expected)) < 20 * unit(torch.bfloat16) / 2
