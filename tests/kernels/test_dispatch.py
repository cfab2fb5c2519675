"""Which kernels serve a call, and that they do it right behind the public operator, logic only on a CPU."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from glm_kernels import RecurrenceState, dispatch, parse_pattern, recurrence
from glm_kernels.kernel_interface import RecurrenceCall
from tests.kernels.operands import DEVICE, operands, packed_starts, random_state
from tests.tolerances import assert_pass_close, rounding

pytestmark = pytest.mark.numeric


def call(spelling, length, dtype=torch.float32, state=None):
    q = torch.empty(1, length, 1, 16, dtype=dtype, device=DEVICE)
    return RecurrenceCall(q, q, q, q[..., 0], parse_pattern(spelling), 1.0, None, None, state)


@pytest.mark.parametrize(
    ("spelling", "length", "family"),
    [
        ("lattice:2^k", 4096, "segmented"),
        ("window:4", 4096, "segmented"),
        ("lattice:2^k", 131_072, "segmented"),
        ("window:5", 4096, "chained"),
        ("window:65", 16, "chained"),
        ("window:65", 3, "segmented"),
        ("lattice:k^2+1", 8192, "chained"),
        ("offsets:k^2+1", 100, "all_rows"),
        ("dense", 100, "all_rows"),
    ],
)
def test_triton_has_a_family_for_every_kind_of_pattern(spelling, length, family):
    asked = call(spelling, length)
    # They are modules, of which mypy knows what they do and not what they are called.
    in_triton: Any = dispatch.recurrence_kernel(asked, "triton")
    in_torch: Any = dispatch.recurrence_kernel(asked, "torch")
    assert in_triton.__name__ == f"glm_kernels.triton_backend.{family}.launch"
    assert in_torch.__name__ == "glm_kernels.torch_backend.recurrence"


def test_what_no_triton_kernel_serves_is_said():
    with pytest.raises(ValueError, match="window:2000 has more than 1024 live rows after 4096 tokens; use backend"):
        dispatch.recurrence_kernel(call("window:2000", 4096), "triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spelling", ["lattice:2^k", "window:65", "dense"])
def test_what_is_kept_for_the_backward_pass_is_known_beforehand(spelling, dtype):
    asked = call(spelling, 70, dtype)
    for tensor in (asked.q, asked.k, asked.v, asked.d):
        tensor.zero_()
    kept = dispatch.recurrence_kernel(asked, "triton").forward(asked)[1:]
    announced = dispatch.kept_shapes(asked, "triton")
    assert [(tuple(x.shape), x.dtype) for x in kept][: len(announced)] == announced
    assert not any(x.numel() for x in kept[len(announced) :])


@pytest.mark.exact
@pytest.mark.parametrize("spelling", ["window:80", "dense", "offsets:2^k"])
@pytest.mark.parametrize("continued", [False, True])
def test_triton_equals_torch(spelling, continued):
    pattern, length = parse_pattern(spelling), 70
    inputs = operands(2, length, 1, 8, 8, dtype=torch.float32, device=DEVICE)
    state: RecurrenceState | None = None
    leaves: Sequence[torch.Tensor] = inputs
    if continued:
        made = random_state(pattern, [21, 0], 1, 8, 8)
        k, y = (x.detach().float().to(DEVICE).requires_grad_() for x in made[:2])
        state, leaves = RecurrenceState(k, y, made.position.to(DEVICE)), [*inputs, k, y]
    starts = packed_starts(2, length, 2).to(DEVICE)
    results = []
    for backend in ("torch", "triton"):
        y, _ = recurrence(*inputs, pattern, document_starts=starts, initial_state=state, backend=backend)
        results.append([y, *torch.autograd.grad(y.sin().sum(), leaves)])
    expected, found = results
    assert_pass_close(found, expected, rounding(torch.float32, 4 * (length + 8)))
