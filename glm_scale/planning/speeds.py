"""How long pieces of a step take on a GPU, by what was measured of such pieces.

Between measured sizes stands the measured time divided by the least that the data sheet allows, which varies slowly
with sizes. A token mixing that was not measured is taken to be as good as others of its family, anything else to take
that least time; `Speeds.remarks` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

from glm_scale.mixers import MixerError, parse_mixer
from glm_scale.mixers.structure import Structure
from glm_scale.parallel.sequence.costs import Collective
from glm_scale.planning.calibration import Calibration, ExchangeTime, OperatorTime, PassTime
from glm_scale.planning.gpus import GPU
from glm_scale.planning.rates import Point, between

__all__ = ["Mixing", "Speeds", "operator_of"]

_ITEM = 2
"""Bytes of bf16, in which everything is calibrated."""


class Mixing(NamedTuple):
    """A token mixing: `operator` as in `calibration.OperatorTime`, and its sizes."""

    operator: str
    batch: int
    length: int
    heads: int
    key: int
    value: int


def operator_of(structure: Structure, head_dim: int) -> tuple[str, int]:
    """The operator that mixes tokens for a mixer of this structure, and the numbers of its keys."""
    if structure.state is not None:
        return structure.spelling.partition(":")[0], structure.state
    return structure.spelling, head_dim


class Speeds:
    """Seconds on a GPU of what is measured in `calibration`."""

    def __init__(self, calibration: Calibration, gpu: GPU) -> None:
        self.calibration, self.gpu = calibration, gpu
        self._remarks: dict[str, None] = {}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What has been asked for and was not measured, each with what stands in for it."""
        return tuple(self._remarks)

    # Products ------------------------------------------------------------------------------------------------------

    def projection(self, tokens: int, inputs: int, outputs: int) -> tuple[float, float, float]:
        """Of the forward product, and of the gradients of input and weight."""
        sizes, least = (tokens, inputs, outputs), self._least_of_product(tokens, inputs, outputs)
        kinds = ("forward", "input_gradient", "weight_gradient")
        points = self._products
        forward, of_input, of_weight = (self._scaled(points[kind], sizes, least, "matrix products") for kind in kinds)
        return forward, of_input, of_weight

    @cached_property
    def _products(self) -> dict[str, list[Point]]:
        kinds, found = ("forward", "input_gradient", "weight_gradient"), dict[str, list[Point]]()
        for kind in kinds:
            found[kind] = [
                Point(sizes, getattr(one, kind) / self._least_of_product(*sizes))
                for one in self.calibration.matmuls
                for sizes in [(one.tokens, one.inputs, one.outputs)]
            ]
        return found

    def _least_of_product(self, tokens: int, inputs: int, outputs: int) -> float:
        moved = _ITEM * (tokens * inputs + tokens * outputs + inputs * outputs)
        return max(2.0 * tokens * inputs * outputs / self._peak, moved / self.gpu.memory_bandwidth)

    def head(self, tokens: int, width: int, vocabulary: int) -> float:
        """The loss and its gradients: three products, and what is between them."""
        points = [
            Point((one.tokens, one.width, one.vocabulary), one.seconds / self._least_of_head(*sizes))
            for one in self.calibration.heads
            for sizes in [(one.tokens, one.width, one.vocabulary)]
        ]
        sizes = (tokens, width, vocabulary)
        return self._scaled(points, sizes, self._least_of_head(*sizes), "the output head")

    def _least_of_head(self, tokens: int, width: int, vocabulary: int) -> float:
        return 6.0 * tokens * width * vocabulary / self._peak

    def embedding(self, tokens: int, width: int, vocabulary: int) -> float:
        """A look-up of tokens and its gradient."""
        points = [
            Point((one.tokens, one.width, one.vocabulary), one.seconds / self._least_of_embedding(*sizes))
            for one in self.calibration.embeddings
            for sizes in [(one.tokens, one.width, one.vocabulary)]
        ]
        sizes = (tokens, width, vocabulary)
        return self._scaled(points, sizes, self._least_of_embedding(*sizes), "the embedding")

    def _least_of_embedding(self, tokens: int, width: int, vocabulary: int) -> float:
        return _ITEM * width * (4.0 * tokens + vocabulary) / self.gpu.memory_bandwidth

    # Token mixing ----------------------------------------------------------------------------------------------------

    def mixing(self, mixing: Mixing) -> tuple[float, float]:
        """Of the forward and of the backward pass."""
        sizes, least, measured = _sizes(mixing), self._least_of(mixing), self._alike(mixing.operator)
        found = []
        for kind in ("forward", "backward"):
            points = [Point(_sizes(of), getattr(one, kind) / self._least_of(of)) for one, of in measured]
            found.append(self._scaled(points, sizes, least, mixing.operator))
        return found[0], found[1]

    def _alike(self, operator: str) -> list[tuple[OperatorTime, Mixing]]:
        """What was measured of an operator, or else of others whose spellings begin as its own does."""
        family = operator.partition(":")[0]
        measured = self.calibration.operators
        own = [one for one in measured if one.operator == operator]
        others = [one for one in measured if one.operator.partition(":")[0] == family]
        if others and not own:
            self._remarks[f"{operator} (like {', '.join(dict.fromkeys(one.operator for one in others))})"] = None
        return [
            (one, Mixing(one.operator, one.batch, one.length, one.heads, one.key, one.value)) for one in own or others
        ]

    def _least_of(self, mixing: Mixing) -> float:
        """Of a forward pass: arithmetic, and keys, queries, values and results once."""
        _, batch, length, heads, key, value = mixing
        tokens = batch * length * heads
        flops = tokens * _flops(mixing)
        return flops / self._peak + _ITEM * tokens * 2 * (key + value) / self.gpu.memory_bandwidth

    # Memory ----------------------------------------------------------------------------------------------------------

    def copied(self, size: float) -> float:
        """Of work that reads and writes so many bytes as copying does."""
        return size / self._bandwidth(self.calibration.copies, "copies")

    def fused(self, size: float) -> float:
        """The same of compiled kernels."""
        return size / self._bandwidth(self.calibration.fused, "compiled kernels")

    def _bandwidth(self, passes: Sequence[PassTime], what: str) -> float:
        if not passes:
            return self._by_data_sheet(self.gpu.memory_bandwidth, what)
        return sum(one.size for one in passes) / sum(one.seconds for one in passes)

    def update(self, numbers: int) -> tuple[float, float]:
        """AdamW over so many numbers, and the norm of as many gradients."""
        found = []
        for kind, passes in (("update", 28), ("norm", 4)):
            least = passes * numbers / self.gpu.memory_bandwidth
            points = [
                Point((one.numbers,), getattr(one, kind) * self.gpu.memory_bandwidth / (passes * one.numbers))
                for one in self.calibration.updates
            ]
            found.append(self._scaled(points, (numbers,), least, "the optimizer"))
        return found[0], found[1]

    @property
    def host(self) -> float:
        """Of the host's part of a step."""
        return self._by_data_sheet(0.0, "the host") if self.calibration.host is None else self.calibration.host

    # Exchanges -------------------------------------------------------------------------------------------------------

    def exchange(self, collective: Collective, ranks: int, sent: float, calls: int) -> float | None:
        """Of calls by which a rank sends so many bytes altogether, within a machine; None if that was not measured.

        Of the measured numbers of ranks the nearest counts; the smallest message gives the time of a call, the largest
        one the bandwidth.
        """
        measured = [one for one in self.calibration.exchanges if one.collective == collective]
        if not measured:
            return None
        nearest = min({one.ranks for one in measured}, key=lambda other: abs(other - ranks))
        latency, bandwidth = _line([one for one in measured if one.ranks == nearest])
        return calls * latency + sent / bandwidth

    def _scaled(self, points: Sequence[Point], sizes: tuple[float, ...], least: float, what: str) -> float:
        return least * between(points, sizes) if points else self._by_data_sheet(least, what)

    def _by_data_sheet(self, value: float, what: str) -> float:
        self._remarks[f"{what} (by the data sheet)"] = None
        return value

    @property
    def _peak(self) -> float:
        return self.gpu.peak_flops("bf16")


def _sizes(mixing: Mixing) -> tuple[float, ...]:
    return mixing.batch * mixing.heads, mixing.length, mixing.key * mixing.value


@lru_cache(maxsize=1024)
def _flops(mixing: Mixing) -> float:
    """Forward FLOPs of a token and head; kept, since every layout of a run asks for the same ones."""
    try:
        structure = parse_mixer(mixing.operator).structure
    except MixerError:
        structure = None
    if structure is None:
        return 0.0
    if structure.state is not None:
        return float(structure.state_flops * mixing.key * mixing.value)
    return structure.flops_per_token(mixing.length, mixing.key, mixing.value)


def _line(measured: Iterable[ExchangeTime]) -> tuple[float, float]:
    """Seconds of a call, and bytes per second."""
    ordered = sorted(measured, key=lambda one: one.sent)
    small, large = ordered[0], ordered[-1]
    if len(ordered) == 1 or large.seconds <= small.seconds:
        return 0.0, large.sent / large.seconds
    return small.seconds, (large.sent - small.sent) / (large.seconds - small.seconds)
