"""The tiny run in all layouts: started on forked ranks, and looked at when it has ended."""

from __future__ import annotations

import itertools
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from glm_scale.checkpoint.layout import places
from glm_scale.checkpoint.reading import Checkpoint, DamagedError, UnfinishedError
from tests.faults.notes import Notes
from tests.faults.rank import Faults, run
from tests.forking import ForkServer, Processes
from tests.run.sessions import losses, weights
from tests.tiny_run import LENGTH, tiny_config

STEPS, BATCH, KEPT = 8, 4, 2
"""Of a run, of a step, and how many checkpoints stay."""

LAYOUTS: dict[str, dict[str, int]] = {
    "alone": {},
    **{f"{axis} {count}": {axis: count} for count in (2, 4) for axis in ("data", "sequence", "tensor")},
}


@dataclass(frozen=True)
class Setup:
    """How a run is spread: a name in LAYOUTS, and the stage of ZeRO. And what it trains."""

    layout: str
    stage: int
    precision: str = "fp32"
    mixers: tuple[str, ...] = ("lattice:2^k", "attention")
    optimizer: str = "adamw"

    def __str__(self) -> str:
        return f"{self.layout}, ZeRO {self.stage}, {self.precision}, {self.optimizer}"

    @property
    def processes(self) -> int:
        return next(iter(LAYOUTS[self.layout].values()), 1)


SETUPS = [Setup(layout, stage) for layout in LAYOUTS for stage in range(4)]


@dataclass
class Reference:
    """A run that nothing disturbed: its losses, its last weights, and the samples that were due at every step.

    `started` and `trained`: seconds that it took from its start to the first step, and from there to the end.
    """

    losses: list[float]
    validation: list[float]
    weights: dict[str, bytes]
    samples: list[list[int]]
    started: float
    trained: float
    size: int


@dataclass
class Runs:
    """Starts runs, each in a folder below `folder`; knows those that nothing disturbed."""

    server: ForkServer
    data: Path
    folder: Path
    _references: dict[Setup, Reference] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def new(self, every: int = 1) -> TinyRun:
        folder = self.folder / f"run-{next(self._numbers)}"
        folder.mkdir()
        return TinyRun(self, folder, every)

    def reference(self, setup: Setup) -> Reference:
        if setup not in self._references:
            tiny = self.new(every=2)
            with tiny.start(setup) as attempt:
                attempt.finish()
            notes = attempt.notes
            samples = samples_by_step(notes, 0, setup)
            begin = notes.of("training begins")[0].when
            pauses = begin - notes[0].when, notes[-1].when - begin
            size = sum(p.stat().st_size for p in tiny.valid()[STEPS].iterdir())
            self._references[setup] = Reference(
                tiny.losses(), tiny.losses("validation"), tiny.weights(), samples, *pauses, size
            )
        return self._references[setup]


class TinyRun:
    """A run directory, and the processes that work in it one after the other. A checkpoint every `every` steps."""

    def __init__(self, runs: Runs, folder: Path, every: int) -> None:
        self._runs = runs
        self._folder = folder
        self.every = every
        self.path = folder / "runs" / "tiny"
        self.checkpoints = self.path / "checkpoints"
        self._attempts = itertools.count()

    def start(self, setup: Setup, faults: Faults | None = None) -> Attempt:
        """The same command, however the run stands."""
        config = tiny_config(
            self._runs.data,
            self._folder,
            tokens=STEPS * BATCH * LENGTH,
            batch_tokens=BATCH * LENGTH,
            micro_batch=1,
            zero_stage=setup.stage,
            precision=setup.precision,
            optimizer={"kind": setup.optimizer},
        )
        config["model"] |= {"heads": 4, "layers": len(setup.mixers), "mixers": list(setup.mixers)}
        config["checkpoint"] = {"every": self.every, "keep": KEPT}
        config["parallel"] = LAYOUTS[setup.layout]
        logs = self._folder / f"attempt-{next(self._attempts)}"
        processes = self._runs.server.start(run, (config, faults or Faults(), logs), setup.processes, logs)
        return Attempt(setup, processes, logs)

    def valid(self) -> dict[int, Path]:
        """The checkpoints of which every bit is right, by step."""
        found = {}
        for place in places(self.checkpoints):
            try:
                Checkpoint.at(place.path, "full")
            except (DamagedError, UnfinishedError):
                continue
            found[place.step] = place.path
        return found

    def losses(self, kind: str = "train") -> list[float]:
        return losses(self.path, kind)

    def weights(self) -> dict[str, bytes]:
        return weights(self.path)


@dataclass
class Attempt:
    """The processes of one start of a run, what they note and what they print."""

    setup: Setup
    processes: Processes
    logs: Path

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, *exception: object) -> None:
        self.processes.close()

    @property
    def notes(self) -> Notes:
        return Notes.read(self.logs)

    def output(self, rank: int = 0) -> str:
        path = self.logs / f"rank-{rank}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def finish(self, codes: set[int] | None = None) -> None:
        """Wait for all, which have to end with one of the codes (0 if none are given)."""
        self.end(90)
        assert set(self.processes.ended.values()) <= (codes or {0}), (self.processes.ended, self.everything())

    def end(self, seconds: float) -> None:
        """Wait for all to end; those that do not show where they stand."""
        if not self.processes.wait(seconds):
            standing = self.processes.living
            self.processes.send(signal.SIGQUIT, standing)
            time.sleep(1)
            raise AssertionError(f"ranks {standing} do not end\n{self.everything()}")

    def everything(self) -> str:
        return "\n".join(f"--- rank {rank}:\n{self.output(rank)}" for rank in range(self.setup.processes))


def samples_by_step(notes: Notes, start: int, setup: Setup) -> list[list[int]]:
    """The samples that the ranks have got, step after step from `start` on, as far as all have got theirs.

    Fails unless ranks of the same data coordinate have got the same, as far as each has come.
    """
    data = LAYOUTS[setup.layout].get("data", 1)
    accumulation = BATCH // data
    ranks: dict[int, list[list[int]]] = {}
    streams: dict[int, list[list[int]]] = {}
    for note in notes.of("samples"):
        coordinate, samples = note.values
        stream = ranks.setdefault(note.rank, [])
        stream.append(samples)
        longest = streams.setdefault(coordinate, [])
        if len(stream) > len(longest):
            longest.append(samples)
        due = longest[len(stream) - 1]
        assert due == samples, f"rank {note.rank} got {samples} instead of {due}"
    steps = min((len(stream) for stream in streams.values()), default=0) // accumulation if len(streams) == data else 0
    own = (slice(step * accumulation, (step + 1) * accumulation) for step in range(steps))
    return [sorted(itertools.chain.from_iterable(r for s in streams.values() for r in s[where])) for where in own]
