"""The noise of losses around a law: what branches of a trunk share, and what each point adds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Components:
    """Variances of the log loss: `by_trunk` of what all points of a trunk share, `by_point` of the rest.

    `freedom`: degrees of freedom between trunks, those that the variance of trunks was estimated with.
    """

    by_trunk: float
    by_point: float
    freedom: float

    @classmethod
    def of(cls, residuals: np.ndarray, fitted: np.ndarray, trunk: np.ndarray) -> Components:
        """Of residuals [P], free of what the columns of `fitted` [P, K] (orthonormal) explain.

        By the method of moments: the expected squares of the residuals, and of their means by trunk, are known
        multiples of the two variances (Henderson 1953, method 3). Where trunks have too few branches to tell the two
        apart, all is put on the trunks, which claims least; where a fit leaves nothing of the trunks, on the points.
        """
        counts = np.bincount(trunk)
        means = np.eye(len(counts))[trunk] / np.sqrt(counts)
        left = means - fitted @ (fitted.T @ means)
        free, freedom = float(len(trunk) - fitted.shape[1]), float((left * means).sum())
        total, between = float(residuals @ residuals), float(((means.T @ residuals) ** 2).sum())
        if freedom < 1:
            return cls(0.0, total / free, freedom)
        of_trunks = np.array([(left**2 @ counts).sum(), ((means.T @ left) ** 2 @ counts).sum()])
        if len(trunk) - len(counts) < fitted.shape[1]:
            return cls(between / of_trunks[1], 0.0, freedom)
        moments = np.stack([of_trunks, [free, freedom]], axis=1)
        by_trunk, by_point = np.linalg.solve(moments, [total, between]).tolist()
        if by_trunk < 0:
            return cls(0.0, total / free, freedom)
        if by_point < 0:
            return cls(between / of_trunks[1], 0.0, freedom)
        return cls(by_trunk, by_point, freedom)


@dataclass(frozen=True)
class Noise:
    """Noise to draw from: effects of G trunks [G] and errors of P points [P] in log loss, scaled to the variances that
    they have before a fit takes its part of them. `trunk` [P] and `mixer` [P] say what a point belongs to."""

    trunk: np.ndarray
    mixer: np.ndarray
    effects: np.ndarray
    errors: np.ndarray
    freedom: float

    @classmethod
    def of(cls, residuals: np.ndarray, jacobian: np.ndarray, trunk: np.ndarray, mixer: np.ndarray) -> Noise:
        """From the residuals [P] of a fit and their derivatives [P, K] at the optimum."""
        fitted = np.linalg.qr(jacobian)[0]
        left = residuals - fitted @ (fitted.T @ residuals)
        components = Components.of(left, fitted, trunk)
        effects = np.bincount(trunk, left) / np.bincount(trunk)
        errors = left - effects[trunk]
        return cls(
            trunk,
            mixer,
            _scaled(effects, components.by_trunk),
            _scaled(errors, components.by_point),
            components.freedom,
        )

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Noise of all points [P]: effects and errors drawn with replacement from those of the same mixer, each with
        a random sign, and all of it as much larger or smaller as its size may be misjudged."""
        of_trunk = np.zeros(len(self.effects), dtype=np.int64)
        of_trunk[self.trunk] = self.mixer
        effects, errors = _drawn(self.effects, of_trunk, random), _drawn(self.errors, self.mixer, random)
        return np.asarray((effects[self.trunk] + errors) * np.sqrt(self.freedom / random.chisquare(self.freedom)))


def _scaled(values: np.ndarray, variance: float) -> np.ndarray:
    """To a mean square of `variance`."""
    size = float(np.mean(values**2))
    return values * np.sqrt(variance / size) if size > 0 else values


def _drawn(values: np.ndarray, group: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """With replacement within groups. The sign is random as a law is fitted to the median of the noise."""
    drawn = np.empty_like(values)
    for index in np.unique(group):
        own = np.flatnonzero(group == index)
        drawn[own] = random.choice(values[own], len(own))
    return np.asarray(drawn * random.choice([-1.0, 1.0], len(values)))
