"""The errors of this package."""

import errno
import resource
from pathlib import Path


class DataError(Exception):
    """Data that cannot be used as asked: shown to users as one message without a traceback.

    The message names the value, its place (file and line, or shard and sample) and the way out.
    """


class LimitError(DataError):
    """The data may be whole, but this process may not have what it takes to read them."""


class BadRecordError(Exception):
    """A record that is no document. Whoever knows its place makes it a DataError, or leaves it out and counts it."""


def is_at_limit(error: OSError) -> bool:
    """Whether a file could not be opened because too many are open."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def unreadable(what: Path | str, error: OSError, remedy: str = "") -> DataError:
    """The error for a file that cannot be read; `remedy` is what helps if the file itself is the reason."""
    if is_at_limit(error):
        return at_limit(f"{what}: cannot be read", error)
    return DataError(f"{what}: cannot be read: {error.strerror or error}.{remedy and ' '}{remedy}")


def at_limit(failure: str, error: OSError) -> LimitError:
    """The error for what failed because too many files are open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return LimitError(
        f"{failure}: {error.strerror}. This process may have {limit} files open at a time; allow more before it "
        f"starts: ulimit -n {max(4096, 4 * limit)}"
    )
