"""What can happen to the files of a checkpoint, decided by a random generator, and how the damage is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

from glm_scale.checkpoint.manifest import MANIFEST, MARKER


def _file(path: Path, draw: Random) -> Path:
    """Of those that the manifest speaks of; only such as have content."""
    names = sorted(p.name for p in path.iterdir() if p.name not in (MANIFEST, MARKER) and p.stat().st_size)
    return path / draw.choice(names)


def _truncate(file: Path, draw: Random) -> str:
    os.truncate(file, draw.randrange(file.stat().st_size))
    return file.name


def _flip_bit(file: Path, draw: Random) -> str:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    return file.name


def _remove(file: Path, draw: Random) -> str:
    file.unlink()
    return file.name


def _add_foreign(path: Path, draw: Random) -> str:
    name = draw.choice(["notes.txt", "shard-00009.bin", ".hidden", "model.safetensors"])
    (path / name).write_bytes(draw.randbytes(draw.randrange(100)))
    return name


DAMAGES: dict[str, Callable[[Path, Random], str]] = {
    "a file cut off": lambda path, draw: _truncate(_file(path, draw), draw),
    "a bit flipped": lambda path, draw: _flip_bit(_file(path, draw), draw),
    "a file missing": lambda path, draw: _remove(_file(path, draw), draw),
    "a foreign file": _add_foreign,
    "the manifest cut off": lambda path, draw: _truncate(path / MANIFEST, draw),
    "a bit of the manifest flipped": lambda path, draw: _flip_bit(path / MANIFEST, draw),
    "the manifest missing": lambda path, draw: _remove(path / MANIFEST, draw),
    "the marker cut off": lambda path, draw: _truncate(path / MARKER, draw),
    "a bit of the marker flipped": lambda path, draw: _flip_bit(path / MARKER, draw),
    "the marker missing": lambda path, draw: _remove(path / MARKER, draw),
}
"""Harm to the checkpoint in a folder; each returns a name that the message has to have."""
