"""What a process of ours puts in order before it does anything: where it writes, where its libraries keep things, and
how it ends.

Libraries keep caches in the home directory. Where there is none, or none that may be written (a container, a service, a
user id that no passwd file knows), they fail when they are imported, or make a folder called "~". Standard library
alone.
"""

from __future__ import annotations

import atexit
import codecs
import contextlib
import functools
import gc
import locale
import os
import pwd
import stat
import sys
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from glm_scale.output import prepare_output

__all__ = ["prepare", "settle_caches"]

# Of the libraries: the variable that moves a cache, where it lies without it, and a place for it among ours.
_CACHES = (
    ("XDG_CACHE_HOME", ".cache", "cache"),
    ("XDG_CONFIG_HOME", ".config", "config"),
    ("MPLCONFIGDIR", ".config/matplotlib", "matplotlib"),
    ("TRITON_HOME", ".triton", "home"),
)


def prepare() -> None:
    """First of all in a process. Its children find the same."""
    _speak_utf_8()
    prepare_output()
    settle_caches(os.environ)
    # Torch and its compiler make half a million objects when they are imported. Looking through them as often as Python
    # does by itself takes a fifth of that time.
    gc.set_threshold(50_000, 20, 100)
    # Python looks through all objects before a process ends: 2 s beside torch. SLURM grants a job that it ends 30 s.
    atexit.register(gc.freeze)


def _speak_utf_8() -> None:
    """Start this process again in Python's UTF-8 mode where the locale has another encoding.

    Libraries, torch among them, open their own files in the encoding of the locale, and do not find UTF-8 there. What
    is printed keeps the locale's encoding.
    """
    encoding = locale.getencoding()
    # An interpreter that ignores its environment (-I, -E) would be started again for ever.
    asked_already = os.environ.get("PYTHONUTF8") == "1"
    if sys.flags.utf8_mode or asked_already or codecs.lookup(encoding).name == "utf-8":
        return
    environment = {"PYTHONIOENCODING": f"{encoding}:backslashreplace", **os.environ, "PYTHONUTF8": "1"}
    with contextlib.suppress(OSError):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def settle_caches(environment: MutableMapping[str, str]) -> None:
    """Let `environment` name caches that can be written, and a home and a user where the system knows none.

    What can be written, or is named already, stays; the rest goes to a private folder among the temporary files.
    """
    uid = os.getuid()
    private = functools.cache(_private_folder)
    if not any(environment.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")) and _entry(uid) is None:
        environment["USER"] = f"user-{uid}"
    home = environment.get("HOME") or _entry(uid) or ""
    if not (home.startswith("/") and Path(home).is_dir()):
        folder = private(uid)
        if folder is None:
            return
        environment["HOME"] = home = str(folder)
    for name, usual, ours in _CACHES:
        if not environment.get(name) and not _can_be_made(Path(home) / usual) and (folder := private(uid)):
            with contextlib.suppress(OSError):
                (folder / ours).mkdir(mode=0o700, exist_ok=True)
            environment[name] = str(folder / ours)


def _entry(uid: int) -> str | None:
    """The home directory that the system has for a user; None if it does not know the user."""
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return None


def _can_be_made(path: Path) -> bool:
    """Whether one may write in a folder, or make it."""
    with contextlib.suppress(OSError):
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    return False


def _private_folder(uid: int) -> Path | None:
    """The same one each time, so that nothing is compiled twice; None where no temporary file can be made."""
    try:
        folder = Path(tempfile.gettempdir()) / f"glm-scale-{uid}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        # Anybody may make a folder of this name there.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o022:
            return folder
        return Path(tempfile.mkdtemp(prefix="glm-scale-"))
    except OSError:
        return None
