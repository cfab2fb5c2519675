"""What the axes of figures can show: costs, what tells tokens apart or the learning rate across, and losses upwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from glm_scale.errors import UserError
from glm_scale.scaling.answer import Costs
from glm_scale.scaling.curves import Curve, TrainedRun
from glm_scale.scaling.endpoints import Endpoint
from glm_scale.scaling.laws import PowerOfSize
from glm_scale.scaling.pictures.ticks import Unit
from glm_scale.tracking.breakdown import BIGRAM, FOURGRAM, POSITION

__all__ = [
    "ACROSS",
    "COSTS",
    "DISTANCES",
    "LOSSES",
    "Across",
    "Cost",
    "Distance",
    "Loss",
    "Rate",
    "chosen_across",
    "chosen_loss",
]


@dataclass(frozen=True)
class Cost:
    """Something that a model takes. `of`: a finished run; `on_size`: what a model takes by its size, for every token if
    `along`, which is a run while it trains. None: not known. `pays_off`: one that is paid for every use, so that the
    best loss for each amount is of interest."""

    key: str
    name: str
    title: str
    unit: Unit
    of: Callable[[Endpoint], float | None]
    on_size: Callable[[Costs], PowerOfSize | None]
    along: Callable[[Curve], np.ndarray] | None = None
    pays_off: bool = False


@dataclass(frozen=True)
class Distance:
    """A number of tokens by which a loss was taken apart; `cells`: how the names of its cells begin."""

    key: str
    name: str
    title: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Rate:
    """The learning rate, where runs differ in nothing else."""

    key: str = "rate"
    name: str = "learning rate"
    title: str = "peak of the learning rate, as configured"
    unit: Unit = "rate"


Across = Cost | Distance | Rate


@dataclass(frozen=True)
class Loss:
    """A scale of losses; `per_nat`: what one nat per token of a run is on it, None if that is not known."""

    key: str
    name: str
    title: str
    per_nat: Callable[[float | None, float | None], float | None]

    def of_run(self, run: TrainedRun) -> float | None:
        """`per_nat` of a run."""
        return self.per_nat(run.bits_per_byte, run.validation_loss)

    def of_endpoint(self, endpoint: Endpoint) -> float | None:
        """`per_nat` of a finished run."""
        return self.per_nat(endpoint.bits_per_byte, endpoint.loss)

    def at(self, endpoint: Endpoint) -> float:
        """The final loss of a finished run, of which `per_nat` is known."""
        return endpoint.loss * (self.of_endpoint(endpoint) or 0.0)


_ONE, _SIZE = PowerOfSize(1.0, 0.0), PowerOfSize(1.0, 1.0)

COSTS = (
    Cost("tokens", "tokens", "training tokens", "count", lambda e: e.tokens, lambda _: _ONE, lambda c: c.tokens),
    Cost("flops", "FLOPs", "training FLOPs", "flops", lambda e: e.flops, lambda c: c.flops, lambda c: c.flops),
    Cost(
        "seconds", "time", "measured time of training", "seconds",
        lambda e: e.seconds, lambda c: c.seconds, lambda c: c.seconds,
    ),
    Cost(
        "parameters", "parameters", "parameters outside the embeddings", "count",
        lambda e: e.parameters, lambda _: _SIZE,
    ),
    Cost(
        "decode_flops", "decode FLOPs", "FLOPs of a decoded token, mean over a sequence", "flops",
        lambda e: e.decode_flops, lambda c: c.decode_flops, pays_off=True,
    ),
    Cost(
        "cache", "cache", "cache of a decoder after one sequence", "bytes",
        lambda e: e.cache, lambda c: c.cache, pays_off=True,
    ),
)  # fmt: skip

DISTANCES = (
    Distance("position", "position", "tokens of its document before the one predicted", (POSITION,)),
    Distance(
        "recall",
        "recall distance",
        "tokens since the bigram that a repeated one ends was last read",
        (BIGRAM, FOURGRAM),
    ),
)

ACROSS: tuple[Across, ...] = (*COSTS, *DISTANCES, Rate())

LOSSES = (
    Loss("loss", "loss", "validation loss (nats per token)", lambda bits, loss: 1.0),
    Loss(
        "bits_per_byte",
        "bits per byte",
        "validation loss (bits per byte)",
        lambda bits, loss: bits / loss if bits and loss else None,
    ),
)


def chosen_across(text: str) -> tuple[Across, ...]:
    """What a comma-separated list names. Raises UserError for what cannot be shown."""
    known = {across.key: across for across in ACROSS}
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UserError(f"--x {text!r}: {name!r} is no axis; there are {', '.join(known)}")
    if not names:
        raise UserError(f"--x {text!r} names no axis; there are {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))


def chosen_loss(text: str) -> Loss:
    """The scale of a name. Raises UserError for others."""
    for loss in LOSSES:
        if loss.key == text:
            return loss
    raise UserError(f"--y {text!r} is no axis; there are {', '.join(loss.key for loss in LOSSES)}")
