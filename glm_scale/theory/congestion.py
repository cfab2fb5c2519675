"""Congestion of the copy task: how many messages must share one row.

The task has 2n rows; for every i in 1..n a message goes from the input at row i to the output at row i + n. A route
starts at an output that A lets read the input, and runs through B's reads. The congestion of a routing is the largest
number of routes through one output, ends included; the structure's is the minimum over routings. (The measure is that
of arXiv 2605.31367; this reading of the copy task is ours.)

Finding the minimum is an integer multicommodity flow. Two searches close in on it:

* From below, by duality. For any weights on the rows, the n cheapest routes together weigh at most congestion × total
  weight. Equal weights give the volume bound (total path length / rows); weight on the rows alive in the middle alone
  gives the cache bound (n routes / live rows). Better weights are found by mirror ascent. Weights are integers, so the
  bound is exact and the weights are its certificate.
* From above, by routing: one route at a time is taken out and laid again along the path of least exp(load), the
  more steeply the longer it lasts, in the manner of negotiated congestion (McMurchie & Ebeling, 1995).

Where both meet the value is exact; where they do not, the gap is shown.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from glm_scale.mixers.structure import Structure

_WEIGHT_SCALE = 1 << 24
_COOLING_SWEEPS = 40


@dataclass(frozen=True)
class Congestion:
    """Bounds on the congestion of copying `length` rows, and what proves them.

    `routes[i]` holds the rows of the route from input i to output i + length, both counted from 0; no row is on more
    than `found` of them. `weights` proves `lower`, see `certified`.
    """

    length: int
    lower: int
    found: int
    routes: tuple[tuple[int, ...], ...]
    weights: tuple[int, ...]

    @property
    def exact(self) -> bool:
        """Whether the bounds meet, so that no routing is better than the one found."""
        return self.lower == self.found

    def __str__(self) -> str:
        return str(self.found) if self.exact else f"{self.lower}–{self.found}"


class Network:
    """The copy task on a structure: which rows a route may pass, and cheapest routes under given weights."""

    def __init__(self, structure: Structure, length: int) -> None:
        self.length = length
        self.rows = 2 * length
        self.band = structure.band(self.rows)
        pattern = structure.pattern
        self.reads = [pattern.reads(row) if pattern else [] for row in range(self.rows)]

    def live_in_the_middle(self) -> set[int]:
        """The rows of the first half that the second half reads."""
        half = self.length
        return {source for row in range(half, self.rows) for source in self.reads[row] if source < half}

    def cheapest(self, source: int, weights: Sequence[float]) -> list[int] | None:
        """The rows of the cheapest route from the input at `source` to the output `length` later, None if none."""
        cost = [math.inf] * (source + self.length + 1)
        for row in range(source, source + self.length + 1):
            read = min([cost[j] for j in self.reads[row]], default=math.inf)
            cost[row] = weights[row] + (0 if row < source + self.band else read)
        if math.isinf(cost[-1]):
            return None
        route = [source + self.length]
        while route[-1] >= source + self.band:
            route.append(min(self.reads[route[-1]], key=cost.__getitem__))
        return route[::-1]

    def cheapest_routes(self, weights: Sequence[float]) -> list[list[int]] | None:
        """The cheapest route of every message, None if one has none."""
        routes = []
        for source in range(self.length):
            route = self.cheapest(source, weights)
            if route is None:
                return None
            routes.append(route)
        return routes

    def loads(self, routes: list[list[int]]) -> list[int]:
        """How many routes pass each row."""
        loads = [0] * self.rows
        for route in routes:
            for row in route:
                loads[row] += 1
        return loads


def certified(network: Network, weights: Sequence[int]) -> int:
    """The lower bound that integer weights prove: ⌈total weight of the cheapest routes / total weight⌉."""
    routes = network.cheapest_routes(weights)
    assert routes is not None, "weights certify nothing where a message has no route"
    return -(-sum(weights[row] for route in routes for row in route) // sum(weights))


def congestion(structure: Structure, length: int) -> Congestion | None:
    """Bounds on the congestion of copying `length` rows, None where some message has no route. Deterministic.

    Takes at most a few hundred passes over all routes, of O(length² · reads per row) each; more where they are short.
    """
    sweeps = _COOLING_SWEEPS * max(1, 128 // length)
    network = Network(structure, length)
    volume = [1] * network.rows
    shortest = network.cheapest_routes(volume)
    if shortest is None:
        return None
    rng = random.Random(0)
    live = network.live_in_the_middle()
    cut = [int(row in live) for row in range(network.rows)] if live else volume
    weights = max(volume, cut, key=lambda w: certified(network, w))
    lower = certified(network, weights)
    routes, found = _reroute(network, shortest, lower, sweeps, rng)
    if lower < found:
        better = _ascend(network, found, 4 * sweeps, rng)
        if (bound := certified(network, better)) > lower:
            weights, lower = better, bound
    return Congestion(length, lower, found, tuple(map(tuple, routes)), tuple(weights))


def _reroute(
    network: Network, routes: list[list[int]], target: int, sweeps: int, rng: random.Random
) -> tuple[list[list[int]], int]:
    """The best routing found, and its largest load; stops at `target`."""
    routes = list(routes)
    loads = network.loads(routes)
    best, found = list(routes), max(loads)
    order = list(range(network.length))
    for sweep in range(sweeps):
        if found <= target:
            break
        steepness = 0.3 * 1.05 ** (sweep % _COOLING_SWEEPS)
        price = [math.exp(steepness * (load - found)) for load in range(network.length + 1)]
        jitter = [1 + 1e-3 * rng.random() for _ in loads]
        rng.shuffle(order)
        for source in order:
            for row in routes[source]:
                loads[row] -= 1
            route = network.cheapest(source, [price[load] * shake for load, shake in zip(loads, jitter, strict=True)])
            assert route is not None
            routes[source] = route
            for row in route:
                loads[row] += 1
        if max(loads) < found:
            best, found = list(routes), max(loads)
    return best, found


def _ascend(network: Network, found: int, steps: int, rng: random.Random) -> list[int]:
    """Integer weights of the best lower bound that mirror ascent finds; stops when they prove `found`.

    The bound is concave in the weights and the loads of the cheapest routes are its supergradient. Steps follow
    Polyak's rule towards a value just large enough to rule `found` − 1 out, on a momentum of the loads, in the
    geometry of entropy; when a while brings nothing, the search goes back to its best weights and takes smaller steps.
    """
    target = found - 0.75
    share = [1 / network.rows] * network.rows
    best, best_value, best_share = [1] * network.rows, 0.0, share
    heading: list[float] = []
    pace, stale = 1.0, 0
    for _ in range(steps):
        # The noise breaks ties, so that equally cheap routes take turns.
        weights = [round(w * (1 + 1e-6 * rng.random()) * _WEIGHT_SCALE) for w in share]
        routes = network.cheapest_routes(weights)
        assert routes is not None
        value = sum(weights[row] for route in routes for row in route) / sum(weights)
        if value > best_value + 1e-4:
            best, best_value, best_share, stale = weights, value, share, 0
            if value > found - 1:
                break
        elif (stale := stale + 1) > 15:
            share, pace, stale = best_share, 0.7 * pace, 0
        loads = network.loads(routes)
        heading = [0.7 * h + 0.3 * load for h, load in zip(heading or loads, loads, strict=True)]
        slope = [h - value for h in heading]
        curvature = sum(w * s * s for w, s in zip(share, slope, strict=True))
        size = pace * (target - value) / max(curvature, 1e-3)
        share = [w * math.exp(min(max(size * s, -1.0), 1.0)) for w, s in zip(share, slope, strict=True)]
        norm = sum(share)
        share = [w / norm for w in share]
    return best
