"""`A > B`: an input mixing in front of a recurrence, Y = (I − B)^-1 A X with a non-trivial A.

`local:128 > lattice:2^k` first lets windowed attention mix the values, V ← A X, then the recurrence reads V. Each
side has queries and keys of its own; the value and output projections are shared, so a composition costs two more
projections than a mixer alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from glm_scale.mixers.contract import Look, Mixer, MixerDims, MixerError, MixerSpec
from glm_scale.mixers.heads import MultiHead, StageSpec
from glm_scale.mixers.structure import Structure


@dataclass(frozen=True)
class ComposedSpec:
    """An input mixing and the recurrence that reads its outputs."""

    inputs: StageSpec
    outputs: StageSpec

    @property
    def name(self) -> str:
        """As `MixerSpec.name`."""
        return f"{self.inputs.name} > {self.outputs.name}"

    @property
    def structure(self) -> Structure | None:
        """The band of the input mixing and the recurrence's pattern."""
        front, back = self.inputs.structure, self.outputs.structure
        if front is None or back is None:
            return None
        return replace(back, spelling=self.name, input_width=front.input_width)

    @property
    def look(self) -> Look:
        """The recurrence's."""
        return self.outputs.look

    def build(self, dims: MixerDims) -> Mixer:
        """A mixer of two stages."""
        return MultiHead(self.name, dims, [self.inputs.stage(dims), self.outputs.stage(dims)])


def compose(spelling: str, parts: list[MixerSpec]) -> ComposedSpec:
    """The composition of two parsed parts of `spelling`. Raises MixerError if they are not an A and a B."""
    if len(parts) != 2:
        raise MixerError(
            f"mixer {spelling!r} has {len(parts)} parts, but a composition is one input mixing and one recurrence, "
            "as in 'local:128 > lattice:2^k'"
        )
    inputs, outputs = parts
    if not isinstance(inputs, StageSpec) or inputs.mixes != "inputs":
        raise MixerError(
            f"mixer {spelling!r}: {inputs.name!r} cannot stand before '>', which takes attention or local:w, "
            "as in 'local:128 > lattice:2^k'"
        )
    if not isinstance(outputs, StageSpec) or outputs.mixes != "outputs":
        raise MixerError(
            f"mixer {spelling!r}: {outputs.name!r} cannot stand behind '>', which takes a recurrence, "
            f"as in '{inputs.name} > lattice:2^k'"
        )
    return ComposedSpec(inputs, outputs)
