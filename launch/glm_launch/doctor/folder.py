"""The folder of the runs: what it lies on, and whether files in it change as runs rely on."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from glm_launch.doctor.findings import Asked, Finding
from glm_launch.doctor.mounts import existing, mount_of

__all__ = ["file_system", "probe", "rename_and_fsync", "unwritable"]

_LEAST_FREE, _LOW_FREE = 2**30, 20 * 2**30
_PASSING = {
    "tmpfs": "is in memory, and gone when the machine stops",
    "overlay": "belongs to this container, and goes with it",
}
_OF_ONE_MACHINE = {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay"}


@contextlib.contextmanager
def probe(folder: Path) -> Iterator[Path | None]:
    """A folder in `folder`, or where that would be made, which goes again; None if nothing can be written there."""
    try:
        place = tempfile.mkdtemp(prefix=".glm-scale-doctor-", dir=existing(folder))
    except OSError:
        yield None
        return
    try:
        yield Path(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def unwritable(name: str, asked: Asked) -> Finding:
    """The finding for a folder that may not be written."""
    return Finding(name, "not applicable", f"needs a folder that can be written, which {asked.folder} is not")


def file_system(asked: Asked) -> Finding:
    """Kind of file system and free space of the folder of runs."""
    name = "folder"
    place = existing(asked.folder)
    if not place.is_dir():
        return Finding(name, "problem", f"{place} is a file", "name another folder by --folder, and by run_root=")
    mount, space = mount_of(place), os.statvfs(place)
    free = space.f_bavail * space.f_frsize
    says = f"{asked.folder.absolute()} on {mount.kind}, {free / 2**30:,.1f} GiB free"
    with probe(asked.folder) as written:
        if written is None:
            return Finding(
                name, "problem", f"{says}; nothing can be written in {place}",
                "name a folder of yours by --folder, and by run_root=",
            )  # fmt: skip
    if free < _LEAST_FREE or (space.f_files and not space.f_favail):
        what = "no space" if free < _LEAST_FREE else "no file may be added"
        return Finding(
            name, "problem", f"{says}; {what} is left for checkpoints", "delete something, or use another disk"
        )
    if mount.kind in _PASSING:
        way_out = "use a folder on a disk" if mount.kind == "tmpfs" else "mount a folder of the host"
        return Finding(name, "warning", f"{says}, which {_PASSING[mount.kind]}", way_out)
    if mount.kind in _OF_ONE_MACHINE and shutil.which("sbatch"):
        return Finding(
            name, "warning", f"{says}, a disk of this machine; jobs on other nodes of the cluster will not see it",
            "use a folder on the cluster's shared file system",
        )  # fmt: skip
    if free < _LOW_FREE:
        return Finding(name, "warning", f"{says}; a checkpoint takes 12 bytes a parameter or more", "make room")
    return Finding(name, "ok", says)


def rename_and_fsync(asked: Asked) -> Finding:
    """A checkpoint, like every small file, is written under another name, synced and renamed."""
    name = "rename, fsync"
    with probe(asked.folder) as place:
        if place is None:
            return unwritable(name, asked)
        try:
            wrong = _rename(place)
        except OSError as error:
            wrong = f"{error.strerror or error}"
    if wrong:
        return Finding(
            name, "problem", f"in {asked.folder.absolute()}: {wrong}",
            "use another file system: on this one a run could not be continued after a crash",
        )  # fmt: skip
    return Finding(name, "ok", "a file is replaced whole, a folder renamed, and both reach the disk")


def _rename(place: Path) -> str:
    """What is wrong with renaming there; empty if nothing is."""
    old, new = place / "file", place / "file.new"
    old.write_text("old", encoding="utf-8")
    with old.open(encoding="utf-8") as reader:
        with new.open("w", encoding="utf-8") as file:
            file.write("new")
            file.flush()
            os.fsync(file.fileno())
        new.replace(old)
        if reader.read() != "old":
            return "who reads a file while it is replaced does not see the old content"
    if old.read_text(encoding="utf-8") != "new" or new.exists():
        return "a renamed file is not seen under its new name alone"
    (place / "folder.new").mkdir()
    (place / "folder.new" / "file").write_text("", encoding="utf-8")
    (place / "folder.new").rename(place / "folder")
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return "" if (place / "folder" / "file").exists() else "a renamed folder is not seen under its new name"
