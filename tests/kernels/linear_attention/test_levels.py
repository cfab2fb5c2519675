"""Log-linear attention: rows in blocks, states in levels and steps give what its definition does."""

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glm_kernels import empty_levels, log_linear_attention_step
from tests.kernels.linear_attention.cases import LEVELS, mixed, operands
from tests.kernels.operands import leaves, packed_starts, values_and_gradients
from tests.tolerances import assert_close, assert_pass_close

pytestmark = pytest.mark.numeric

EXACT = 1e-10


@settings(max_examples=8, deadline=None)
@given(
    length=st.sampled_from([1, 20, 63, 65]),
    decay=st.sampled_from([0.0, 0.1, 30.0]),
    cuts=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
@example(65, 30.0, 0, 0)
def test_blocks_of_rows_equal_the_definition(length, decay, cuts, seed):
    inputs = operands("log_linear", 2, length, heads=1, decay=decay, seed=seed)
    starts = packed_starts(2, length, cuts, seed) if cuts else None
    expected, found = (
        values_and_gradients([mixed("log_linear", inputs, document_starts=starts, backend=backend)[0]], inputs)
        for backend in ("reference", "torch")
    )
    assert_pass_close(found, expected, EXACT)


@pytest.mark.parametrize("cuts", [[100], [1] * 100, [37, 1, 62], [64, 36], [5, 3, 1, 91]], ids=str)
def test_a_state_in_levels_says_all_of_what_was_before(cuts):
    inputs = [x.detach() for x in operands("log_linear", 2, 100, decay=0.1)]
    whole, final = mixed("log_linear", inputs, output_final_state=True)
    state, parts = empty_levels(2, 2, LEVELS, 4, 3)._replace(levels=torch.zeros(2, 2, LEVELS, 4, 3).double()), []
    step: Any = log_linear_attention_step
    for piece in zip(*(x.split(cuts, 1) for x in inputs), strict=True):
        if piece[0].shape[1] == 1:
            y, state = step(*piece, state)
        else:
            y, state = mixed("log_linear", list(piece), initial_state=state, output_final_state=True)
        parts.append(y)
    assert_close(torch.cat(parts, 1), whole, EXACT)
    assert_close(state.levels, final.levels, EXACT)
    assert state.position.tolist() == final.position.tolist() == [100, 100]


def test_only_a_documents_own_past_is_in_its_state():
    inputs = [x.detach() for x in operands("log_linear", 2, 50)]
    starts = torch.tensor([[0] * 20 + [20] * 30, [0] * 50])
    (levels,) = leaves((2, 2, LEVELS, 4, 3))
    state = empty_levels(2, 2, LEVELS, 4, 3)._replace(levels=levels, position=torch.tensor([5, 6]))
    y, final = mixed("log_linear", inputs, document_starts=starts, initial_state=state, output_final_state=True)
    begun, of_begun = mixed("log_linear", [x[:1, 20:] for x in inputs], output_final_state=True)
    assert_close(y[:1, 20:], begun, EXACT)
    assert_close(final.levels[:1], of_begun.levels, EXACT)
    of_second = state._replace(levels=state.levels[1:], position=state.position[1:])
    alone, of_alone = mixed("log_linear", [x[1:] for x in inputs], initial_state=of_second, output_final_state=True)
    assert_close(y[1:], alone, EXACT)
    assert_close(final.levels[1:], of_alone.levels, EXACT)
    assert final.position.tolist() == [30, 56]


def test_it_is_a_proper_operator():
    inputs = operands("log_linear", 1, 12)
    (levels,) = leaves((1, 2, LEVELS, 4, 3), seed=1)
    torch.library.opcheck(
        torch.ops.glm_kernels.log_linear_attention.default, (*inputs, 0.5, None, levels, torch.tensor([5]), True)
    )


def test_documents_longer_than_levels_count_are_refused():
    *rows, level = operands("log_linear", 1, 9)
    with pytest.raises(ValueError, match=r"T = 9, but level has L = 4, enough for T ≤ 2\^\(L−1\) = 8"):
        mixed("log_linear", [*rows, level[..., :4]])
    with pytest.raises(ValueError, match="'reference' of log_linear_attention has no states"):
        mixed("log_linear", [*rows, level], output_final_state=True, backend="reference")
