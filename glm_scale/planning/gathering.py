"""Which weights ZeRO-3 gathers, how often, and how many exist at a time.

The rules are those of DeepSpeed's `PartitionedParameterCoordinator` once it has seen one pass: a module's weights are
fetched when it begins, together with those that come next, and given back when it ends unless they are needed again
soon. Small weights stay.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from glm_scale.layers.activation_checkpointing import ActivationCheckpointing
from glm_scale.planning.again import modules_again
from glm_scale.planning.parts import Module

__all__ = ["Gathering", "Visit", "gathering", "visits"]

_PREFETCHED = 50_000_000
_SOON = 1_000_000_000
_MOST = 1_000_000_000
"""Numbers: DeepSpeed's stage3_prefetch_bucket_size, stage3_max_reuse_distance, stage3_max_live_parameters."""


@dataclass(frozen=True)
class Gathering:
    """times: how often each weight is gathered. most: numbers that are gathered at a time."""

    times: Counter[int]
    most: int


class Visit(NamedTuple):
    """A module begins: the weights that it needs, and whether it ends before the next one begins."""

    weights: list[int]
    ends: bool = True


def visits(model: Module, policy: ActivationCheckpointing) -> list[Visit]:
    """One forward and one backward pass. policy: of all but the first and last two modules of the model; what is
    computed again stops where the backward pass has what it needs: inside of the last module."""
    forward = _forward(model)
    if policy == "none":
        return [*forward, *_backward(model)]
    embedding, *blocks, norm, head = model.within
    backward = [Visit(model.weights), *_backward(head), *_backward(norm)]
    for block in reversed(blocks):
        visited = _backward(block)
        # Down to the first module that saves something, for which it is computed again.
        down = next(index for index, visit in enumerate(visited) if visit.weights) + 1
        *before, last = visited[:down]
        again = [visit for module in modules_again(block, policy) for visit in _forward(module)]
        backward += [*before, last._replace(ends=False), *again, *visited[down:]]
    return [*forward, *backward, *_backward(embedding)]


def _forward(module: Module) -> list[Visit]:
    return [Visit(module.weights), *(visit for child in module.within for visit in _forward(child))]


def _backward(module: Module) -> list[Visit]:
    return [Visit(module.weights), *(visit for child in reversed(module.within) for visit in _backward(child))]


def gathering(
    passes: Sequence[Visit],
    numbers: Sequence[int],
    stays: Sequence[bool],
    *,
    prefetched: int = _PREFETCHED,
    soon: int = _SOON,
    most: int = _MOST,
) -> Gathering:
    """numbers, stays: of each weight, and whether it is small."""
    coming = deque((weight, step) for step, visit in enumerate(passes) for weight in visit.weights)
    before = list(accumulate((sum(numbers[weight] for weight in visit.weights) for visit in passes), initial=0))
    uses: dict[int, deque[int]] = {}
    for step, visit in enumerate(passes):
        for weight in visit.weights:
            uses.setdefault(weight, deque()).append(step)
    here, fetched_for = {weight for weight, small in enumerate(stays) if small}, dict[int, int]()
    times, live, largest = Counter[int](), 0, 0

    def gather(weights: set[int]) -> None:
        nonlocal live, largest
        wanted = weights - here
        times.update(wanted)
        here.update(wanted)
        live += sum(numbers[weight] for weight in wanted)
        largest = max(largest, live)

    for step, (module, ends) in enumerate(passes):
        gather(set(module))
        fresh = {weight for weight in module if fetched_for.get(weight, -1) < step}
        for _ in fresh:
            weight, needed = coming.popleft()
            fetched_for[weight] = needed
        room, ahead, count = min(most - live, prefetched), set[int](), 0
        while coming and count < room:
            weight, needed = coming.popleft()
            fetched_for[weight] = max(fetched_for.get(weight, -1), needed)
            if weight not in here | ahead:
                ahead.add(weight)
                count += numbers[weight]
        gather(ahead)
        for weight in module if ends else ():
            while uses[weight] and uses[weight][0] <= step:
                uses[weight].popleft()
            again = uses[weight] and before[uses[weight][0]] - before[step + 1] < soon
            if not (stays[weight] or again or fetched_for[weight] > step + 1):
                here.remove(weight)
                live -= numbers[weight]
    return Gathering(times, largest)
