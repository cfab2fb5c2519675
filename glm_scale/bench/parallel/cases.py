"""What is measured: a mixer, the strategy that spreads its tokens, and over how many ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import torch

from glm_scale.bench.calls import DTYPES
from glm_scale.errors import UserError
from glm_scale.layers.rotary import Rotary
from glm_scale.mixers import parse_mixer
from glm_scale.mixers.contract import Mixer, MixerDims
from glm_scale.parallel.sequence.costs import Spread
from glm_scale.parallel.sequence.strategies import SequenceStrategy, possible

__all__ = ["Case", "Setting"]

_MOST_RANKS = 64
"""Of one machine."""


@dataclass(frozen=True)
class Case:
    """strategy: None of one rank."""

    mixer: str
    strategy: SequenceStrategy | None
    ranks: int

    def __str__(self) -> str:
        return " ".join([self.mixer, *([self.strategy] if self.strategy else []), f"on {self.ranks}"])


@dataclass(frozen=True)
class Setting:
    """One sequence of `length` tokens; heads of `head_dim` numbers, and as wide a model; `repeats`: of a row of
    passes."""

    length: int
    heads: int
    head_dim: int
    precision: Literal["bf16", "fp32"]
    repeats: int
    device: Literal["cuda", "cpu"]

    @property
    def dims(self) -> MixerDims:
        """The sizes of the layer."""
        return MixerDims(self.heads * self.head_dim, self.heads, self.head_dim, Rotary(self.head_dim, 10_000.0), 1e-5)

    def mixer(self, spelling: str) -> Mixer:
        """The layer, with weights that follow from torch's seed."""
        return parse_mixer(spelling).build(self.dims)

    def cases(self, mixers: Sequence[str], strategies: Sequence[str], ranks: Sequence[int]) -> list[Case]:
        """Of each mixer, all numbers of ranks, with each strategy that was asked for and is possible; "auto" is the
        one that training takes. Raises UserError for what cannot be measured."""
        if wrong := set(strategies) - {"auto", *get_args(SequenceStrategy)}:
            known = ", ".join(["auto", *get_args(SequenceStrategy)])
            raise UserError(f"--strategies {min(wrong)}: known are {known}")
        for count in ranks:
            if not 1 <= count <= _MOST_RANKS or self.length % count:
                raise UserError(
                    f"--ranks {count}: {self.length} tokens are not shared out evenly by so many; at most {_MOST_RANKS}"
                )
        found = [case for spelling in mixers for case in self._of_mixer(spelling, strategies, ranks)]
        return sorted(dict.fromkeys(found), key=lambda case: case.ranks)

    def _of_mixer(self, spelling: str, strategies: Sequence[str], ranks: Sequence[int]) -> list[Case]:
        try:
            with torch.device("meta"):
                mixer = self.mixer(spelling)
        except ValueError as error:
            raise UserError(str(error)) from error
        found = []
        for count in ranks:
            if count == 1:
                found.append(Case(mixer.name, None, 1))
                continue
            able = possible(mixer.sequence_strategies, self.heads, count)
            if not able:
                raise UserError(
                    f"{mixer.name} cannot be spread over {count} ranks; leave it out, or take fewer --ranks"
                )
            wanted = [self._chosen(mixer, count) if one == "auto" else one for one in strategies]
            found += [Case(mixer.name, one, count) for one in able if one in wanted]
        return found

    def _chosen(self, mixer: Mixer, ranks: int) -> SequenceStrategy:
        """By which training spreads the last stage of a mixer."""
        size = DTYPES[self.precision].itemsize
        spread = Spread(ranks, 1, self.length // ranks, self.heads, self.head_dim, size)
        return mixer.spread_parts()[-1].choose_strategy(spread)[0]

    def to_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """The same again."""
        return cls(**found)
