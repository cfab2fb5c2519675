"""Causal attention within documents on a GPU, as one operator whose shapes do not depend on where documents begin.

cuDNN's dense kernel is the fastest there is for a whole sequence (30 % ahead of FlexAttention and of FlashAttention 2
on an H200), but it knows no documents; its ragged kernel has wrong gradients (torch 2.11, cuDNN 9.19). So the kernel is
chosen by how a batch is packed, which the host knows, so that neither the GPU nor a compiler waits:

    no boundary within a sequence     one dense call
    few documents                     a dense call for each, and for what lies between them
    many documents                    FlashAttention 2 for ragged sequences

A dense call for a document computes on to the next multiple of GRAIN tokens, since cuDNN plans anew for each length.
What follows a document is not read by it, and gets no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Packing", "packed_attention", "why_not_packed"]

GRAIN = 1024
"""Tokens by which dense calls for documents are rounded up."""

_FEW = 3
"""Documents a sequence; with more of them their rounding costs more than FlashAttention 2."""

_LARGEST_HEAD = 128
_OLDEST = 90500
"""cuDNN 9.5, from which on torch prefers it on Hopper."""

# Asked here, since the question would break the graph of a compiler, as torch.cuda.get_device_capability does.
_CUDNN = torch.backends.cudnn.version() or 0

aten = torch.ops.aten


@dataclass(frozen=True)
class Packing:
    """Where documents begin in a flattened batch of B sequences of T tokens, ascending, then B·T in all other places.

    The same int32 `[B·T + 1]` on the device and on the host: nobody has to wait for the other.
    """

    bounds: Tensor
    on_host: Tensor

    @classmethod
    def of(cls, document_starts: Tensor, device: torch.device) -> Packing:
        """From int `[B, T]` on the CPU, where in its sequence each token's document starts."""
        batch, length = document_starts.shape
        begins = (document_starts == torch.arange(length)).flatten().nonzero().squeeze(1)
        bounds = torch.full((batch * length + 1,), batch * length, dtype=torch.int32)
        bounds[: len(begins)] = begins
        given = bounds.pin_memory() if device.type == "cuda" else bounds
        return cls(given.to(device, non_blocking=True), bounds)


def why_not_packed(q: Tensor, v: Tensor, window: int | None) -> str | None:
    """Why this operator does not compute an attention; None if it does."""
    if q.device.type != "cuda":
        return "it is on no GPU"
    if q.dtype not in (torch.bfloat16, torch.float16):
        return f"its operands are {q.dtype}"
    if window is not None:
        return "it has a window"
    if q.shape[-1] != v.shape[-1] or q.shape[-1] % 8 or q.shape[-1] > _LARGEST_HEAD:
        return f"its heads have {q.shape[-1]} and {v.shape[-1]} numbers, not one multiple of 8 up to {_LARGEST_HEAD}"
    if torch.cuda.get_device_properties(q.device).major < 8:
        return "the GPU is older than Ampere"
    if _CUDNN < _OLDEST:
        return "there is no cuDNN of a version that has been tried"
    return None


def packed_attention(q: Tensor, k: Tensor, v: Tensor, packing: Packing | None, scale: float | None) -> Tensor:
    """y `[B, T, H, V]`; operands as in `attention`, of a kind that `why_not_packed` has nothing against."""
    bounds, on_host = (None, None) if packing is None else (packing.bounds, packing.on_host)
    y: Tensor = _forward(q, k, v, bounds, on_host, q.shape[-1] ** -0.5 if scale is None else scale)[0]
    return y


class _Span(NamedTuple):
    """Sequences `first` to `last` from token `begin` to `end`, all of which are one document each."""

    first: int
    last: int
    begin: int
    end: int


def _begins(on_host: Tensor | None, total: int) -> list[int]:
    """Where documents begin in the flattened batch; [0] stands for whole sequences."""
    if on_host is None:
        return [0]
    found = on_host.numpy()
    return found[: int(found.searchsorted(total))].tolist()


