"""What is measured, and how: a model of one mixer, so many documents at once, so many tokens before the one drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from glm_scale.bench.parts import SIZES
from glm_scale.errors import UserError
from glm_scale.mixers import MixerError, parse_hybrid
from glm_scale.model import ModelConfig

__all__ = ["WARM_UP", "Case", "Setting", "model_config"]

WARM_UP = 4
"""Tokens before those that count."""

_SPELLING = re.compile(r"(?P<mixer>.+)@(?P<context>\d+)x(?P<batch>\d+)")


@dataclass(frozen=True)
class Case:
    """One line of the table. `mixer` is a spelling, several joined by "+" for a hybrid."""

    mixer: str
    context: int
    batch: int

    def __str__(self) -> str:
        return f"{self.mixer}@{self.context}x{self.batch}"

    @classmethod
    def parse(cls, spelling: str) -> Self:
        """The reverse of str. Raises ValueError for something else."""
        found = _SPELLING.fullmatch(spelling)
        if not found:
            raise ValueError(f"{spelling!r} is no case")
        return cls(found["mixer"], int(found["context"]), int(found["batch"]))


@dataclass(frozen=True)
class Setting:
    """What all cases of a table share.

    steps: tokens of a round, of which the median counts. fill: how a case comes to its context, "read": the training
    kernels read random tokens; "random": caches are filled with random numbers. graph: None for what the device has.
    """

    size: str
    precision: Literal["bf16", "fp32"]
    steps: int = 32
    rounds: int = 5
    fill: Literal["read", "random"] = "read"
    checked: bool = True
    graph: bool | None = None

    @property
    def tokens(self) -> int:
        """Decoded by a case after its context was filled."""
        return WARM_UP + self.steps * self.rounds

    def to_json(self) -> dict[str, Any]:
        """For a process, and for a file of results."""
        return asdict(self)

    def cases(self, mixers: Iterable[str], batches: Iterable[int], contexts: Iterable[int]) -> list[Case]:
        """All of them, mixer by mixer, short contexts first. Raises UserError saying what is wrong."""
        if self.size not in SIZES:
            raise UserError(f"--size {self.size}: known are {', '.join(SIZES)}")
        batches, contexts = sorted(set(batches)), sorted(set(contexts))
        if not batches or batches[0] < 1:
            raise UserError(f"--batch {','.join(map(str, batches))}: give numbers of documents ≥ 1, as in 1,64")
        if not contexts or contexts[0] <= self.tokens:
            raise UserError(
                f"--contexts {','.join(map(str, contexts))}: {self.tokens} tokens of each context are decoded and the "
                f"rest is there before; give contexts above {self.tokens}, or fewer --steps"
            )
        for mixer in mixers:
            try:
                parse_hybrid(mixer)
            except MixerError as error:
                raise UserError(f"--mixers: {error}") from error
        return [Case(mixer, n, batch) for mixer in mixers for n in contexts for batch in batches]


def model_config(mixer: str, size: str) -> ModelConfig:
    """The model whose decoding is measured."""
    shape = SIZES[size]
    return ModelConfig(
        vocab_size=shape.vocabulary,
        layers=shape.layers,
        width=shape.width,
        heads=shape.heads,
        mlp_width=shape.hidden,
        mixers=tuple(spec.name for spec in parse_hybrid(mixer)),
    )
