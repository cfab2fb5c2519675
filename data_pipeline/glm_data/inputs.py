"""Which files a build reads: a walk through the inputs that follows links, opens nothing, and leaves out nothing
without a word."""

import errno
import io
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob
from operator import attrgetter
from pathlib import Path
from typing import Literal

from glm_data.compression import COMPRESSIONS
from glm_data.errors import DataError
from glm_data.input_warnings import Kind, Remark, Remarks, passed_over, warnings
from glm_data.naming import shown
from glm_data.remote import Remote, remote_files, url_of

TEXT = ".txt"
LINES = (".jsonl", ".json", ".ndjson")
"""Of JSON objects, one a line."""
TABLES = (".parquet", ".arrow")
FORMATS = (TEXT, *LINES, *TABLES)
OnBad = Literal["stop", "skip"]

_KNOWN_FORMATS = (
    f"Known are {', '.join(FORMATS)}; text and JSON lines also compressed as {', '.join(COMPRESSIONS)} (such as "
    "corpus.jsonl.zst)."
)
_WILD = re.compile(r"[*?\[]")
_ONCE = "given more than once. Name each file or folder once."
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_LEAVE_OUT = "Mend it or take it out of the input, or leave such things out with --on-bad-record skip."


@dataclass(frozen=True)
class InputFile:
    """A file to read.

    Attributes:
        path: to open it by, unless it is remote.
        place: the path as the user gave it, for messages.
        name: relative to what the user gave, so that it is the same wherever the files lie.
        size: in bytes.
        modified: in nanoseconds.
        format: one of `FORMATS`.
        compression: one of `COMPRESSIONS`, or "".
        remote: the object of a store that it is.
    """

    path: Path
    place: str
    name: str
    size: int
    modified: int
    format: str
    compression: str
    remote: Remote | None = None

    def opened(self) -> io.BufferedReader:
        """To be read. Raises OSError, and DataError if it is remote, see `Remote`."""
        return self.remote.opened() if self.remote else self.path.open("rb")


@dataclass(frozen=True)
class Inputs:
    """The files to read, in order, and what was found besides."""

    files: list[InputFile]
    remarks: dict[str, Remark]


@dataclass(frozen=True)
class _Entry:
    """A file of a known format that was found. `linked`: behind a symbolic link within an input."""

    path: Path
    relative: str
    status: os.stat_result
    linked: bool


def find_files(inputs: list[Path], on_bad: OnBad = "stop") -> Inputs:
    """The text files among the inputs: in the order given, folders searched and sorted by name.

    Symbolic links are followed; what they lead to a second time counts once. Within folders, hidden entries, files of
    other formats and what is no file at all are passed over. Links that lead nowhere, and what may not be read, are
    errors, or left out with `on_bad` "skip". All of that is remarked.

    Raises:
        DataError: an input does not exist, is no file of a known format, or there is nothing to read.
    """
    walk = _Walk(on_bad)
    found: list[_Entry | InputFile] = []
    for given in inputs:
        if url := url_of(given):
            found += _objects(url, walk.remarks)
        else:
            found += [entry for path in _matches(given) for entry in _entries(path, path, walk)]
    _refuse_repeats(entry.place for entry in found if isinstance(entry, InputFile))
    local = [entry for entry in found if isinstance(entry, _Entry)]
    once = {id(entry) for entry in _without_repeats(local, walk.remarks)}
    files = [
        entry if isinstance(entry, InputFile) else _describe(entry)
        for entry in found
        if isinstance(entry, InputFile) or id(entry) in once
    ]
    return Inputs(files, walk.remarks.by_kind)


def _objects(url: str, remarks: Remarks) -> Iterator[InputFile]:
    """The objects of a store, as files in a folder."""
    found = 0
    for name, remote in remote_files(url):
        path = Path(name)
        kind = _format_of(path) if remote.url == url else _found_format(path)
        if any(part.startswith(".") for part in path.parts):
            remarks.add("hidden", shown(name))
        elif not kind:
            remarks.add("format", shown(name))
        else:
            found += 1
            compression = path.suffix if path.suffix in COMPRESSIONS else ""
            place = shown(remote.url)
            yield InputFile(path, place, shown(name), remote.size, remote.version, kind, compression, remote)
    if not found:
        raise DataError(f"{shown(url)}: no text there. {_KNOWN_FORMATS}")


def _refuse_repeats(urls: Iterable[str]) -> None:
    repeated = [url for url, times in Counter(urls).items() if times > 1]
    if repeated:
        raise DataError(f"{repeated[0]}: {_ONCE}")


