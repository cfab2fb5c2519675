"""Files of object stores, by fsspec: s3://bucket/key with s3fs installed, and whatever else it has a package for.

Only ranges of an object are held. An object that is replaced while it is read is found out, by what the store says of
its version; a store that does not answer is an error, after which the same command goes on.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_data.errors import DataError

__all__ = ["Remote", "remote_files", "url_of"]

# A Path folds the two slashes of a URL into one.
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+]+):/{1,2}(?P<rest>[^/].*)")
_WILD = re.compile(r"[*?\[]")
_RANGE = 8 << 20
_AGAIN = "Run the same command again when it can be reached: it continues where it stopped."
_ALLOW = (
    "Give credentials that may list and read it (for s3://: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
    "AWS_PROFILE), and run the same command again."
)
_VERSION = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime", "created")


@dataclass(frozen=True)
class Remote:
    """An object: its URL, bytes, and a number that changes when it does."""

    url: str
    size: int
    version: int

    def opened(self) -> io.BufferedReader:
        """To read and seek in. Raises DataError, also later: it cannot be reached, or is another one by now."""
        return io.BufferedReader(_Ranges(self), 1 << 20)


def url_of(path: Path | str) -> str | None:
    """The URL that a path was written as; None if it is a file of this machine."""
    found = _URL.fullmatch(str(path))
    return f"{found['scheme']}://{found['rest']}" if found else None


def remote_files(url: str) -> list[tuple[str, Remote]]:
    """The objects at a URL, below it, or matching it, with their names relative to it, sorted.

    Raises:
        DataError: the package for it is missing, the store does not answer, or there is nothing.
    """
    system, root = _system(url)
    try:
        if _WILD.search(root):
            found = system.glob(root, detail=True)
        else:
            system.invalidate_cache()
            found = {root: system.info(root)} if system.isfile(root) else system.find(root, detail=True)
    except FileNotFoundError:
        found = {}
    except Exception as error:
        raise _unreachable(url, error) from error
    files = {name: info for name, info in found.items() if info.get("type") == "file"}
    if not files:
        raise DataError(f"{url}: there is no such object, nor any below it or matching it.")
    # Relative to the folder that was asked for, or to the one of the object or of the pattern.
    single = root in files or _WILD.search(root)
    folder = _WILD.split(root)[0].rpartition("/")[0] if single else root.rstrip("/")
    return [
        (name.removeprefix(f"{folder}/"), _described(system.unstrip_protocol(name), info))
        for name, info in sorted(files.items())
    ]


class _Ranges(io.RawIOBase):
    """An object as a file. Whatever goes wrong is a DataError."""

    def __init__(self, remote: Remote):
        self._remote = remote
        self._check()
        system, path = _system(remote.url)
        try:
            self._file = system.open(path, mode="rb", block_size=_RANGE, cache_type="readahead")
        except Exception as error:
            raise _unreachable(remote.url, error) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except Exception as error:
            self._check()
            raise _unreachable(self._remote.url, error) from error
        if not data:
            self._check()
        buffer[: len(data)] = data
        return len(data)

    def _check(self) -> None:
        system, path = _system(self._remote.url)
        try:
            system.invalidate_cache()
            info = system.info(path)
        except FileNotFoundError as error:
            raise DataError(
                f"{self._remote.url}: is not there any more. Put it back, or run the build again."
            ) from error
        except Exception as error:
            raise _unreachable(self._remote.url, error) from error
        if _described(self._remote.url, info) != self._remote:
            raise DataError(
                f"{self._remote.url}: changed while the data set was being built. Run the build again when it is at "
                "rest."
            )

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise DataError(f"{url}: {error}. For s3:// that is: pip install s3fs.") from error
    except ValueError as error:
        raise DataError(f"{url}: {error}.") from error


def _described(url: str, info: dict[str, Any]) -> Remote:
    said = repr([str(info[key]) for key in _VERSION if info.get(key) is not None])
    return Remote(url, int(info["size"]), int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big"))


def _unreachable(url: str, error: Exception) -> DataError:
    reason = f"{type(error).__name__}: {str(error).rstrip('.')}" if str(error) else type(error).__name__
    return DataError(f"{url}: cannot be read: {reason}. {_ALLOW if isinstance(error, PermissionError) else _AGAIN}")
