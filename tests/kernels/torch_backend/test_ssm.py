import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_kernels import ssm, ssm_step
from tests.kernels.operands import Inputs, each, leaves, packing_of, rows_of, values_and_gradients
from tests.kernels.operands import operands as random_operands
from tests.tolerances import assert_close, assert_pass_close, norm, rounding

pytestmark = pytest.mark.numeric


def operands(batch: int, length: int, seed: int = 0) -> Inputs:
    """Leaves q, k, v and log decays."""
    q, k, v, gate = random_operands(batch, length, seed=seed)
    return q, k, v, (-gate.detach().abs()).requires_grad_()


def same(log_decay, dtype=torch.float64):
    """What rounding does to y, states and gradients. Decays are differences of running sums of logarithms, whose own
    size becomes the relative error of what they weigh."""
    return rounding(dtype, 4 * (log_decay.shape[1] + 4)) * (1 + float(log_decay.detach().abs().sum(1).max()))


@settings(max_examples=40, deadline=None)
@given(
    length=st.sampled_from([1, 5, 64, 65, 150]),
    packing=st.sampled_from(["none", "document_starts", "cu_seqlens"]),
    cuts=st.integers(0, 5),
    continued=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_chunkwise_equals_the_reference(length, packing, cuts, continued, seed):
    batch = 1 if packing == "cu_seqlens" else 2
    given = packing_of(packing, batch, length, cuts, seed)
    carried = cuts + 1 if packing == "cu_seqlens" else batch
    inputs = operands(batch, length, seed)
    state = leaves((carried, 2, 4, 3), seed=seed + 1)[0] if continued else None
    results = []
    for backend in ("reference", "torch"):
        y, final = ssm(*inputs, initial_state=state, output_final_state=True, backend=backend, **given)
        assert final is not None
        results.append(values_and_gradients([y, final], inputs if state is None else [*inputs, state]))
    expected, found = results
    assert_pass_close(found, expected, same(inputs[3]), outputs=2)


def test_gradcheck():
    assert torch.autograd.gradcheck(lambda *x: ssm(*x)[0][:, ::13], operands(1, 70), fast_mode=True)


def test_decoding_step_by_step_equals_the_whole_row():
    inputs = operands(2, 70)
    whole, final = ssm(*inputs, output_final_state=True)
    _, state = ssm(*rows_of(inputs, 0, 10), output_final_state=True)
    assert state is not None
    assert final is not None
    for t in range(10, 70):
        y, state = ssm_step(*rows_of(inputs, t, t + 1), state)
        assert_close(y, whole[:, t : t + 1], same(inputs[3]), norm(whole))
    assert_close(state, final, same(inputs[3]))


def test_slow_decays_of_a_late_document_survive_fast_ones_before_it():
    q, k, v, _ = each(torch.Tensor.float, operands(1, 4096))
    starts = torch.zeros(1, 4096, dtype=torch.int32)
    starts[:, 2048:] = 2048
    a = torch.full((1, 4096, 2), -30.0)
    a[:, 2048:] = -1e-4
    (state,) = leaves((1, 2, 4, 3), seed=1, dtype=torch.float32)
    _, final = ssm(q, k, v, a, document_starts=starts, initial_state=state, output_final_state=True)
    _, expected = ssm(*each(lambda x: x[:, 2048:].double(), (q, k, v, a)), output_final_state=True)
    assert final is not None
    assert expected is not None
    assert_close(final, expected, same(a[:, 2048:], torch.float32))
