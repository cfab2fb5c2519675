"""What is measured: a model of a size with one mixer, or a plain transformer, at one length of the sequences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from glm_scale.errors import UserError
from glm_scale.mixers import MixerError, parse_hybrid

__all__ = ["SIZES", "Part", "Size"]


@dataclass(frozen=True)
class Size:
    """A shape of model: `vocabulary` tokens, `hidden` units of the MLP, `tokens` of one optimizer step, which is one
    sequence if that is longer."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    hidden: int
    tokens: int

    @property
    def matrix_parameters(self) -> int:
        """Weights that every token is multiplied by, if a mixer has four projections; the head among them."""
        return self.layers * self.width * (4 * self.width + 3 * self.hidden) + self.vocabulary * self.width

    def sequences(self, length: int) -> int:
        """Of one optimizer step."""
        return max(1, self.tokens // length)

    def plain_flops_per_token(self, length: int) -> float:
        """Forward and backward FLOPs of the plain transformer: 6 a weight, and causal attention."""
        return 6 * self.matrix_parameters + 6 * self.layers * length * self.width


SIZES = MappingProxyType({
    "1.3b": Size(vocabulary=32768, layers=24, width=2048, heads=16, hidden=5632, tokens=32768),
    "160m": Size(vocabulary=32768, layers=16, width=768, heads=12, hidden=2048, tokens=65536),
    "tiny": Size(vocabulary=512, layers=2, width=64, heads=2, hidden=128, tokens=256),
})  # fmt: skip

PLAIN = ("plain:bf16", "plain:fp32")
"""The plain transformer with weights and moments in bf16, and with fp32 weights that a forward pass casts."""

_SPELLING = re.compile(r"(?P<model>.+)@(?P<length>\d+)")


@dataclass(frozen=True)
class Part:
    """One line of the table. `model` is one of PLAIN, or a mixer's spelling, several joined by "+" for a hybrid."""

    model: str
    length: int

    def __str__(self) -> str:
        return f"{self.model}@{self.length}"

    @property
    def plain(self) -> bool:
        """Whether it is the model that the others are compared with."""
        return self.model in PLAIN

    @property
    def mixers(self) -> list[str]:
        """Spellings of its layers' mixers, which repeat through the depth."""
        return [mixer.name for mixer in parse_hybrid(self.model)]

    @classmethod
    def parse(cls, spelling: str) -> Self:
        """A part as in `lattice:2^k@8192`. Raises UserError saying what is wrong with it."""
        found = _SPELLING.fullmatch(spelling)
        if not found or not int(found["length"]):
            raise UserError(f"{spelling!r} is no part; give MODEL@LENGTH, as in attention@8192 or {PLAIN[0]}@8192")
        part = cls(found["model"], int(found["length"]))
        if not part.plain:
            try:
                parse_hybrid(part.model)
            except MixerError as error:
                raise UserError(f"{spelling!r}: {error}; or one of {', '.join(PLAIN)}") from error
        return part
