"""How fast this disk takes and gives checkpoints: `python -m glm_scale.training.checkpoint.bench FOLDER`.

Beside saving and loading, the same bytes by dd: with as many writers and `conv=fdatasync`, and read by `iflag=direct`.
What is saved is read back and compared first. Dropping caches needs root; without it reads are warm, and said to be.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from glm_scale.training.checkpoint.folder import CheckpointStore
from glm_scale.training.checkpoint.points import unwatched
from glm_scale.training.checkpoint.reading import Checkpoint
from glm_scale.training.checkpoint.retention import Retention
from glm_scale.training.checkpoint.shards import KINDS, load_pieces, on_cpu, save_pieces
from glm_scale.training.pieces import Box, Piece

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
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def save(store: CheckpointStore, pieces: list[Piece]) -> Checkpoint:
    staging = store.begin(1)
    return Checkpoint.at(store.commit(staging, 1, {}, save_pieces(staging, pieces, None, unwatched)))


def load(path: Path, pieces: list[Piece]) -> None:
    checkpoint = Checkpoint.at(path, "full")
    load_pieces(checkpoint.path, pieces)


def forget_files() -> bool:
    """Whether the page cache could be emptied."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def dd_write(folder: Path, size: int) -> None:
    blocks = max(1, size >> 24)
    command = ["dd", "if=/dev/zero", f"of={folder}/dd", "bs=16M", f"count={blocks}", "conv=fdatasync"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def dd_read(file: Path) -> None:
    command = ["dd", f"if={file}", "of=/dev/null", "bs=16M", "iflag=direct"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m glm_scale.training.checkpoint.bench", description=(__doc__ or "").partition(":")[0]
    )
    parser.add_argument("folder", type=Path, help="where to write; several times the megabytes have to be free")
    parser.add_argument("--megabytes", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = options.folder / "checkpoint-bench"
    store = CheckpointStore(folder, Retention(1))
    pieces = made(options.megabytes)
    size = sum(tensor.nbytes for piece in pieces for tensor in piece.tensors.values())
    path = save(store, pieces).path
    found = [
        Piece(p.name, p.shape, p.part, 0, {kind: torch.empty_like(x) for kind, x in p.tensors.items()}) for p in pieces
    ]
    load(path, found)
    if not all(
        torch.equal(a.tensors[kind], b.tensors[kind]) for a, b in zip(found, pieces, strict=True) for kind in KINDS
    ):
        print("what was loaded is not what was saved", file=sys.stderr)
        return 1
    rates: dict[str, list[float]] = {}
    room = on_cpu(pieces)
    cold = True
    for _ in range(options.rounds):
        rates.setdefault("copy to host memory", []).append(seconds(lambda: on_cpu(pieces, room)))
        rates.setdefault("dd conv=fdatasync", []).append(seconds(lambda: dd_write(folder, size)))
        rates.setdefault("save", []).append(seconds(lambda: save(store, pieces)))
        newest = store.newest("sizes")
        assert newest is not None
        cold = forget_files() and cold
        rates.setdefault("dd iflag=direct", []).append(seconds(lambda: dd_read(folder / "dd")))
        cold = forget_files() and cold
        rates.setdefault("load, fully verified", []).append(seconds(lambda path=newest.path: load(path, found)))  # type: ignore[misc]
    print(f"{size / 1e9:.2f} GB in one process, medians of {options.rounds}; reads are {'cold' if cold else 'warm'}")
    for name, times in rates.items():
        middle = sorted(times)[len(times) // 2]
        print(f"{name:24}{middle:7.2f} s{size / middle / 1e9:8.2f} GB/s")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
