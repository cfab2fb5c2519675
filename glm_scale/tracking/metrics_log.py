"""metrics.jsonl: every measurement of a run, one JSON object a line. The truth that all figures come from.

A record is `{"kind": …, "step": …, "tokens": …, "flops": …, "time": …, numbers…}`: `step` counts optimizer
steps, `tokens` and `flops` what training has consumed up to that step, `time` is unix seconds. JSON knows no NaN or
infinity, so these are stored as the strings "NaN", "Infinity" and "-Infinity" and read back as numbers.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, get_args

from glm_data.files import write_atomically

Kind = Literal["train", "validation", "breakdown", "statistics", "task", "system", "event"]
Value = float | int | bool | str

_KINDS: frozenset[str] = frozenset(get_args(Kind))
_POSITION = ("kind", "step", "tokens", "flops", "time")
_NON_FINITE = MappingProxyType({"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf})

_BLOCK = 1 << 16

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One line of the log."""

    kind: Kind
    step: int
    tokens: int
    flops: float
    time: float
    values: Mapping[str, Value] = field(default_factory=dict)

    def number(self, name: str) -> float | None:
        """The value called `name` as a float; None if there is none or it is no number."""
        value = self.values.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def to_json(self) -> str:
        """As a line of metrics.jsonl."""
        return json.dumps(
            {name: _storable(getattr(self, name)) for name in _POSITION}
            | {name: _storable(value) for name, value in self.values.items()},
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, line: str | bytes) -> Self:
        """Raises ValueError if the line is not a record."""
        content = json.loads(line)
        if not isinstance(content, dict) or content.get("kind") not in _KINDS:
            raise ValueError("not a metrics record")
        content = {name: _restored(value) for name, value in content.items()}
        try:
            position = {
                "kind": content.pop("kind"),
                "step": int(content.pop("step")),
                "tokens": int(content.pop("tokens")),
                "flops": float(content.pop("flops")),
                "time": float(content.pop("time")),
            }
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a metrics record: {error}") from error
        return cls(**position, values=content)


def _storable(value: Any) -> Value:
    """A JSON value; scalars of numpy and torch become plain numbers."""
    if not isinstance(value, bool | int | float | str) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bool | int | float | str):
        return float(value) if isinstance(value, float) else value
    raise TypeError(f"a metric must be a number or a text, not {type(value).__name__}: {value!r}")


def _restored(value: Any) -> Any:
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


class MetricsLog:
    """Append-only writer of one run's metrics.jsonl; safe to use from several threads of one process.

    Every record is handed to the operating system at once, so a killed process loses none. A last line that was
    torn when a machine went down is cut off when the log is opened again.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        last = _cut_torn_line(self.path)
        self._last = _record(last) if last else None
        self._file = self.path.open("ab", buffering=0)

    def append(self, kind: Kind, *, step: int, tokens: int, flops: float, **values: Any) -> Record:
        """Write one record; returns it. Numbers may be Python, numpy or torch scalars; events may hold texts."""
        if kind not in _KINDS:
            raise ValueError(f"unknown kind of record {kind!r}; one of {', '.join(sorted(_KINDS))}")
        record = Record(kind, int(step), int(tokens), float(flops), time.time(), values)
        line = record.to_json().encode() + b"\n"
        with self._lock:
            self._file.write(line)
            self._last = record
        return record

    def append_here(self, kind: Kind, **values: Any) -> Record:
        """Like `append`, at the step, tokens and FLOPs of the last record: for what is not measured by step."""
        last = self._last
        step, tokens, flops = (last.step, last.tokens, last.flops) if last else (0, 0, 0.0)
        return self.append(kind, step=step, tokens=tokens, flops=flops, **values)

    def truncate(self, after_step: int, again: Collection[str] = ()) -> int:
        """Drop the records of steps beyond `after_step`, atomically, and return how many were dropped.

        A run that resumes from a checkpoint calls this: it will write those steps again. Of the kinds in `again`, it
        will write those of `after_step` itself as well.
        """

        def stays(record: Record) -> bool:
            return record.step < after_step or (record.step == after_step and record.kind not in again)

        with self._lock:
            lines = self.path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if (r := _record(line)) is not None and stays(r)]
            if len(kept) < len(lines):
                self._last = _record(kept[-1]) if kept else None
                write_atomically(self.path, b"".join(kept))
                self._file.close()
                self._file = self.path.open("ab", buffering=0)
        return len(lines) - len(kept)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(path: str | os.PathLike[str], kind: Kind | None = None) -> Iterator[Record]:
    """The records of a metrics.jsonl in order, of one kind or all; a file that is not there has none.

    The log may be growing meanwhile: an unfinished last line is left out. A damaged line further up, as a machine
    that lost power can leave, is skipped with a warning.
    """
    path = Path(path)
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = Record.from_json(line)
            except ValueError:
                _logger.warning("%s line %d is damaged and was skipped", path, number)
                continue
            if kind is None or record.kind == kind:
                yield record


def _record(line: bytes) -> Record | None:
    try:
        return Record.from_json(line)
    except ValueError:
        return None


def _cut_torn_line(path: Path) -> bytes:
    """Cut what follows the last newline; returns the last whole line (or its end, if it is very long)."""
    if not path.exists():
        return b""
    with path.open("rb+") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _BLOCK)
            file.seek(start)
            if (newline := file.read(end - start).rfind(b"\n")) >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
        start = max(0, end - _BLOCK)
        file.seek(start)
        return file.read(end - start).rstrip(b"\n").rpartition(b"\n")[2]
