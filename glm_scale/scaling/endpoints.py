"""Finished runs as the points of scaling curves: what each became, and at what cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from glm_scale.scaling.curves import TrainedRun
from glm_scale.scaling.laws import Point

__all__ = ["Endpoint", "best_rates", "endpoints_of"]

_TRAINING_PASSES = 3
"""Training takes the forward pass, and twice as many FLOPs for the backward pass."""


@dataclass(frozen=True)
class Endpoint:
    """A finished run with its final validation loss, in nats per token. None: not measured, or not said.

    `parameters`: outside the embeddings; `all_parameters`: with them. `flops` and `seconds`: of training it, with what
    it began from. `cache`: bytes of one document of the sequences' length. `decode_flops`: of a decoded token, as the
    mean over such a document. `tokens_per_second`: of training. `trunk`: the run that it shares a beginning with, else
    itself. `rate`: the peak of the learning rate, as configured.
    """

    run: str
    mixer: str
    parameters: int
    all_parameters: int
    tokens: int
    loss: float
    flops: float
    seed: int
    trunk: str
    bits_per_byte: float | None = None
    seconds: float | None = None
    cache: int | None = None
    decode_flops: float | None = None
    tokens_per_second: float | None = None
    rate: float | None = None

    @classmethod
    def of(cls, run: TrainedRun) -> Endpoint | None:
        """None for a run that has not finished, or has no final validation loss."""
        if run.status != "finished" or run.provisional or run.validation_loss is None:
            return None
        summary = run.summary
        branch, training = (_group(run.config.get(key)) for key in ("branch", "training"))
        seed, rate = training.get("seed"), _group(training.get("optimizer")).get("learning_rate")
        return cls(
            run=run.name,
            mixer=run.mixer,
            parameters=summary.non_embedding_parameters,
            all_parameters=summary.parameters,
            tokens=run.tokens,
            loss=run.validation_loss,
            flops=run.flops,
            seed=seed if isinstance(seed, int) else 0,
            trunk=str(branch.get("run", run.name)),
            bits_per_byte=run.bits_per_byte,
            seconds=run.seconds or None,
            cache=summary.cache_bytes,
            decode_flops=summary.train_flops_per_token / _TRAINING_PASSES or None,
            tokens_per_second=run.tokens_per_second,
            rate=float(rate) if isinstance(rate, int | float) else None,
        )

    @property
    def point(self) -> Point:
        """For a law. Runs that share a beginning share noise."""
        return Point(self.mixer, self.parameters, self.tokens, self.loss, self.seed, self.trunk)


def endpoints_of(runs: Iterable[TrainedRun]) -> list[Endpoint]:
    """Of the runs that have finished with a final validation loss, in their order."""
    return [endpoint for run in runs if (endpoint := Endpoint.of(run)) is not None]


def best_rates(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Of runs that differ neither in mixer nor size nor tokens nor seed, as in the learning rate alone, the best."""
    best: dict[tuple[Any, ...], Endpoint] = {}
    for endpoint in endpoints:
        key = endpoint.mixer, endpoint.parameters, endpoint.tokens, endpoint.seed
        if key not in best or endpoint.loss < best[key].loss:
            best[key] = endpoint
    return list(best.values())


def _group(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
