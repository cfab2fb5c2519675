"""flash-linear-attention's kernels behind our operators: on GPUs, where they can be had, serve a call and are trusted.

Which path a call takes follows from shapes, dtypes, the device and what is installed: never from a time or a rank. Its
kernels tune themselves, so that two processes may round differently: with deterministic algorithms ours are taken.
Gradients are always taken to be needed, so that a model computes the same whether or not it is being trained.
"""

from __future__ import annotations

import logging
import sys
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glm_kernels import fla

_logger = logging.getLogger(__name__)
_LARGEST_KEY = 256
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def serves(name: str, q: Tensor, v: Tensor, backend: str, *, packed_state: bool = False) -> bool:
    """Whether fla's operator `name` takes the call: for "auto" on a GPU wherever it can, and never on a CPU.

    packed_state: documents beside states, which fla would want for every document.
    Raises ValueError saying why it does not if the backend is "fla".
    """
    if backend not in ("auto", "fla") or (backend == "auto" and not q.is_cuda):
        return False
    reason = _why_not(name, q.dtype, q.shape[3], v.shape[3], packed_state)
    if backend == "fla" and reason is not None:
        raise ValueError(f"backend = 'fla' cannot serve this call of {name}: {reason}; use backend = 'auto'")
    return reason is None


def run(
    name: str,
    operands: tuple[Tensor, ...],
    scale: float,
    document_starts: Tensor | None,
    state: Tensor | None = None,
    output_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """y and the final state of fla's operator over q, k, v, …

    It keeps what its backward pass needs, and is a break in a compiler's graph: as one node it would have to compute
    that again. Documents are laid one behind the other, for which the host waits for the GPU.
    """
    if "torch._dynamo" not in sys.modules:  # which takes more than a second to import, and nobody compiles
        return _run(name, operands, scale, document_starts, state, output_final_state)
    return _uncompiled()(name, operands, scale, document_starts, state, output_final_state)


run._torchdynamo_disable = True  # type: ignore[attr-defined]  # as `torch.compiler.disable` marks what it gives


@lru_cache(maxsize=1)
def _uncompiled() -> Any:
    return torch.compiler.disable(_run)


def _run(
    name: str,
    operands: tuple[Tensor, ...],
    scale: float,
    document_starts: Tensor | None,
    state: Tensor | None,
    output_final_state: bool,
) -> tuple[Tensor, Tensor | None]:
    function: Any = fla.operator(name)
    options: dict[str, Any] = {"scale": scale}
    if state is not None or output_final_state:
        options |= {"initial_state": state, "output_final_state": output_final_state}
    if document_starts is None:
        found = function(*operands, **options)
        return found[0], found[1] if output_final_state else None
    batch, length = operands[0].shape[:2]
    begins = (document_starts == torch.arange(length, device=document_starts.device)).flatten().nonzero().squeeze(1)
    bounds = F.pad(begins, (0, 1), value=batch * length).to(operands[0].device)
    y = function(*(x.flatten(0, 1).unsqueeze(0) for x in operands), cu_seqlens=bounds, **options)[0]
    return y.view(batch, length, *y.shape[2:]), None


def _why_not(name: str, dtype: torch.dtype, key: int, value: int, packed_state: bool) -> str | None:
    """Why fla does not take a call with keys and values so wide, None if it does; said once in either case."""
    reason = _unserved(name, dtype, key, value, packed_state) or fla.why_not(name)
    _tell(name, reason)
    return reason


# Compilers are told the answer: what is asked for it is nothing that they can look into, and would break their graphs.
_why_not._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as `assume_constant_result` marks what it gives


def _unserved(name: str, dtype: torch.dtype, key: int, value: int, packed_state: bool) -> str | None:
    if torch.are_deterministic_algorithms_enabled():
        return (
            "deterministic algorithms are asked for, and its autotuner chooses by time in which order numbers are added"
        )
    if packed_state:
        return "states of packed documents are ours alone"
    if dtype not in _DTYPES:
        return f"q is {dtype}"
    if key > _LARGEST_KEY:
        return f"K = {key}; its largest is {_LARGEST_KEY}"
    if name == "log_linear" and (value & (value - 1) or key % 64):
        return f"it needs K of a multiple of 64 and V of a power of two, but K = {key} and V = {value}"
    return None


@lru_cache(maxsize=64)
def _tell(name: str, reason: str | None) -> None:
    """Once for every reason."""
    if reason is None:
        _logger.info("%s runs on flash-linear-attention's kernels", name)
    else:
        _logger.warning("%s runs in torch and not on flash-linear-attention's kernels: %s", name, reason)
