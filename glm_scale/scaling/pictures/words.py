"""What a figure says of a run when someone points at it."""

from __future__ import annotations

from glm_scale.scaling.comparison import quantity
from glm_scale.scaling.endpoints import Endpoint

__all__ = ["words_of"]


def words_of(end: Endpoint) -> tuple[str, ...]:
    """What there is to say of a run when someone points at it; its name first."""
    took = [
        f"{end.flops:.3g} FLOPs",
        f"{end.seconds:,.0f} s" if end.seconds else "",
        f"seed {end.seed}",
        f"rate {end.rate:g}" if end.rate else "",
    ]
    uses = [
        f"cache {quantity(end.cache)}B" if end.cache else "",
        f"{quantity(end.decode_flops)} FLOPs a decoded token" if end.decode_flops else "",
        f"{end.tokens_per_second:,.0f} tokens/s" if end.tokens_per_second else "",
    ]
    bits = f", {end.bits_per_byte:.4f} bits per byte" if end.bits_per_byte else ""
    return (
        end.run,
        end.mixer,
        f"N {quantity(end.parameters)} ({quantity(end.all_parameters)} with embeddings)",
        f"D {quantity(end.tokens)} tokens, {end.tokens / max(end.parameters, 1):.3g} per parameter",
        f"loss {end.loss:.4f} nats per token{bits}",
        ", ".join(filter(None, took)),
        ", ".join(filter(None, uses)),
    )
