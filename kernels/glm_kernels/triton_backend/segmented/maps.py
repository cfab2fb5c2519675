"""Device functions by which forward and backward passes store the affine maps of a segment.

Tiles lie transposed, tokens in columns: so a product comes out the way round in which the next one needs it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.common.numerics import packed, unit_of
from glm_kernels.triton_backend.common.tiles import lanes, places


@triton.jit
def store_affine(
    map_, add, token_map, unit, y, first, r, there, h, H, s, lane, S: tl.constexpr, V: tl.constexpr, V2: tl.constexpr
):  # fmt: skip
    """How a chunk's tokens depend on what enters the segment: map_ `[S, C]` and add `[V2, C]`.

    token_map `[tokens, H, S]`; y `[tokens, H, V]` holds add as float16 in units `[tokens, H]` unless it is float32.
    """
    tl.store(places(token_map, first, r, h, H, s, S), tl.trans(map_), mask=there[:, None])
    unit_c, inverse_unit = unit_of(tl.max(tl.abs(add), 0), 0)
    tl.store(unit + (first.to(tl.int64) * H + h + r * H), unit_c, mask=there)
    stored = tl.trans(packed(add, inverse_unit, y.dtype.element_ty))
    tl.store(places(y, first, r, h, H, lane, V), stored, mask=lanes(there[:, None], lane, V, V2))


@triton.jit
def store_segment(
    map_, add, segment_map, segment_add, segment, h, H, s, lane, S: tl.constexpr, V: tl.constexpr
):  # fmt: skip
    """How what leaves the segment depends on what enters it: map_ `[S, S]` and add `[V2, S]`, both in fp32."""
    of_segment = (segment.to(tl.int64) * H + h) * S + s[:, None]
    tl.store(segment_map + of_segment * S + s[None, :], tl.trans(map_))
    tl.store(segment_add + of_segment * V + lane[None, :], tl.trans(add), mask=(lane < V)[None, :])
