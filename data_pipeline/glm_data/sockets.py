"""A folder for the sockets through which `multiprocessing` starts worker processes."""

import multiprocessing.util
import os
import tempfile
from pathlib import Path

from glm_data.errors import DataError

__all__ = ["make_socket_folder"]

_LONGEST = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")
"""Bytes of a folder's path; that of a socket may have 107."""


def make_socket_folder() -> None:
    """Make the folder for the sockets of `multiprocessing`, elsewhere if the path of TMPDIR is too long for them.

    Raises DataError if there is no place for it.
    """
    before = tempfile.tempdir
    try:
        tempfile.tempdir = _folder()
        # It is made once; from then on the process and its children have it.
        multiprocessing.util.get_temp_dir()
    finally:
        tempfile.tempdir = before


def _folder() -> str:
    try:
        usual = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise DataError(f"no temporary file can be made: {error}. Set TMPDIR to a folder you may write to.") from error
    for folder in (usual, os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm"):
        fits = folder.startswith("/") and len(os.fsencode(folder)) <= _LONGEST
        if fits and Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise DataError(
        f"the path of the temporary folder, {usual}, is longer than the {_LONGEST} bytes that leave room for the "
        "sockets of data workers. Set TMPDIR to a shorter one, or data.workers=0."
    )