def _expanded(path: Path) -> Path:
    """With the home folder for "~", if that is known."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _matches(given: Path) -> list[Path]:
    """The paths that a pattern such as `shards/*.parquet` stands for, or the path itself."""
    path = _expanded(given)
    if not _WILD.search(str(path)) or path.exists():
        return [path]
    # Unlike pathlib's it knows absolute patterns, and passes over what is hidden.
    matches = [Path(match) for match in sorted(glob(str(path), recursive=True))]  # noqa: PTH207
    if not matches:
        raise DataError(f"{shown(given)}: nothing matches this pattern.")
    return matches


def _entries(path: Path, given: Path, walk: "_Walk") -> list[_Entry]:
    """The entries of one input."""
    try:
        status = path.stat()
    except FileNotFoundError:
        broken = " (a link that leads nowhere)" if path.is_symlink() else ""
        raise DataError(f"{shown(given)}: there is no such file or folder{broken}.") from None
    except OSError as error:
        raise DataError(f"{shown(given)}: cannot be read: {error.strerror or error}.") from None
    if stat.S_ISDIR(status.st_mode):
        found = sorted(walk.through(path), key=attrgetter("relative"))
        if not found:
            besides = "; ".join(filter(None, [passed_over(walk.remarks.by_kind), *warnings(walk.remarks.by_kind)]))
            raise DataError(
                f"{shown(given)}: the folder holds no text. {_KNOWN_FORMATS}"
                + (f" Passed over: {besides}." if besides else "")
            )
        return found
    if not stat.S_ISREG(status.st_mode):
        raise DataError(
            f"{shown(given)}: {_kind_of_special(status.st_mode)}, not a file. The input is read more than once: write "
            "it into a file first."
        )
    if not _format_of(path):
        raise DataError(f"{shown(given)}: not a known format. {_KNOWN_FORMATS}")
    return [_Entry(path, path.name, status, linked=False)] if walk.may_read(path, path.name) else []


class _Walk:
    """The search of folders. A folder that was entered is not entered again through a link, so links cannot circle."""

    def __init__(self, on_bad: OnBad):
        self._on_bad = on_bad
        self._entered: set[str] = set()
        self.remarks = Remarks()

    def through(self, root: Path) -> Iterator[_Entry]:
        """The files of known formats in a folder and all below it; links to folders are followed in the end."""
        folders = [_Folder(root, "", os.path.realpath(root), linked=False)]
        links: deque[_Folder] = deque()
        while folders or links:
            folder = folders.pop() if folders else links.popleft()
            if folder.linked and folder.real in self._entered:
                self.remarks.add("again", shown(folder.relative[:-1]))
                continue
            self._entered.add(folder.real)
            for entry in self._listed(folder):
                path, relative = folder.path / entry.name, folder.relative + entry.name
                linked = folder.linked or entry.is_symlink()
                if entry.name.startswith("."):
                    self.remarks.add("hidden", shown(relative))
                elif (status := self._status(path, relative, entry.is_symlink())) is None:
                    continue
                elif stat.S_ISDIR(status.st_mode):
                    real = os.path.realpath(path) if entry.is_symlink() else str(Path(folder.real, entry.name))
                    (links if entry.is_symlink() else folders).append(_Folder(path, f"{relative}/", real, linked))
                elif not stat.S_ISREG(status.st_mode):
                    self.remarks.add("special", shown(relative))
                elif not _found_format(path):
                    self.remarks.add("format", shown(relative))
                elif self.may_read(path, relative):
                    yield _Entry(path, relative, status, linked)

    def may_read(self, path: Path, relative: str) -> bool:
        """Whether a file can be opened, which is not tried: the other end of a name may be anything by then."""
        if os.access(path, os.R_OK):
            return True
        self._cannot_be_read("unreadable", path, relative, "Permission denied")
        return False

    def _listed(self, folder: "_Folder") -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder.path) as entries:
                return sorted(entries, key=attrgetter("name"))
        except OSError as error:
            self._cannot_be_read(
                "unreadable", folder.path, folder.relative[:-1] or folder.path.name, error.strerror or str(error)
            )
            return []

    def _status(self, path: Path, relative: str, link: bool) -> os.stat_result | None:
        try:
            return path.stat()
        except OSError as error:
            kind: Kind = "missing" if link and error.errno in _LEADS_NOWHERE else "unreadable"
            target = f" (a link to {shown(path.readlink())})" if link else ""
            self._cannot_be_read(kind, path, relative, f"{error.strerror or error}{target}")
            return None

    def _cannot_be_read(self, kind: Kind, path: Path, relative: str, reason: str) -> None:
        if self._on_bad == "stop":
            raise DataError(f"{shown(path)}: cannot be read: {reason}. {_LEAVE_OUT}")
        self.remarks.add(kind, shown(relative))


@dataclass(frozen=True)
class _Folder:
    """A folder to search. `real`: its path without links; `linked`: a link leads to it, from within an input."""

    path: Path
    relative: str
    real: str
    linked: bool


def _without_repeats(found: list[_Entry], remarks: Remarks) -> Iterator[_Entry]:
    """Each file once, by a name without links if it has one. Raises DataError if it was given twice."""
    by_inode: dict[tuple[int, int], list[_Entry]] = {}
    for entry in found:
        by_inode.setdefault((entry.status.st_dev, entry.status.st_ino), []).append(entry)
    # Files of several names (hard links), or of a file system that numbers none, share a number without a link.
    chosen: dict[str, _Entry] = {}
    for entries in by_inode.values():
        for entry in entries if len(entries) > 1 else ():
            real = os.path.realpath(entry.path)
            before = chosen.setdefault(real, entry)
            if before is not entry and not (before.linked or entry.linked):
                raise DataError(f"{shown(real)}: {_ONCE}")
            if before.linked and not entry.linked:
                chosen[real] = entry
    kept = set(map(id, chosen.values()))
    for entry in found:
        if len(by_inode[entry.status.st_dev, entry.status.st_ino]) == 1 or id(entry) in kept:
            yield entry
        else:
            remarks.add("again", shown(entry.relative))


def _format_of(path: Path) -> str:
    stem = path.with_suffix("") if path.suffix in COMPRESSIONS else path
    compressed = stem is not path
    return stem.suffix if stem.suffix in FORMATS and not (compressed and stem.suffix in TABLES) else ""


def _found_format(path: Path) -> str:
    """Of a file in a folder: there a plain .json is a configuration more often than a corpus."""
    return "" if path.suffix == ".json" else _format_of(path)


def _describe(entry: _Entry) -> InputFile:
    return InputFile(
        path=entry.path,
        place=shown(entry.path),
        name=shown(entry.relative),
        size=entry.status.st_size,
        modified=entry.status.st_mtime_ns,
        format=_format_of(entry.path),
        compression=entry.path.suffix if entry.path.suffix in COMPRESSIONS else "",
    )


def _kind_of_special(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    return next((what for test, what in kinds if test(mode)), "a device")
