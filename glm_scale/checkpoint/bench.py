"""How fast this disk takes and gives checkpoints: `python -m glm_scale.checkpoint.bench FOLDER`.

Beside saving and loading, the same bytes by dd: with as many writers and `conv=fdatasync`, and read by `iflag=direct`.
What a save costs training: the copy that it waits for, the steps until the commit, the memory that is kept.
What is saved is read back and compared first. Dropping caches needs root; without it reads are warm, and said to be.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from threading import Thread

import torch

from glm_scale.checkpoint.pieces import Box, Piece
from glm_scale.checkpoint.points import unwatched
from glm_scale.checkpoint.reading import Checkpoint
from glm_scale.checkpoint.retention import Retention
from glm_scale.checkpoint.shards import KINDS, load_pieces, on_cpu, save_pieces
from glm_scale.checkpoint.state import Counters, TrainingState
from glm_scale.checkpoint.store import CheckpointStore

_WIDTH = 4096


def made(megabytes: int) -> list[Piece]:
    """Pieces of random numbers of so many MB together."""
    rows = megabytes * 1_000_000 // (len(KINDS) * 4 * _WIDTH * 8)
    generator = torch.Generator().manual_seed(0)
    shape = (rows, _WIDTH)
    return [
        Piece(f"layer{n}", shape, Box((0, 0), shape), 0,
              {kind: torch.rand(rows * _WIDTH, generator=generator) for kind in KINDS})
        for n in range(8)
    ]  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    """How long work takes, in seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def save(store: CheckpointStore, pieces: list[Piece]) -> Checkpoint:
    """Save once, as a run does."""
    staging = store.begin(1)
    return Checkpoint.at(
        store.commit(staging, 1, TrainingState(Counters(1), 1, {}), save_pieces(staging, pieces, None, unwatched))
    )


def load(path: Path, pieces: list[Piece]) -> None:
    """Read a checkpoint once, verifying all of it."""
    checkpoint = Checkpoint.at(path, "full")
    load_pieces(checkpoint.path, pieces)


def steps_beside(work: Callable[[], object]) -> float:
    """How many times as long a step of training (here: a product of matrices on all cores) takes while work is done."""
    matrix = torch.rand(768, 768)
    product = torch.empty_like(matrix)

    def step() -> None:
        torch.mm(matrix, matrix, out=product)

    step()
    alone = median(seconds(step) for _ in range(50))
    thread = Thread(target=work)
    begin, count = time.perf_counter(), 0
    thread.start()
    while thread.is_alive():
        step()
        count += 1
    return (time.perf_counter() - begin) / count / alone


def peak_memory() -> int:
    """Most bytes of memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def forget_files() -> bool:
    """Whether the page cache could be emptied."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="utf-8")
    except OSError:
        return False
    return True


def dd_write(folder: Path, size: int) -> None:
    """Let `dd` write as many bytes, synced."""
    blocks = max(1, size >> 24)
    command = ["dd", "if=/dev/zero", f"of={folder}/dd", "bs=16M", f"count={blocks}", "conv=fdatasync"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def dd_read(file: Path) -> None:
    """Let `dd` read a file past the page cache."""
    command = ["dd", f"if={file}", "of=/dev/null", "bs=16M", "iflag=direct"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def options() -> argparse.Namespace:
    """What stands on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m glm_scale.checkpoint.bench", description=(__doc__ or "").partition(":")[0]
    )
    parser.add_argument("folder", type=Path, help="where to write; several times the megabytes have to be free")
    parser.add_argument("--megabytes", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def main() -> int:
    """Measure, and print a table; returns the exit code."""
    asked = options()
    folder = asked.folder / "checkpoint-bench"
    store = CheckpointStore(folder, Retention(1))
    pieces = made(asked.megabytes)
    size = sum(tensor.nbytes for piece in pieces for tensor in piece.tensors.values())
    before = peak_memory()
    room = on_cpu(pieces)
    slowdown = median(steps_beside(lambda: save(store, room)) for _ in range(asked.rounds))
    memory = peak_memory() - before
    found = on_cpu(pieces)
    for piece in found:
        for tensor in piece.tensors.values():
            tensor.zero_()
    load(newest(store), found)
    if not all(
        torch.equal(a.tensors[kind], b.tensors[kind]) for a, b in zip(found, pieces, strict=True) for kind in KINDS
    ):
        print("what was loaded is not what was saved", file=sys.stderr)
        return 1
    times: dict[str, list[float]] = {}
    cold = True
    for _ in range(asked.rounds):
        times.setdefault("copy", []).append(seconds(lambda: on_cpu(pieces, room)))
        times.setdefault("dd writes", []).append(seconds(lambda: dd_write(folder, size)))
        times.setdefault("save", []).append(seconds(lambda: save(store, room)))
        path = newest(store)
        cold = forget_files() and cold
        times.setdefault("dd reads", []).append(seconds(lambda: dd_read(folder / "dd")))
        cold = forget_files() and cold
        times.setdefault("load", []).append(seconds(lambda path=path: load(path, found)))  # type: ignore[misc]
    print(f"{size / 1e9:.2f} GB in one process, medians of {asked.rounds}; reads are {'cold' if cold else 'warm'}")
    report({name: median(values) for name, values in times.items()}, size)
    print(
        f"until the commit a step takes {slowdown:.2f}x its time; memory kept for saves: {memory / size:.2f}x the state"
    )
    shutil.rmtree(folder)
    return 0


def newest(store: CheckpointStore) -> Path:
    """The newest checkpoint of the folder that is measured in."""
    checkpoint = store.newest("sizes")
    assert checkpoint is not None
    return checkpoint.path


def report(times: dict[str, float], size: int) -> None:
    """Print what was measured, and how it compares with `dd`."""
    names = {
        "copy": "copy to host memory",
        "dd writes": "dd conv=fdatasync",
        "save": "save",
        "dd reads": "dd iflag=direct",
        "load": "load, fully verified",
    }
    for short, name in names.items():
        print(f"{name:24}{times[short]:7.2f} s{size / times[short] / 1e9:8.2f} GB/s")
    print(
        f"save to dd {times['dd writes'] / times['save']:.2f}, load to dd {times['dd reads'] / times['load']:.2f}, ",
        end="",
    )
    print(f"copy to save {times['copy'] / times['save']:.3f}")


if __name__ == "__main__":
    raise SystemExit(main())