def spans_of(begins: list[int], batch: int, length: int) -> Iterator[_Span]:
    """Dense pieces of a batch: runs of sequences without a boundary, and the documents of the others."""
    inside = [begin for begin in begins if begin % length]
    cut = sorted({begin // length for begin in inside})
    whole = 0
    for sequence in cut:
        if whole < sequence:
            yield _Span(whole, sequence, 0, length)
        own = [0, *(begin % length for begin in inside if begin // length == sequence), length]
        for begin, end in pairwise(own):
            yield _Span(sequence, sequence + 1, begin, end)
        whole = sequence + 1
    if whole < batch:
        yield _Span(whole, batch, 0, length)


def _by_documents(begins: list[int], batch: int, length: int) -> list[_Span] | None:
    """The dense pieces if they are few; None for FlashAttention 2."""
    if len(begins) > _FEW * batch:
        return None
    return list(spans_of(begins, batch, length))


def _piece(x: Tensor, span: _Span, fill: float | None = None) -> Tensor:
    """`x [B, T, …]` of a span, to the next multiple of GRAIN; behind the document `fill`, or whatever is there."""
    length = span.end - span.begin
    wanted = min(-(-length // GRAIN) * GRAIN, x.shape[1])
    if wanted == length or (fill is None and span.begin + wanted <= x.shape[1]):
        return x[span.first : span.last, span.begin : span.begin + wanted]
    piece = x.new_full((span.last - span.first, wanted, *x.shape[2:]), 0.0 if fill is None else fill)
    piece[:, :length] = x[span.first : span.last, span.begin : span.end]
    return piece


@torch.library.custom_op("glm_kernels::packed_attention", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None, on_host: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """y `[B, T, H, V]`, and the logarithms of the softmax's sums: fp32 `[B·T·H]`, in an order of its own."""
    batch, length, heads, _ = q.shape
    begins = _begins(on_host, batch * length)
    spans = _by_documents(begins, batch, length)
    if spans is None:
        longest, cumulative = _ragged(begins, bounds, batch * length)
        rows = (x.flatten(0, 1) for x in (q, k, v))
        found = aten._flash_attention_forward(
            *rows, cumulative, cumulative, longest, longest, 0.0, True, False, scale=scale
        )
        return found[0].view_as(q), found[1].flatten()
    if len(spans) == 1:
        y, log_sums = _dense(q, k, v, scale)
        return y.contiguous(), log_sums.flatten()
    y = torch.empty_like(q, memory_format=torch.contiguous_format)
    log_sums = torch.empty(batch, length, heads, dtype=torch.float32, device=q.device)
    for span in spans:
        found, sums = _dense(_piece(q, span), _piece(k, span), _piece(v, span), scale)
        own = span.end - span.begin
        y[span.first : span.last, span.begin : span.end] = found[:, :own]
        log_sums[span.first : span.last, span.begin : span.end] = sums.view(len(found), heads, -1).mT[:, :own]
    return y, log_sums.flatten()


@_forward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None, on_host: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:3].numel(), dtype=torch.float32)


@torch.library.custom_op("glm_kernels::packed_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    log_sums: Tensor,
    bounds: Tensor | None,
    on_host: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, heads, _ = q.shape
    begins = _begins(on_host, batch * length)
    spans = _by_documents(begins, batch, length)
    if spans is None:
        longest, cumulative = _ragged(begins, bounds, batch * length)
        rows = (x.flatten(0, 1) for x in (grad, q, k, v, y))
        sums, no_seed = log_sums.view(heads, batch * length), _no_seed(q)
        dq, dk, dv = aten._flash_attention_backward(
            *rows, sums, cumulative, cumulative, longest, longest, 0.0, True, no_seed, no_seed, scale=scale
        )
        return dq.view_as(q), dk.view_as(k), dv.view_as(v)
    if len(spans) == 1:
        sums = log_sums.view(batch, heads, length, 1)
        dq, dk, dv = (x.contiguous() for x in _dense_gradients(grad, q, k, v, y, sums, scale))
        return dq, dk, dv
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    log_sums = log_sums.view(batch, length, heads)
    for span in spans:
        # Behind the document: no gradient comes from there, and with such sums the weights there are 0.
        sums = _piece(log_sums, span, fill=torch.finfo(torch.float32).max).mT.unsqueeze(-1).contiguous()
        pieces = _piece(q, span), _piece(k, span), _piece(v, span), _piece(y, span)
        found = _dense_gradients(_piece(grad, span, fill=0), *pieces, sums, scale)
        for result, piece in zip((dq, dk, dv), found, strict=True):
            result[span.first : span.last, span.begin : span.end] = piece[:, : span.end - span.begin]
    return dq, dk, dv


@_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _ragged(begins: list[int], bounds: Tensor | None, total: int) -> tuple[int, Tensor]:
    """Tokens of the longest document, and where each begins and the last one ends, on the device."""
    assert bounds is not None
    longest = max(end - begin for begin, end in pairwise([*begins, total]))
    return longest, bounds[: len(begins) + 1]


def _no_seed(q: Tensor) -> Tensor:
    """Of dropout, which there is none of."""
    return torch.empty((), dtype=torch.int64, device=q.device)


def _dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """y as `[B, T, H, V]`, and the logarithms of the sums `[B, H, T, 1]`."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    found = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, True, False, scale=scale)
    return found[0].transpose(1, 2), found[1]


def _dense_gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, log_sums: Tensor, scale: float
) -> tuple[Tensor, ...]:
    length, no_seed = q.shape[1], _no_seed(q)
    grad, q, k, v, y = (x.transpose(1, 2) for x in (grad, q, k, v, y))
    found = aten._scaled_dot_product_cudnn_attention_backward(
        grad, q, k, v, y, log_sums, no_seed, no_seed, None, None, None, length, length, 0.0, True, scale=scale
    )
    return tuple(x.transpose(1, 2) for x in found)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _gradients(ctx: Any, grad: Tensor, *unused: Any) -> tuple[Tensor | None, ...]:
    q, k, v, bounds, on_host, y, log_sums = ctx.saved_tensors
    return (*_backward(grad.contiguous(), q, k, v, y, log_sums, bounds, on_host, ctx.scale), None, None, None)


_forward.register_autograd(_gradients, setup_context=_save)
