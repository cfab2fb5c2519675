"""Which kernel computes an attention: by the device, the precision and the window, never by a measurement.

On GPUs cuDNN's, and FlexAttention for windows and for what cuDNN does not take. On CPU, where FlexAttention has no
backward pass, a window becomes SDPA over pairs of blocks (memory O(T·w)) and packed documents one SDPA call each; under
a compiler, which cannot know how many there are, one SDPA call with a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary

from glm_kernels.attention.packed import Packing, packed_attention, why_not_packed


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None = None,
    document_starts: Tensor | None = None,
    packing: Packing | None = None,
    scale: float | None = None,
) -> Tensor:
    """Causal softmax attention within documents.

    q `[B, T, H, K]`; k `[B, T, G, K]` and v `[B, T, G, V]` of as many heads or of G that divide H: then head h of the
    queries reads key and value h · G // H. window: a row attends to itself and the window − 1 rows before it, None for
    all. document_starts: int `[B, T]`, the row at which each token's document starts. packing: the same documents; on
    GPUs cuDNN takes it, and does not know them otherwise. scale: K^-0.5 unless given.
    Returns `[B, T, H, V]`. Raises ValueError for a window < 1.
    """
    if window is not None and window < 1:
        raise ValueError(f"window = {window}; a row attends at least to itself, so it must be ≥ 1")
    k, v = for_every_head(k, q.shape[2]), for_every_head(v, q.shape[2])
    length = q.shape[1]
    if window is not None and window >= length:
        window = None
    on_cpu = q.device.type == "cpu"
    # Elsewhere looking would make the host wait for the device in every layer.
    if document_starts is not None and on_cpu and not torch.compiler.is_compiling() and not bool(document_starts.any()):
        document_starts = None
    if (document_starts is None or packing is not None) and why_not_packed(q, v, window) is None:
        return packed_attention(q, k, v, packing if document_starts is not None else None, scale)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if window is None and document_starts is None:
        y = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    elif not on_cpu:
        y = _flex(q, k, v, window, document_starts, scale)
    elif window is not None:
        y = _block_pairs(q, k, v, window, document_starts, scale)
    else:
        assert document_starts is not None
        attend = _masked if torch.compiler.is_compiling() else _by_document
        y = attend(q, k, v, document_starts, scale)
    return y.transpose(1, 2)


def for_every_head(x: Tensor, heads: int) -> Tensor:
    """Keys or values `[B, T, G, D]` as `[B, T, heads, D]`: each for heads / G heads, one behind the other.

    Raises ValueError if G does not divide the heads.
    """
    if x.shape[2] == heads:
        return x
    if heads % x.shape[2]:
        raise ValueError(f"{x.shape[2]} heads of keys or values cannot be shared by {heads} heads of queries")
    return x.repeat_interleave(heads // x.shape[2], 2)


@lru_cache(maxsize=2)
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """FlexAttention and its masks materialise every pair of rows unless they are compiled."""
    return torch.compile(function)


def _flex(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, document_starts: Tensor | None, scale: float | None
) -> Tensor:
    mask = _block_mask(q.shape[2], window, document_starts, q.device)
    y = _compiled(flex_attention)(q, k, v, block_mask=mask, scale=scale)
    assert isinstance(y, Tensor)
    return y


def _block_mask(length: int, window: int | None, document_starts: Tensor | None, device: torch.device) -> BlockMask:
    """Which rows attend to which; made once for all layers that share a tensor of document starts."""
    if document_starts is None and not torch.compiler.is_compiling():
        return _window_mask(length, window, device)
    if document_starts is None or not _may_be_kept(document_starts):
        return _new_block_mask(length, window, document_starts, device)
    known = _packed_masks.setdefault(document_starts, {})
    version, mask = known.get(window, (None, None))
    if version != document_starts._version:
        # A copy, since a mask that held the tensor itself would keep it alive, and be kept with it.
        mask = _new_block_mask(length, window, document_starts.clone(), device)
        known[window] = document_starts._version, mask
    return mask


_packed_masks = WeakTensorKeyDictionary()
"""Of each tensor of document starts: by window, its mask and the version of the tensor that the mask was made of."""


def _may_be_kept(document_starts: Tensor) -> bool:
    """Not where somebody else runs the same work again on other contents: a compiler, a CUDA graph."""
    if torch.compiler.is_compiling() or document_starts.is_inference():
        return False
    return not (document_starts.is_cuda and torch.cuda.is_current_stream_capturing())


@lru_cache(maxsize=16)
def _window_mask(length: int, window: int | None, device: torch.device) -> BlockMask:
    return _new_block_mask(length, window, None, device)


def _new_block_mask(length: int, window: int | None, document_starts: Tensor | None, device: torch.device) -> BlockMask:
    reach = length if window is None else window

    def reads(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        allowed = (j <= i) & (i - j < reach)
        return allowed if document_starts is None else allowed & (document_starts[b, i] <= j)

    rows = None if document_starts is None else len(document_starts)
    return _compiled(create_block_mask)(reads, rows, None, length, length, device=str(device))


def _masked(q: Tensor, k: Tensor, v: Tensor, document_starts: Tensor, scale: float | None) -> Tensor:
    rows = torch.arange(q.shape[2], device=q.device)
    reads = (document_starts.unsqueeze(2) <= rows) & (rows <= rows.unsqueeze(1))
    return scaled_dot_product_attention(q, k, v, attn_mask=reads.unsqueeze(1), scale=scale)


def _by_document(q: Tensor, k: Tensor, v: Tensor, document_starts: Tensor, scale: float | None) -> Tensor:
    length = q.shape[2]
    rows = []
    for b, starts in enumerate(document_starts):
        bounds = [*starts.unique().tolist(), length]
        spans = [slice(start, end) for start, end in pairwise(bounds)]
        documents = [
            scaled_dot_product_attention(
                q[b : b + 1, :, span], k[b : b + 1, :, span], v[b : b + 1, :, span], is_causal=True, scale=scale
            )
            for span in spans
        ]
        rows.append(torch.cat(documents, 2))
    return torch.cat(rows)


def _block_pairs(
    q: Tensor, k: Tensor, v: Tensor, window: int, document_starts: Tensor | None, scale: float | None
) -> Tensor:
    """A block of `window` rows attends to itself and the block before it, which hold all that a window reaches."""
    batch, _, length, _ = q.shape
    blocks = -(-length // window)
    short = blocks * window - length
    rows = torch.arange(blocks * window, device=q.device).view(blocks, window, 1)
    columns = rows.view(blocks, 1, window)
    columns = torch.cat([columns - window, columns], 2)
    reads = (columns >= 0) & (columns <= rows) & (rows - columns < window)
    if document_starts is not None:
        starts = pad(document_starts, (0, short)).view(batch, blocks, window, 1)
        # A padding row reads itself only, so that its softmax is defined.
        reads = reads & ((columns >= starts) | (columns == rows))

    def folded(x: Tensor) -> Tensor:
        """`[B, H, T, D]` → `[B, blocks, H, window, D]`."""
        return pad(x, (0, 0, 0, short)).unflatten(2, (blocks, window)).transpose(1, 2)

    def with_previous(x: Tensor) -> Tensor:
        x = folded(x)
        return torch.cat([pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], x], 3)

    y = scaled_dot_product_attention(
        folded(q).flatten(0, 1),
        with_previous(k).flatten(0, 1),
        with_previous(v).flatten(0, 1),
        attn_mask=reads.expand(batch, blocks, window, 2 * window).flatten(0, 1).unsqueeze(1),
        scale=scale,
    )
    return y.unflatten(0, (batch, blocks)).transpose(1, 2).flatten(2, 3)[:, :, :length]
