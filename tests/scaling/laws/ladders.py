"""Ladders of runs whose law is planted: trunks by mixer, size and seed, with a branch for each number of tokens."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glm_scale.scaling.laws.law import Law
from glm_scale.scaling.laws.points import Point

FACTORS = {"attention": (1.0, 1.0), "lattice": (0.8, 0.9), "ssm": (1.3, 1.1)}
"""What a parameter and a token of a mixer are worth, as parts of attention's."""


@dataclass(frozen=True)
class Ladder:
    """`noise` is the relative standard deviation of a loss, `shared` the part of its variance that a trunk has."""

    mixers: int = 2
    sizes: int = 5
    ratios: tuple[float, ...] = (10.0, 20.0, 40.0)
    seeds: int = 2
    noise: float = 0.003
    shared: float = 0.5
    smallest: float = 2e7

    @classmethod
    def drawn(cls, random: np.random.Generator) -> Ladder:
        """One of the kind that a study has."""
        return cls(
            mixers=int(random.integers(2, 4)),
            sizes=int(random.integers(5, 7)),
            ratios=((10.0, 20.0, 40.0), (10.0, 20.0, 40.0, 80.0))[random.integers(2)],
            seeds=int(random.integers(2, 4)),
            noise=random.uniform(0.002, 0.005),
            shared=random.uniform(0.2, 0.8),
        )

    @property
    def laws(self) -> dict[str, Law]:
        """The laws of its mixers."""
        scales = {mixer: FACTORS[mixer] for mixer in list(FACTORS)[: self.mixers]}
        return {mixer: Law(1.8, 400 * u**-0.35, 1500 * v**-0.38, 0.35, 0.38) for mixer, (u, v) in scales.items()}

    def points(self, seed: int = 0) -> list[Point]:
        """Its runs, with noise of this seed."""
        random = np.random.default_rng(seed)
        points = []
        for index, (mixer, law) in enumerate(self.laws.items()):
            for size in range(self.sizes):
                parameters = self.smallest * 2**size * (1 + 0.05 * index)
                for number in range(self.seeds):
                    trunk = self.noise * math.sqrt(self.shared) * random.standard_normal()
                    for ratio in self.ratios:
                        own = self.noise * math.sqrt(1 - self.shared) * random.standard_normal()
                        loss = float(law(parameters, ratio * parameters)) * math.exp(trunk + own)
                        points.append(Point(mixer, parameters, ratio * parameters, loss, number, f"{mixer}-{size}"))
        return points


def hoffmann() -> list[Point]:
    """118 runs of Hoffmann et al.: all but the five with the least tokens per parameter, far from the rest."""
    lines = Path(__file__).with_name("hoffmann.csv").read_text(encoding="utf-8").splitlines()
    rows = [
        {name: float(value) for name, value in row.items()}
        for row in csv.DictReader(line for line in lines if not line.startswith("#"))
    ]
    rows.sort(key=lambda row: row["tokens"] / row["parameters"])
    return [
        Point("attention", row["parameters"], row["tokens"], row["loss"], 0, f"run-{number}")
        for number, row in enumerate(rows[5:])
    ]
