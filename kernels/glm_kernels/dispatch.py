"""Which kernels serve a call: torch's, or Triton's, and why Triton's do not.

The only module that knows both backends. Importing it imports no Triton: `triton_backend.families`, which chooses among
Triton's kernels, is imported when a call is Triton's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from glm_kernels.kernel_interface import (
    KeptShapes,
    RecurrenceCall,
    RecurrenceKernel,
    ShardKernel,
    SSMCall,
    SSMKernel,
)
from glm_kernels.torch_backend import recurrence as torch_recurrence
from glm_kernels.torch_backend import ssm as torch_ssm
from glm_kernels.torch_backend import summaries as torch_summaries

LARGEST_WIDTH = 256
"""Of K and V in Triton's kernels."""
LARGEST_CONVOLUTION = 8
"""Tokens that a short convolution in Triton reads: its kernels have code for each of them."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def recurrence_kernel(call: RecurrenceCall, backend: str) -> RecurrenceKernel:
    """The kernels for `backend`: "torch", "triton", or "auto" for the fastest that serve the call.

    On a GPU those are Triton's wherever they serve the call; on a CPU Triton has only its interpreter.
    Raises ValueError if the backend is "triton" and no kernels of it serve the call.
    """
    if not _asks_triton(call.q, backend):
        return torch_recurrence
    reason = _why_no_triton(call.q, call.v)
    if reason is None:
        from glm_kernels.triton_backend.families import family_of

        family = family_of(call.pattern, call.reach)
        reason = family.why_not(call)
        if reason is None:
            return family
    _refuse(reason, backend)
    return torch_recurrence


def kept_shapes(call: RecurrenceCall, backend: str) -> KeptShapes:
    """Of the tensors that the kernels keep beside y for the backward pass, at most two.

    They follow from shapes, dtypes and the device, which is all that a compiler knows of a call.
    """
    if not _asks_triton(call.q, backend) or _why_no_triton(call.q, call.v) is not None:
        return []
    from glm_kernels.triton_backend.families import family_of

    # How long documents with a state are may be known when the call runs only: what is kept does not follow from it.
    return family_of(call.pattern, call.q.shape[1]).kept_shapes(call)


def shard_kernel(call: RecurrenceCall, backend: str) -> ShardKernel:
    """The kernels that sum up a shard: Triton's of `segmented` where they serve the call, else torch's.

    Raises ValueError if the backend is "triton" and no kernels of it serve the call.
    """
    if recurrence_kernel(call, backend) is torch_recurrence:
        return torch_summaries
    from glm_kernels.triton_backend.segmented import launch, summaries

    if launch.why_not(call) is None:
        return summaries
    if backend == "triton":
        raise ValueError(f"backend = 'triton' has no summaries of {call.pattern}; use backend = 'auto'")
    return torch_summaries


def ssm_kernel(call: SSMCall, backend: str) -> SSMKernel:
    """As `recurrence_kernel`, for the first-order recurrence with state expansion."""
    if not _asks_triton(call.q, backend):
        return torch_ssm
    reason = _why_no_triton(call.q, call.v)
    if reason is None:
        from glm_kernels.triton_backend.ssm import launch

        return launch
    _refuse(reason, backend)
    return torch_ssm


def steps_in_triton(q: Tensor, v: Tensor, state: Tensor, backend: str, *, rounded_state: bool = False) -> bool:
    """Whether one token of decoding, of any operator, runs in Triton: for "auto" where it can and q is on a GPU.

    rounded_state: whether the state may have 16 bits.
    Raises ValueError if the backend is "triton" and it cannot.
    """
    if backend == "reference":
        raise ValueError("backend = 'reference' has no step of its own; allowed are auto, triton, torch")
    if not _asks_triton(q, backend):
        return False
    reason = _why_no_triton(q, v)
    states = _DTYPES if rounded_state else _DTYPES[:1]
    if reason is None and state.dtype not in states:
        reason = f"the state is {state.dtype}; supported is {' or '.join(str(dtype)[6:] for dtype in states)}"
    if reason is not None:
        _refuse(reason, backend)
    return reason is None


def projects_in_triton(x: Tensor, weights: Sequence[Tensor], backend: str) -> bool:
    """Whether a token's products with weights run in Triton: for "auto" where x is a single row on a GPU.

    Raises ValueError if the backend is "triton" and they cannot.
    """
    if not _asks_triton(x, backend):
        return False
    reason = _why_none_takes("x", x)
    if reason is None and x.shape[:-1].numel() != 1:
        reason = f"x is {list(x.shape)}, and more rows than one are a matrix product"
    if reason is None and not all(weight.is_contiguous() and weight.dtype == x.dtype for weight in weights):
        reason = f"x is {x.dtype}; weights must have its dtype and be contiguous"
    if reason is not None:
        _refuse(reason, backend)
    return reason is None


def convolves_in_triton(x: Tensor, weight: Tensor, backend: str) -> bool:
    """Whether a short convolution runs in Triton: for "auto" where x is on a GPU and the kernels take it.

    Raises ValueError if the backend is "triton" and they do not.
    """
    if not _asks_triton(x, backend):
        return False
    reason = _why_none_takes("x", x) or _why_none_takes("weight", weight)
    if reason is None and len(weight) > LARGEST_CONVOLUTION:
        reason = f"weight has {len(weight)} tokens; the most are {LARGEST_CONVOLUTION}"
    if reason is not None:
        _refuse(reason, backend)
    return reason is None


def interpreted() -> bool:
    """Whether Triton was started with TRITON_INTERPRET=1, which runs kernels on CPU tensors to check their logic."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _asks_triton(q: Tensor, backend: str) -> bool:
    return backend == "triton" or (backend == "auto" and q.is_cuda)


def _refuse(reason: str, backend: str) -> None:
    if backend == "triton":
        raise ValueError(f"backend = 'triton' cannot serve this call: {reason}; use backend = 'auto'")


def _why_no_triton(q: Tensor, v: Tensor) -> str | None:
    """What holds for all of Triton's kernels of rows in heads."""
    if max(q.shape[3], v.shape[3]) > LARGEST_WIDTH:
        return f"K = {q.shape[3]} and V = {v.shape[3]}; the largest width is {LARGEST_WIDTH}"
    return _why_none_takes("q", q)


def _why_none_takes(name: str, x: Tensor) -> str | None:
    if not _installed():
        return "triton is not installed"
    if not (x.is_cuda or interpreted()):
        return f"{name} is on {x.device}, and Triton needs a GPU"
    if x.dtype not in _DTYPES:
        return f"{name} is {x.dtype}; supported are float32, bfloat16 and float16"
    return None


@lru_cache(maxsize=1)
def _installed() -> bool:
    return find_spec("triton") is not None
