"""At which sizes operators are measured: on a GPU those of models that people train on one, on a CPU tiny ones."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OPERATORS", "Heads", "Sizes", "sizes_for"]

OPERATORS = (
    "attention", "lattice:2^k", "ssm", "lattice:k^2+1", "window:64", "offsets:2^k", "dense", "local:128",
)  # fmt: skip
"""Token mixings that are measured unless others are named: the most common first, what compiles longest last."""


@dataclass(frozen=True)
class Heads:
    """`heads` of `width` numbers in each token, and how long sequences of `tokens` in all are."""

    heads: int
    width: int
    tokens: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """tokens: of a micro-batch. models: width, hidden units of the MLP, heads. mixing: of token mixings; `more`: of the
    first three of them as well. numbers: of an optimizer. room: bytes that are copied. messages: bytes of exchanges.
    """

    tokens: tuple[int, ...]
    models: tuple[tuple[int, int, int], ...]
    vocabulary: int
    mixing: Heads
    more: Heads
    numbers: tuple[int, ...]
    room: int
    messages: tuple[int, ...]


def sizes_for(device: str) -> Sizes:
    """Of "cuda" or "cpu"."""
    if device == "cpu":
        return Sizes(
            tokens=(32, 64), models=((16, 32, 2), (32, 64, 4)), vocabulary=64, mixing=Heads(2, 8, 64, (16, 64)),
            more=Heads(4, 8, 64, (16,)), numbers=(1000,), room=1 << 16, messages=(64, 1 << 16),
        )  # fmt: skip
    return Sizes(
        tokens=(8192, 32768),
        models=((768, 2048, 12), (1024, 2752, 16), (2048, 5632, 16), (4096, 10944, 32)),
        vocabulary=32768,
        mixing=Heads(16, 128, 32768, (2048, 8192, 32768)),
        more=Heads(12, 64, 65536, (2048, 8192)),
        numbers=(1 << 25, 1 << 28),
        room=1 << 30,
        messages=(1 << 12, 1 << 22, 1 << 28),
    )
