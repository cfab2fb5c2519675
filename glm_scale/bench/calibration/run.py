"""All measurements one after the other, each printed and kept as it comes; one that fails is named and left out."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import typer

from glm_data.files import write_atomically
from glm_scale.bench.calibration.clock import Clock
from glm_scale.bench.calibration.exchanges import exchange_times
from glm_scale.bench.calibration.host import host_seconds
from glm_scale.bench.calibration.memory import copy_times, fused_gate_time, fused_norm_time, update_time
from glm_scale.bench.calibration.mixing import operator_time, structure_of
from glm_scale.bench.calibration.products import embedding_time, head_time, matmul_time, projections
from glm_scale.bench.calibration.sizes import Sizes, sizes_for
from glm_scale.mixers.structure import Structure
from glm_scale.planning.calibration import Calibration

__all__ = ["Asked", "calibrate"]

_IN_MORE_SHAPES = 3
"""So many of the operators that are asked for, the first ones, are measured with other heads, too."""


@dataclass(frozen=True)
class Asked:
    """operators: spellings. device: "cuda" or "cpu". ranks: of exchanges; fewer than two exchange nothing. at_least:
    seconds of a measurement."""

    operators: Sequence[str]
    device: str
    ranks: int
    at_least: float
    output: Path
    command: str


def calibrate(asked: Asked) -> Calibration:
    """Measure everything, print it and write `asked.output`. Raises UserError for what is no operator."""
    structures = [structure_of(spelling) for spelling in asked.operators]
    clock, sizes = Clock(asked.device, asked.at_least), sizes_for(asked.device)
    kept = _Kept(asked.output, _empty(asked.device, asked.command))
    typer.echo(f"{kept.found.described}; results go to {asked.output}")
    clock.warm_up()
    for key, name, measure in _measurements(clock, sizes, structures, asked.ranks):
        kept.take(key, name, measure)
    return kept.found


def _empty(device: str, command: str) -> Calibration:
    gpu = torch.cuda.get_device_name() if device == "cuda" else f"CPU {platform.machine()}"
    versions = {package: version(package) for package in ("torch", "triton", "deepspeed")}
    if device == "cuda":
        versions["cudnn"] = str(torch.backends.cudnn.version())
    return Calibration(gpu=gpu, versions=versions, command=command)


@dataclass
class _Kept:
    """What was found so far, which `path` holds."""

    path: Path
    found: Calibration
    failed: dict[str, str] = field(default_factory=dict)

    def take(self, key: str, name: str, measure: Callable[[], Any]) -> None:
        """Add what a measurement gives, one or several, to those under a key; or why it gives nothing."""
        try:
            result = measure()
        # A kernel that does not compile, too little memory, a missing library: the others are as good as before.
        except Exception as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            self.failed[name] = reason
            self._keep(failed=self.failed)
            typer.echo(f"{name}: not measured, {reason}", err=True)
        else:
            if isinstance(result, float):
                self._keep(**{key: result})
            else:
                self._keep(**{key: (*getattr(self.found, key), *(result if isinstance(result, list) else [result]))})
            typer.echo(f"{name}: {_told(result)}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _keep(self, **changed: Any) -> None:
        self.found = self.found.model_copy(update=changed)
        write_atomically(self.path, self.found.to_json())


Measurement = tuple[str, str, Callable[[], Any]]
"""The key of `Calibration` that it belongs to, its name, and what measures it."""


def _measurements(clock: Clock, sizes: Sizes, structures: Sequence[Structure], ranks: int) -> Iterator[Measurement]:
    """The quick ones that every prediction needs come first."""
    most = max(sizes.tokens)
    yield "copies", "copies", partial(copy_times, clock, sizes.room)
    width, hidden, _ = sizes.models[-2]
    yield "fused", f"compiled gate of {hidden}", partial(fused_gate_time, clock, most, hidden)
    yield "fused", f"compiled norm of {width}", partial(fused_norm_time, clock, most, width)
    for numbers in sizes.numbers:
        yield "updates", f"AdamW of {numbers:,}", partial(update_time, clock, numbers)
    yield from _products(clock, sizes)
    yield "host", "host", partial(host_seconds, most, clock.device)
    if ranks > 1:
        yield "exchanges", f"exchanges of {ranks}", partial(exchange_times, ranks, sizes.messages, clock.device)
    for number, structure in enumerate(structures):
        for heads in (sizes.mixing, sizes.more)[: 2 if number < _IN_MORE_SHAPES else 1]:
            for length in heads.lengths:
                name = f"{structure} of {heads.heads} × {heads.width}, T {length:,}"
                shape = heads.tokens // length, length, heads.heads, heads.width
                yield "operators", name, partial(operator_time, clock, structure, *shape)


def _products(clock: Clock, sizes: Sizes) -> Iterator[Measurement]:
    shapes = {
        (tokens, *shape): None for tokens in sizes.tokens for model in sizes.models for shape in projections(*model)
    }
    for shape in shapes:
        name = "product of {:,} × {:,} × {:,}".format(*shape)
        yield "matmuls", name, partial(matmul_time, clock, *shape)
    for width, *_ in sizes.models:
        shape = (max(sizes.tokens), width, sizes.vocabulary)
        yield "heads", f"head of {width}", partial(head_time, clock, *shape)
        yield "embeddings", f"embedding of {width}", partial(embedding_time, clock, *shape)


def _told(result: Any) -> str:
    """Milliseconds of all that was measured."""
    if isinstance(result, float):
        return f"{1e3 * result:.3f} ms"
    return "; ".join(_told_one(one.model_dump()) for one in (result if isinstance(result, list) else [result]))


def _told_one(values: dict[str, Any]) -> str:
    times = [
        f"{name.replace('_', ' ')} {1e3 * value:.3f} ms" for name, value in values.items() if isinstance(value, float)
    ]
    rate = f", {values['size'] / values['seconds'] / 1e12:.2f} TB/s" if "size" in values else ""
    what = f"{values['collective']} of {values['sent']:,} bytes " if "collective" in values else ""
    return what + ", ".join(times) + rate
