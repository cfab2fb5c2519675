"""Whether what is measured computes the right thing: its losses beside those of the same model in fp32, uncompiled."""

from __future__ import annotations

from dataclasses import dataclass, replace

from glm_scale.bench.measuring import Setting, measure
from glm_scale.bench.parts import Part

__all__ = ["BOUND", "Checked", "check"]

BOUND = 2e-3
"""Of the loss, relatively: what weights and activations in bf16 make of it over 20 steps."""

_LAYERS = 2
_LENGTH = 2048
_IN_FULL = ("training.precision=fp32", "training.compile=false", "training.activation_checkpointing=none")


@dataclass(frozen=True)
class Checked:
    """`error`: the largest relative difference between the losses of a step, which is right within BOUND."""

    part: str
    error: float

    @property
    def right(self) -> bool:
        """Whether the part may be measured."""
        return self.error <= BOUND


def check(part: Part, setting: Setting) -> Checked:
    """Train two layers of the model for 20 steps, as they are measured and in fp32."""
    short = replace(part, length=min(part.length, _LENGTH))
    small = replace(setting, layers=_LAYERS, steps=15)
    fast = measure(short, small).losses
    exact = measure(short, replace(small, overrides=(*small.overrides, *_IN_FULL))).losses
    return Checked(str(part), max(abs(a - b) / b for a, b in zip(fast, exact, strict=True)))
