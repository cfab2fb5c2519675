"""Gated linear attention and the gated delta rule: chunk by chunk as row by row, whatever decays and documents."""

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glm_kernels import gated_delta_rule, gated_delta_rule_step, gated_linear_attention_step
from glm_kernels.linear_attention import library
from tests.kernels.linear_attention.cases import GATED, mixed, operands
from tests.kernels.operands import leaves, packed_starts, values_and_gradients
from tests.tolerances import assert_close, assert_pass_close, pass_errors, rounding

pytestmark = pytest.mark.numeric

EXACT = 1e-10
"""What is asked of operators in float64."""


def both(name, inputs, state, starts, backends=("reference", "torch")):
    """y, the final state and all gradients by two backends."""
    results = []
    for backend in backends:
        y, final = mixed(
            name, inputs, initial_state=state, document_starts=starts, output_final_state=True, backend=backend
        )
        results.append(values_and_gradients([y, final], inputs if state is None else [*inputs, state]))
    return results


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(GATED),
    length=st.sampled_from([1, 5, 16, 63, 65, 131]),
    decay=st.sampled_from([0.0, 0.1, 30.0]),
    cuts=st.integers(0, 4),
    continued=st.booleans(),
    seed=st.integers(0, 1000),
)
@example("kda", 131, 30.0, 3, True, 0)
@example("gated_delta_rule", 65, 30.0, 2, True, 1)
@example("gla", 131, 0.0, 0, True, 2)
def test_chunkwise_equals_the_reference(name, length, decay, cuts, continued, seed):
    inputs = operands(name, 2, length, decay=decay, seed=seed)
    state = leaves((2, 2, 4, 3), seed=seed + 1)[0] if continued else None
    expected, found = both(name, inputs, state, packed_starts(2, length, cuts, seed) if cuts else None)
    assert_pass_close(found, expected, EXACT, outputs=2)


@pytest.mark.parametrize("name", GATED)
def test_in_float32_chunkwise_is_as_exact_as_float32(name):
    inputs = operands(name, 1, 200, key_dim=16, value_dim=8, decay=5.0, dtype=torch.float32)
    starts = packed_starts(1, 200, 3)
    y, _ = mixed(name, inputs, document_starts=starts)
    found = values_and_gradients([y], inputs)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = values_and_gradients([mixed(name, exact, document_starts=starts, backend="reference")[0]], exact)
    assert max(pass_errors(found, expected)) < rounding(torch.float32, 4 * (200 + 16))


def test_slow_decays_behind_fast_ones_keep_their_digits():
    """A chunk in which decays of e^-30 stand before ones of next to nothing, in float32."""
    inputs = operands("kda", 1, 64, dtype=torch.float32)
    with torch.no_grad():
        inputs[3][:, :32] = -30.0
        inputs[3][:, 32:] = -1e-3
    expected = mixed("kda", [x.double() for x in inputs], backend="reference")[0]
    assert_close(mixed("kda", inputs)[0], expected, rounding(torch.float32, 64))


@pytest.mark.parametrize("name", GATED)
def test_decoding_step_by_step_equals_the_whole_row(name):
    inputs = [x.detach() for x in operands(name, 2, 70, decay=0.3)]
    step: Any = gated_linear_attention_step if name == "gla" else gated_delta_rule_step
    whole, final = mixed(name, inputs, output_final_state=True)
    _, state = mixed(name, [x[:, :10] for x in inputs], output_final_state=True)
    for t in range(10, 70):
        row = [x[:, t : t + 1] for x in inputs]
        y, state = step(*row, state)
        assert_close(y, whole[:, t : t + 1], EXACT)
    assert_close(state, final, EXACT)


@pytest.mark.parametrize("name", GATED)
def test_heads_in_turn_give_what_heads_together_give(name, monkeypatch):
    inputs, (state,) = operands(name, 2, 40, heads=3), leaves((2, 3, 4, 3), seed=1)
    together, _ = both(name, inputs, state, None, ("torch", "reference"))
    monkeypatch.setattr(library, "LARGEST_NUMBERS", 1)
    in_turn, _ = both(name, inputs, state, None, ("torch", "reference"))
    assert_pass_close(in_turn, together, EXACT, outputs=2)


@pytest.mark.parametrize("name", ["gla", "kda"])
def test_an_operator_is_a_proper_one(name):
    *rows, beta = [*operands(name, 2, 12), None][:5]
    (state,) = leaves((2, 2, 4, 3), seed=1)
    torch.library.opcheck(
        torch.ops.glm_kernels.linear_attention.default,
        (*rows, beta, 0.5, packed_starts(2, 12, 2), state, True),
    )


def test_wrong_arguments_are_named():
    q, k, v, log_decay, beta = operands("kda", 1, 8)
    with pytest.raises(ValueError, match=r"log_decay must have shape \[1, 8, 2, 4\]"):
        mixed("gla", [q, k, v, log_decay[..., :3]])
    with pytest.raises(ValueError, match=r"beta must have shape \[1, 8, 2\]"):
        gated_delta_rule(q, k, v, log_decay, beta[:, 1:])
    with pytest.raises(ValueError, match=r"the state must have shape \[N, H, K, V\] = \[1, 2, 4, 3\]"):
        gated_delta_rule(q, k, v, log_decay, beta, initial_state=torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match="backend = 'triton'; allowed are auto, fla, torch, reference"):
        gated_delta_rule(q, k, v, log_decay, beta, backend="triton")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one token \(T = 1\), got T = 8"):
        gated_delta_rule_step(q, k, v, log_decay, beta, torch.zeros(1, 2, 4, 3))
    with pytest.raises(ValueError, match=r"'fla' cannot serve this call of kda: q is torch\.float64; use .* 'auto'"):
        gated_delta_rule(q, k, v, log_decay, beta, backend="fla")
