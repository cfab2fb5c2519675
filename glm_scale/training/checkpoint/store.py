"""Checkpoints on disk: logical parameters in safetensors, everything else in one JSON file, no pickle.

    checkpoints/step-00000100/
        checkpoint.json                counters, random state, and the list of tensors and files
        weight-00000.safetensors …     fp32 master weights, by parameter name
        exp_avg-00000.safetensors …    Adam's first moments
        exp_avg_sq-00000.safetensors … and second moments
        config.yaml tokenizer.model    so that the folder can be used without its run

A checkpoint is written beside its place, flushed to the disk and renamed, so one that carries its name is whole.
The layout knows nothing of ranks or ZeRO: it can be read back into any of them.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from glm_scale.errors import UserError

__all__ = ["Checkpoint", "CheckpointStore"]

FORMAT = 1
MANIFEST = "checkpoint.json"
_NAME = re.compile(r"step-(\d{8,})")
# Tensors are collected in memory up to this size, then written: large enough for the disk, small enough for the host.
_FILE_BYTES = 1 << 30

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder that was found whole."""

    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.path / MANIFEST).read_text())

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def state(self) -> dict[str, Any]:
        """What was saved beside the tensors: counters, random state."""
        return self.manifest["state"]

    @property
    def parameters(self) -> list[str]:
        return list(self.manifest["tensors"]["weight"])

    def tensors(self, kinds: Iterable[str] = ("weight",)) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Every parameter's name with its tensors of the given kinds, on the CPU, one parameter at a time."""
        index = {kind: self.manifest["tensors"][kind] for kind in kinds}
        files = {file: self._open(file) for places in index.values() for file in set(places.values())}
        for name in self.parameters:
            yield name, {kind: files[places[name]].get_tensor(name) for kind, places in index.items()}

    def _open(self, file: str) -> Any:
        return safetensors.safe_open(self.path / file, framework="pt", device="cpu")

    @classmethod
    def at(cls, path: Path) -> "Checkpoint":
        """The checkpoint in the folder `path`. Raises UserError if it is none, or damaged."""
        problem = _problem(path)
        if problem:
            raise UserError(f"{path} is not a whole checkpoint: {problem}")
        return cls(path)


class CheckpointStore:
    """The checkpoints of one run; keeps the newest `keep`."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(
        self,
        step: int,
        tensors: Iterable[tuple[str, Mapping[str, Tensor]]],
        state: Mapping[str, Any],
        companions: Mapping[str, bytes],
    ) -> Path:
        """Write a checkpoint; returns its folder.

        `tensors` yields each parameter's name with its tensors by kind and is consumed one parameter at a time;
        `state` is what JSON can hold; `companions` are small files that go along, by name.
        """
        self._discard_unfinished()
        final = self.folder / f"step-{step:08d}"
        staging = self.folder / f".{final.name}.unfinished"
        staging.mkdir(parents=True)
        try:
            index = _write_tensors(staging, tensors)
            for name, content in companions.items():
                _write(staging / name, content)
            sizes = {file.name: file.stat().st_size for file in sorted(staging.iterdir())}
            manifest = {"format": FORMAT, "step": step, "state": dict(state), "tensors": index, "files": sizes}
            _write(staging / MANIFEST, json.dumps(manifest, indent=1).encode())
        except OSError as error:
            raise UserError(f"cannot write the checkpoint {final}: {error.strerror or error}") from error
        _sync(staging)
        shutil.rmtree(final, ignore_errors=True)
        staging.rename(final)
        _sync(self.folder)
        self._prune()
        return final

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint; damaged ones are passed over with a warning."""
        for path in reversed(self._folders()):
            problem = _problem(path)
            if not problem:
                return Checkpoint(path)
            _logger.warning("passing over the checkpoint %s: %s", path, problem)
        return None

    def _folders(self) -> list[Path]:
        found = [(int(match[1]), path) for path in self.folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def _prune(self) -> None:
        for path in self._folders()[: -self.keep]:
            # Hidden first: a folder that is half deleted must not look like a checkpoint.
            doomed = path.with_name(f".{path.name}.unfinished")
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def _discard_unfinished(self) -> None:
        for leftover in self.folder.glob(".step-*.unfinished"):
            shutil.rmtree(leftover, ignore_errors=True)


def _write_tensors(folder: Path, tensors: Iterable[tuple[str, Mapping[str, Tensor]]]) -> dict[str, dict[str, str]]:
    """Write the tensors in files of about `_FILE_BYTES`; returns kind → parameter → file."""
    index: dict[str, dict[str, str]] = {}
    pending: dict[str, dict[str, Tensor]] = {}
    number = pending_bytes = 0

    def flush() -> None:
        nonlocal number, pending_bytes
        for kind, members in pending.items():
            file = folder / f"{kind}-{number:05d}.safetensors"
            safetensors.torch.save_file(members, file)
            _sync(file)
            index.setdefault(kind, {}).update(dict.fromkeys(members, file.name))
        number, pending_bytes = number + 1, 0
        pending.clear()

    for name, by_kind in tensors:
        for kind, tensor in by_kind.items():
            pending.setdefault(kind, {})[name] = tensor
            pending_bytes += tensor.nbytes
        if pending_bytes >= _FILE_BYTES:
            flush()
    flush()
    return index


def _problem(path: Path) -> str | None:
    """Why the folder is not a whole checkpoint; None if it is one."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        sizes, version = manifest["files"], manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    if version != FORMAT:
        return f"its format is {version}, this version reads {FORMAT}"
    for name, size in sizes.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
