"""Which kernels serve a call, and why none of Triton's does. Importing this module imports no Triton."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from glm_kernels.calls import RecurrenceCall, RecurrenceKernel, SSMCall, SSMKernel
from glm_kernels.torch_backend import recurrence as torch_recurrence
from glm_kernels.torch_backend import ssm as torch_ssm

LARGEST_WIDTH = 256
"""Of K and V in Triton's kernels."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def recurrence_kernel(call: RecurrenceCall, backend: str) -> RecurrenceKernel:
    """The kernels for `backend`: "torch", "triton", or "auto" for the fastest that serve the call.

    Raises ValueError if the backend is "triton" and no kernels of it serve the call.
    """
    if backend == "torch" or (backend == "auto" and not call.q.is_cuda):
        return torch_recurrence
    reason = _why_no_triton(call.q, call.v)
    if reason is None:
        from glm_kernels.triton_backend import lifetime

        reason = lifetime.why_not(call)
        if reason is None:
            return lifetime
    if backend == "triton":
        raise ValueError(f"backend = 'triton' cannot serve this call: {reason}; use backend = 'auto'")
    return torch_recurrence


def ssm_kernel(call: SSMCall, backend: str) -> SSMKernel:
    """As `recurrence_kernel`."""
    if backend == "torch" or (backend == "auto" and not call.q.is_cuda):
        return torch_ssm
    reason = _why_no_triton(call.q, call.v)
    if reason is None:
        from glm_kernels.triton_backend import ssm

        return ssm
    if backend == "triton":
        raise ValueError(f"backend = 'triton' cannot serve this call: {reason}; use backend = 'auto'")
    return torch_ssm


def steps_in_triton(q: Tensor, v: Tensor, state: Tensor, backend: str) -> bool:
    """Whether one token of decoding, of any operator, runs in Triton: for "auto" where it can and q is on a GPU.

    Raises ValueError if the backend is "triton" and it cannot.
    """
    if backend == "reference":
        raise ValueError("backend = 'reference' has no step of its own; allowed are auto, triton, torch")
    if backend == "torch" or (backend == "auto" and not q.is_cuda):
        return False
    reason = _why_no_triton(q, v)
    if reason is None and state.dtype != torch.float32:
        reason = f"the state is {state.dtype}; supported is float32"
    if reason is not None and backend == "triton":
        raise ValueError(f"backend = 'triton' cannot serve this call: {reason}; use backend = 'auto'")
    return reason is None


def interpreted() -> bool:
    """Whether Triton was started with TRITON_INTERPRET=1, which runs kernels on CPU tensors to check their logic."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _why_no_triton(q: Tensor, v: Tensor) -> str | None:
    """What holds for all of Triton's kernels."""
    if not _installed():
        return "triton is not installed"
    if not (q.is_cuda or interpreted()):
        return f"q is on {q.device}, and Triton needs a GPU"
    if q.dtype not in _DTYPES:
        return f"q is {q.dtype}; supported are float32, bfloat16 and float16"
    if max(q.shape[3], v.shape[3]) > LARGEST_WIDTH:
        return f"K = {q.shape[3]} and V = {v.shape[3]}; the largest width is {LARGEST_WIDTH}"
    return None


@lru_cache(maxsize=1)
def _installed() -> bool:
    return find_spec("triton") is not None
