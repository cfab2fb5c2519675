"""The few numbers of a finished run by which people sort and plot runs: how good it became, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from glm_scale.run_directory import RunDirectory, RunSummary
from glm_scale.tracking.metrics_log import Record, read_metrics

__all__ = ["outcome", "seconds_by_step", "seconds_trained"]


def outcome(run: RunDirectory, summary: RunSummary) -> Iterator[tuple[str, float]]:
    """Name and value of each; what was not measured is left out.

    Losses are those of the final validation. `seconds` are those of the optimizer steps, with those of the run that
    this one began from; `cache_bytes` those of one document of the sequences' length. FLOPs and seconds are there as
    logarithms, too: the scatter plots of MLflow have no logarithmic axis.
    """
    final = [r for r in read_metrics(run.metrics, "validation") if r.values.get("final") is True]
    for name in ("loss", "bits_per_byte"):
        if final and (value := final[-1].number(name)) is not None:
            yield f"final/{name}", value
    yield "final/parameters", summary.parameters
    yield "final/non_embedding_parameters", summary.non_embedding_parameters
    yield "final/tokens", summary.tokens
    for name, spent in (("flops", summary.tokens * summary.train_flops_per_token), ("seconds", seconds_trained(run))):
        if spent:
            yield f"final/{name}", spent
            yield f"final/log10_{name}", math.log10(spent)
    if summary.cache_bytes is not None:
        yield "final/cache_bytes", summary.cache_bytes


def seconds_trained(run: RunDirectory, until: int | None = None) -> float:
    """Of all optimizer steps up to step `until`, whichever run made them."""
    return seconds_by_step(run, read_metrics(run.metrics, "train"), until)[-1]


def seconds_by_step(run: RunDirectory, records: Iterable[Record], until: int | None = None) -> list[float]:
    """Seconds of all optimizer steps before the first of the `records` of the run's steps, and up to each of them.

    They include those of the run that this one began from. A step between two measurements is taken to have been as
    fast as the later one; 0 where no speed was measured. Up to step `until`.
    """
    first = _branch(run)
    seconds = [0.0 if first is None else seconds_trained(RunDirectory(run.path.parent / first[0]), first[1])]
    tokens = step = None
    for record in records:
        if until is not None and record.step > until:
            break
        if tokens is None or step is None:
            step = first[1] if first else 0
            tokens = round(record.tokens * step / record.step)
        speed = record.number("tokens_per_second")
        took = (record.tokens - tokens) / speed if record.step > step and speed else 0.0
        seconds.append(seconds[-1] + took)
        step, tokens = record.step, record.tokens
    return seconds


def _branch(run: RunDirectory) -> tuple[str, int] | None:
    """The name of the run that this one began from, and the step."""
    branch: Any = run.read_config().get("branch")
    return (str(branch["run"]), int(branch["step"])) if isinstance(branch, dict) else None
