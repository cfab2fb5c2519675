"""Which weights ZeRO-3 gathers, how often, and how many exist at a time.

The rules are those of DeepSpeed's `PartitionedParameterCoordinator` once it has seen one pass: a module's weights are
fetched when it begins, together with those that come next, and given back when it ends unless they are needed again
soon. Small weights stay. How often weights are gathered is exact while all of a part are "soon"; beyond that DeepSpeed
also counts modules without weights, and the order of the backward pass, which can keep a few weights more.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["Gathering", "gathering"]

_PREFETCHED = 50_000_000
_SOON = 1_000_000_000
_MOST = 1_000_000_000
"""Numbers: DeepSpeed's stage3_prefetch_bucket_size, stage3_max_reuse_distance, stage3_max_live_parameters."""


@dataclass(frozen=True)
class Gathering:
    """times: how often each weight is gathered. most: numbers that are gathered at a time."""

    times: Counter[int]
    most: int


def gathering(
    passes: Sequence[Sequence[int]],
    numbers: Sequence[int],
    stays: Sequence[bool],
    *,
    prefetched: int = _PREFETCHED,
    soon: int = _SOON,
    most: int = _MOST,
) -> Gathering:
    """passes: the weights of one module after the other. numbers, stays: of each weight, and whether it is small."""
    coming = deque((weight, step) for step, module in enumerate(passes) for weight in sorted(set(module)))
    before = list(accumulate((sum(numbers[weight] for weight in module) for module in passes), initial=0))
    uses: dict[int, deque[int]] = {}
    for step, module in enumerate(passes):
        for weight in module:
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

    for step, module in enumerate(passes):
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
        for weight in set(module):
            while uses[weight] and uses[weight][0] <= step:
                uses[weight].popleft()
            again = uses[weight] and before[uses[weight][0]] - before[step + 1] < soon
            if not (stays[weight] or again or fetched_for[weight] > step + 1):
                here.remove(weight)
                live -= numbers[weight]
    return Gathering(times, largest)
