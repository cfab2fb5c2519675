"""What a comparison knows of a run: its summary, its curves, and the few numbers one looks at first."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from glm_scale.errors import UserError
from glm_scale.renamed_keys import renamed
from glm_scale.run_directory import RunDirectory, RunStatus, RunSummary
from glm_scale.tracking.breakdown import source_cell, source_of_cell
from glm_scale.tracking.metrics_log import Record, read_metrics
from glm_scale.tracking.outcome import seconds_by_step

# The training loss "at the end" is the mean over this share of the steps: one batch says little.
_FINAL_SHARE = 0.05


@dataclass(frozen=True)
class Curve:
    """A loss (nats per token) against training tokens, FLOPs and measured seconds (0 where none were); arrays of equal
    length in the order of training."""

    tokens: np.ndarray
    flops: np.ndarray
    seconds: np.ndarray
    loss: np.ndarray

    @classmethod
    def of(cls, records: list[Record], clock: tuple[list[float], list[float]]) -> Curve:
        """From the records that hold a finite loss; a skipped step's NaN is no point of a curve.

        clock: tokens, ascending, and the seconds that training had taken by then.
        """
        points = [(r.tokens, r.flops, 0.0, loss) for r in records if (loss := r.number("loss")) is not None]
        array = np.array(points, dtype=np.float64).reshape(-1, 4)
        array = array[np.isfinite(array[:, 3])]
        return cls(array[:, 0], array[:, 1], np.interp(array[:, 0], *clock), array[:, 3])

    def __len__(self) -> int:
        return len(self.loss)

    def smoothed(self, width: float = 0.05) -> Curve:
        """Each point the mean of those within ± `width` of its place in training.

        The window grows with the place, so it is equally wide everywhere on a logarithmic axis, and centred, so the
        curve does not lag.
        """
        place = np.arange(len(self))
        reach = np.floor(place * width).astype(np.int64)
        first, last = place - reach, np.minimum(place + reach + 1, len(self))
        total = np.concatenate([[0.0], np.cumsum(self.loss)])
        return Curve(self.tokens, self.flops, self.seconds, (total[last] - total[first]) / (last - first))

    def thinned(self, points: int) -> Curve:
        """At most about `points` points, evenly spread on a logarithmic axis, the last one among them."""
        if len(self) <= points:
            return self
        keep = np.unique(np.geomspace(1, len(self), points).round().astype(np.int64)) - 1
        return Curve(self.tokens[keep], self.flops[keep], self.seconds[keep], self.loss[keep])


@dataclass(frozen=True)
class TrainedRun:
    """A run as read from its directory. Losses are in nats per token; None where nothing was measured.

    `seconds`: of the optimizer steps, with those of the run that this one began from; 0 if they were not measured.
    `validation_loss` and `bits_per_byte` come from the validation marked final, else (`provisional`) from the latest.
    """

    directory: RunDirectory
    summary: RunSummary
    status: RunStatus
    tokens: int
    flops: float
    train: Curve
    validation: Curve
    train_loss: float | None
    validation_loss: float | None
    bits_per_byte: float | None
    provisional: bool
    tokens_per_second: float | None
    seconds: float
    config: dict[str, Any] = field(repr=False, default_factory=dict)

    @property
    def name(self) -> str:
        """Of its directory."""
        return self.summary.name

    @property
    def mixer(self) -> str:
        """The spelling of the model's mixers."""
        return self.summary.mixer

    @property
    def sources(self) -> tuple[str, ...]:
        """Paths of the training data."""
        data = self.config.get("data")
        sources = data.get("sources") if isinstance(data, dict) else None
        if not isinstance(sources, list):
            return ()
        return tuple(str(source.get("path") if isinstance(source, dict) else source) for source in sources)


def load_run(directory: RunDirectory, source: str | None = None) -> TrainedRun:
    """Read a run; `source`: with the validation losses of that data set alone.

    Raises UserError if its summary is damaged, a file cannot be read, or losses of that data set were not measured.
    """
    summary, status = directory.read_summary(), directory.status()
    try:
        records = list(read_metrics(directory.metrics))
    except OSError as error:
        raise UserError(f"{directory.metrics} cannot be read: {error.strerror}") from error
    steps = [record for record in records if record.kind == "train"]
    measured = [r for r in records if r.kind == "validation"]
    if source is not None:
        measured = _of_source(source, records, directory)
    validations = [r for r in measured if _finite(r.number("loss")) is not None]
    final = next((r for r in reversed(validations) if r.values.get("final") is True), None)
    shown = final or (validations[-1] if validations else None)
    seconds = seconds_by_step(directory, steps)
    clock = [0.0, *(float(record.tokens) for record in steps)], seconds
    train = Curve.of(steps, clock)
    tokens = max([summary.tokens, *(record.tokens for record in steps[-1:])])
    speeds = [speed for r in steps if (speed := _finite(r.number("tokens_per_second"))) is not None]
    return TrainedRun(
        directory=directory,
        summary=summary,
        status=status,
        tokens=tokens,
        flops=steps[-1].flops if steps else tokens * summary.train_flops_per_token,
        train=train,
        validation=Curve.of(validations, clock),
        train_loss=float(train.loss[-math.ceil(len(train) * _FINAL_SHARE) :].mean()) if len(train) else None,
        validation_loss=shown.number("loss") if shown else None,
        bits_per_byte=_finite(shown.number("bits_per_byte")) if shown else None,
        provisional=final is None,
        tokens_per_second=float(np.median(speeds)) if speeds else None,
        seconds=seconds[-1],
        config=dict(renamed(directory.read_config())),
    )


def _of_source(source: str, records: list[Record], directory: RunDirectory) -> list[Record]:
    """What was measured of one data set, as validations of it alone."""
    final = {r.step for r in records if r.kind == "validation" and r.values.get("final") is True}
    measured = [r for r in records if r.kind == "breakdown"]
    loss, bits = (source_cell(source, number) for number in ("loss", "bits_per_byte"))
    found = [
        replace(r, values={"loss": r.values[loss], "bits_per_byte": r.values[bits], "final": r.step in final})
        for r in measured
        if loss in r.values and bits in r.values
    ]
    if not found and measured:
        known = {name for r in measured for name in map(source_of_cell, r.values) if name}
        there = f"there are {', '.join(sorted(known))}" if known else "its data are a single data set"
        raise UserError(f"{directory.path} has no losses of a data set called {source!r}; {there}")
    return found


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
