"""Whether a run finds the memory that it needs: told before any of its processes starts, with the way out.

The kernel ends what needs more with SIGKILL, which leaves no word of why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glm_scale.config.run import RunConfig
from glm_scale.errors import UserError
from glm_scale.layers.activation_checkpointing import policies_from
from glm_scale.parallel.mesh import Layout
from glm_scale.planning.need import Need, ample, need_of
from glm_scale.planning.room import Room, gpu_rooms, host_rooms, process_rooms

__all__ = ["check_memory", "check_memory_here"]

_CERTAIN = 0.85
"""Of an estimate. Measured peaks lie between 0.9 and 1.15 of it, so that what this part of it exceeds cannot work."""
_CLOSE = 0.9
"""Of the room: who needs more than this is told."""
_SMALL = 0.005
"""Parts below this of the whole are not worth a word."""


@dataclass(frozen=True)
class _Bound:
    """A room, and how many ranks are to find place in it."""

    room: Room
    ranks: int

    def refuses(self, need: Need) -> bool:
        return _CERTAIN * self.needed(need) > self.room.free + self.room.swap

    def is_close(self, need: Need) -> bool:
        return self.needed(need) > _CLOSE * self.room.free

    def needed(self, need: Need) -> int:
        return sum(need.of(self.ranks).values())


def check_memory_here(config: RunConfig, layout: Layout, ranks: int, runs: int = 1) -> str:
    """See `check_memory`, for so many ranks on this machine of each of so many runs: in its memory, or in that of its
    GPUs, to each of which come as many."""
    if not config.training.check_memory:
        return ""
    device = _device(config)
    if device == "cuda":
        rooms = gpu_rooms(ranks * runs)
        bounds = [_Bound(room, -(-ranks * runs // len(rooms))) for room in rooms]
    else:
        bounds = [_Bound(room, ranks * runs) for room in host_rooms()] + [_Bound(room, 1) for room in process_rooms()]
    return _check(config, layout, device, bounds)


def check_memory(config: RunConfig, layout: Layout, ranks: int, room: Room) -> str:
    """Of ranks on CPUs that are to share a room. Returns a remark for the user if it becomes close, else "".

    Raises UserError, with the numbers and what would help, if they cannot find place there.
    """
    return _check(config, layout, "cpu", [_Bound(room, ranks)]) if config.training.check_memory else ""


def _device(config: RunConfig) -> str:
    if config.training.device == "cpu":
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _check(config: RunConfig, layout: Layout, device: str, bounds: Sequence[_Bound]) -> str:
    enough = ample(config)
    if all(bound.ranks * enough < _CLOSE * bound.room.free for bound in bounds):
        return ""
    need = need_of(config, layout, device)
    if device == "cuda" and config.training.compiles(device) and any(bound.is_close(need) for bound in bounds):
        need = need_of(config, layout, device, traced=True)
    tightest = max(bounds, key=lambda bound: bound.needed(need) / max(1, bound.room.free))
    numbers = _numbers(config, need, tightest, device)
    if any(bound.refuses(need) for bound in bounds):
        fits = lambda other: not any(bound.is_close(other) for bound in bounds)  # noqa: E731
        ways = "\n".join(f"  {way}" for way in _ways_out(config, layout, device, fits))
        raise UserError(
            f"{numbers}\nWhat would fit:\n{ways}\n"
            "To start it all the same: training.check_memory=false (the system may kill it)"
        )
    return f"{numbers}\nIt may be killed for that." if tightest.is_close(need) else ""


def _numbers(config: RunConfig, need: Need, bound: _Bound, device: str) -> str:
    whole, parts = bound.needed(need), need.of(bound.ranks)
    who = f"{bound.ranks} processes" if bound.ranks > 1 else "one process"
    named = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items() if size > _SMALL * whole)
    swap = f", and {_gb(bound.room.swap)} GB of swap" if bound.room.swap > _SMALL * whole else ""
    return (
        f"{config.name} needs about {_gb(whole)} GB of memory for {who} on the {'GPU' if device == 'cuda' else 'CPU'}, "
        f"but {_gb(bound.room.free)} GB are free {bound.room.source}{swap}.\nIn GB: {named}"
    )


def _ways_out(config: RunConfig, layout: Layout, device: str, fits: Callable[[Need], bool]) -> Iterator[str]:
    """The least change of each kind under which it fits; then those that no key makes."""
    for kind in _changes(config, layout):
        for changed in kind:
            if fits(need := need_of(_with(config, changed), layout, device)):
                words = " ".join(f"training.{key}={str(value).lower()}" for key, value in changed.items())
                yield f"{words}, which needs {_gb(need.of_rank)} GB{' in each process' * (layout.processes > 1)}"
                break
    elsewhere = "more GPUs" if device == "cuda" else "a GPU, or a machine with more memory"
    yield f"a smaller model or data.sequence_length, as in configs/quickstart.yaml; {elsewhere}"


def _changes(config: RunConfig, layout: Layout) -> Iterator[list[dict[str, Any]]]:
    """Kinds of changes that leave the run what it is, each from the least on."""
    training = config.training
    counts = [count for count in range(training.micro_batch - 1, 0, -1) if training.micro_batch % count == 0]
    fewer: list[dict[str, Any]] = [{"micro_batch": count} for count in counts]
    yield fewer
    again: list[dict[str, Any]]
    again = [{"activation_checkpointing": policy} for policy in policies_from(training.activation_checkpointing)]
    most = again[-1]
    yield [*again[1:], *(most | fewer_sequences for fewer_sequences in fewer if again[1:])]
    if layout.data * layout.sequence > 1 and training.zero_stage < 3:
        yield [{"zero_stage": 3}, *(most | {"zero_stage": 3} | fewer_sequences for fewer_sequences in fewer)]


def _with(config: RunConfig, changed: Mapping[str, Any]) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update=dict(changed))})


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}" if size < 100e9 else f"{size / 1e9:.0f}"
