import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_kernels import RecurrenceState, empty_state, parse_pattern, recurrence, recurrence_step
from tests.kernels.exactness import recurrence_pass
from tests.kernels.operands import each, live_slots, operands, packed_starts, packing_of, random_state, rows_of
from tests.tolerances import assert_close, assert_pass_close, error, norm, rounding, unit

pytestmark = pytest.mark.numeric

PATTERNS = [
    "window:1",
    "window:5",
    "window:100",
    "dense",
    "lattice:2^k",
    "lattice:k^2+1",
    "lattice:3^k",
    "lattice:floor(k*log(k+1))+k+1",
    "offsets:2^k",
    "offsets:k^2+1",
    "offsets:k+3",
]


def same(length):
    """What rounding does to y, a state and gradients: sums over rows in chains of rows, forward and backward."""
    return rounding(torch.float64, 4 * (length + 4))


@pytest.mark.parametrize("spelling", PATTERNS)
@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_chunkwise_equals_the_reference(spelling, length):
    pattern = parse_pattern(spelling)
    inputs = operands(2, length)
    expected, _ = recurrence_pass("reference", inputs, pattern)
    found, _ = recurrence_pass("torch", inputs, pattern)
    assert_pass_close(found, expected, same(length), outputs=3)


@pytest.mark.parametrize("length", [64, 128])
def test_one_batch_row_of_whole_chunks(length):
    """Heads of a single batch row are strided views of the operands."""
    pattern = parse_pattern("lattice:2^k")
    inputs = operands(1, length)
    expected, _ = recurrence_pass("reference", inputs, pattern)
    found, _ = recurrence_pass("torch", inputs, pattern)
    assert_pass_close(found, expected, same(length), outputs=3)


@settings(max_examples=60, deadline=None)
@given(
    spelling=st.sampled_from(PATTERNS),
    length=st.integers(1, 150),
    packing=st.sampled_from(["none", "document_starts", "cu_seqlens"]),
    cuts=st.integers(0, 6),
    positions=st.none() | st.lists(st.integers(0, 130), min_size=8, max_size=8),
    seed=st.integers(0, 1000),
)
def test_packed_documents_and_states_equal_the_reference(spelling, length, packing, cuts, positions, seed):
    pattern = parse_pattern(spelling)
    batch = 1 if packing == "cu_seqlens" else 2
    carried = cuts + 1 if packing == "cu_seqlens" else batch
    given = packing_of(packing, batch, length, cuts, seed)
    state = None if positions is None else random_state(pattern, positions[:carried], 2, 4, 3, seed)
    inputs = operands(batch, length, seed=seed)
    expected, expected_position = recurrence_pass("reference", inputs, pattern, state, **given)
    found, position = recurrence_pass("torch", inputs, pattern, state, **given)
    assert_pass_close(found, expected, same(length), outputs=3)
    assert torch.equal(expected_position, position)


@pytest.mark.parametrize("spelling", ["window:3", "lattice:2^k", "offsets:k^2+1", "dense"])
def test_gradcheck(spelling):
    pattern = parse_pattern(spelling)
    state = random_state(pattern, [9], 1, 2, 2)
    inputs = operands(1, 70, heads=1, key_dim=2, value_dim=2)

    def function(q, k, v, d, state_k, state_y):
        y, _ = recurrence(q, k, v, d, pattern, initial_state=RecurrenceState(state_k, state_y, state.position))
        return y[:, ::13]

    assert torch.autograd.gradcheck(function, (*inputs, state.k, state.y), fast_mode=True)


@pytest.mark.parametrize("spelling", PATTERNS)
def test_outputs_lie_within_the_inputs_they_may_see(spelling):
    """Every output is a convex combination of the inputs of its document so far, however extreme the scores."""
    q, k, v, d = operands(2, 150, seed=3)
    starts = packed_starts(2, 150, 3)
    y, _ = recurrence(20 * q, 20 * k, v, 30 * d, spelling, document_starts=starts)
    for b in range(2):
        for t in range(150):
            seen = v[b, int(starts[b, t]) : t + 1]
            # Weights that are rounded add up to nearly one.
            beyond = rounding(torch.float64, 150) * float(seen.detach().abs().max())
            assert (y[b, t] <= seen.amax(0) + beyond).all()
            assert (y[b, t] >= seen.amin(0) - beyond).all()


