"""Runs in memory whose losses follow a law that is known: no files, no training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from glm_scale.run_directory import RunDirectory, RunStatus, RunSummary
from glm_scale.scaling.answer import Answer, answer
from glm_scale.scaling.comparison import Comparison
from glm_scale.scaling.curves import Curve, TrainedRun
from glm_scale.scaling.endpoints import endpoints_of
from glm_scale.scaling.laws import Law
from glm_scale.scaling.pictures.panels import Subject

WORTH = {"attention": 1.0, "lattice:2^k": 1.4}
"""Of a parameter, in parameters of attention."""
FLOPS = {"attention": 8.0, "lattice:2^k": 6.0}
"""Of training, by parameter and token."""
SIZES, RATIOS, SEEDS = (10**6, 3 * 10**6, 10**7, 3 * 10**7), (5, 20, 80), (0, 1)


def planted(mixer: str) -> Law:
    """The law behind the losses of a mixer."""
    return Law(1.8, 400 / WORTH[mixer] ** 0.35, 900, 0.35, 0.4)


def trained_run(
    mixer: str,
    loss: float,
    *,
    name: str = "",
    parameters: int = 10**6,
    tokens: int = 10**7,
    seed: int = 0,
    speed: float | None = 1e5,
    cache: int | None = 10**6,
    status: RunStatus = "finished",
    bits: float | None = 0.4,
    rate: float | None = None,
) -> TrainedRun:
    """A run whose loss falls as a power of the tokens to `loss`. bits: per byte, for each nat per token."""
    per_token = FLOPS.get(mixer, 6.0) * parameters
    place = np.linspace(0, tokens, 101)[1:]
    took = place / speed if speed else np.zeros(100)
    curve = Curve(place, per_token * place, took, loss * (place / tokens) ** -0.1)
    summary = RunSummary(
        name=name or mixer, mixer=mixer, parameters=2 * parameters, non_embedding_parameters=parameters,
        train_flops_per_token=per_token, sequence_length=512, cache_bytes=cache, status=status, started=0.0,
    )  # fmt: skip
    return TrainedRun(
        RunDirectory(Path("nowhere") / (name or mixer)), summary, status, tokens, per_token * tokens, curve,
        Curve(*(values[9::10] for values in (curve.tokens, curve.flops, curve.seconds, curve.loss))), loss, loss,
        None if bits is None else bits * loss, status != "finished", speed, float(took[-1]),
        {"training": {"seed": seed, "optimizer": {"learning_rate": rate}}},
    )  # fmt: skip


def compared(runs: Iterable[TrainedRun]) -> Comparison:
    """In the order of their losses."""
    return Comparison(tuple(sorted(runs, key=lambda run: run.validation_loss or math.inf)), ())


def ladder_runs(ratios: Iterable[float] = RATIOS, noise: float = 0.0005) -> list[TrainedRun]:
    """Both mixers at all sizes, numbers of tokens per parameter and seeds."""
    random = np.random.default_rng(3)
    return [
        trained_run(
            mixer,
            float(planted(mixer)(size, ratio * size)) * math.exp(noise * random.standard_normal()),
            name=f"{mixer}-{size}-{ratio}-{seed}",
            parameters=size,
            tokens=int(ratio * size),
            seed=seed,
            speed=1e12 / (FLOPS[mixer] * size),
            cache=size if mixer == "lattice:2^k" else 1000 * size,
        )
        for mixer in WORTH
        for size in SIZES
        for ratio in ratios
        for seed in SEEDS
    ]


@lru_cache(maxsize=4)
def ladder(*ratios: float) -> Subject:
    """A ladder and what it says, with attention as the reference."""
    comparison = compared(ladder_runs(ratios or RATIOS))
    return Subject(comparison, answer(endpoints_of(comparison.runs), "attention"))


def said(subject: Subject) -> Answer:
    """The answer of a subject that has one."""
    assert subject.answer is not None
    return subject.answer