@pytest.mark.parametrize("spelling", PATTERNS)
def test_first_token_of_a_document_is_its_own_input(spelling):
    q, k, v, d = operands(2, 90)
    starts = packed_starts(2, 90, 3)
    y, _ = recurrence(q, k, v, d, spelling, document_starts=starts)
    first = starts == torch.arange(90)
    assert_close(y[first], v[first], rounding(torch.float64, 64))


@pytest.mark.parametrize("spelling", PATTERNS)
def test_decoding_step_by_step_equals_the_whole_row(spelling):
    pattern = parse_pattern(spelling)
    inputs = operands(2, 80)
    whole, final = recurrence(*inputs, pattern, output_final_state=True)
    prompt = 17
    _, state = recurrence(*rows_of(inputs, 0, prompt), pattern, output_final_state=True)
    assert state is not None
    assert final is not None
    for t in range(prompt, 80):
        y, state = recurrence_step(*rows_of(inputs, t, t + 1), pattern, state)
        assert_close(y, whole[:, t : t + 1], same(80), norm(whole))
    assert torch.equal(state.position, final.position)
    slots = final.k.shape[2]
    live = live_slots(pattern, final)
    assert torch.equal(state.k[:, :, :slots].where(live, 0), final.k.where(live, 0))
    assert_close(state.y[:, :, :slots].where(live, 0), final.y.where(live, 0), same(80))


@pytest.mark.parametrize("spelling", ["lattice:2^k", "window:5"])
def test_decoding_cache_holds_the_live_rows_only(spelling):
    pattern = parse_pattern(spelling)
    state = empty_state(pattern, 1, 2, 4, 3, dtype=torch.float64)
    inputs = operands(1, 300)
    for t in range(300):
        # What a free slot holds must not matter.
        rows = pattern.rows_in_slots(t)
        state.y[:, :, : len(rows)][:, :, rows < 0] = torch.nan
        y, state = recurrence_step(*rows_of(inputs, t, t + 1), pattern, state)
        assert y.isfinite().all()
    assert state.k.shape[2] <= pattern.slot_count(300) * 9 // 8
    assert pattern.slot_count(300) <= (9 if spelling == "lattice:2^k" else 5)


def test_documents_decoded_together_may_stand_at_different_positions():
    pattern = parse_pattern("lattice:k^2+1")
    state = random_state(pattern, [3, 50, 0], 2, 4, 3)
    q, k, v, d = operands(3, 1)
    expected, _ = recurrence(q, k, v, d, pattern, initial_state=state)
    held_k, held_y, position = (x.detach().clone() for x in state[:3])
    found, after = recurrence_step(q, k, v, d, pattern, RecurrenceState(held_k, held_y, position))
    assert_close(found, expected, same(51))
    assert after.position.tolist() == [4, 51, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_operands_accumulate_in_float32(dtype):
    inputs = each(lambda x: x.detach().to(dtype), operands(2, 200, key_dim=16, value_dim=16))
    expected, _ = recurrence(*each(torch.Tensor.double, inputs), "lattice:2^k", backend="reference")
    y, final = recurrence(*inputs, "lattice:2^k", output_final_state=True)
    assert y.dtype == dtype
    assert final is not None
    assert final.k.dtype == final.y.dtype == torch.float32
    # Outputs are rounded once, to nearest; what leads to them is summed in float32.
    assert error(y, expected) <= unit(dtype) + rounding(torch.float32, 4 * (200 + 16))


def test_memory_of_the_backward_pass_is_linear_in_length():
    """No T×T tensor: what autograd keeps grows with T, for dense recurrence as well."""

    def saved_bytes(length: int) -> int:
        total = 0

        def pack(x: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += x.numel() * x.element_size()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            recurrence(*operands(1, length, heads=1), "dense")
        return total

    short = saved_bytes(512)
    assert short >= 512 * (4 + 4 + 3 + 3) * 8  # q, k, v and y at least: the hooks do see what is kept
    assert saved_bytes(1024) <= 2.1 * short
