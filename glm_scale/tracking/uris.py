"""Addresses of MLflow stores: which can be used, what an sqlite address names, and how passwords stay out of files.

**Where a run is tracked** is one rule for all commands; the first of these that says something holds:

1. what the command is told: `--tracking-uri`, or `tracking.uri` in the configuration or among the overrides,
2. for a run that has been tracked already, where it is: its tracking.json (a copy of a run has not been tracked yet,
   see `glm_scale.tracking.place`),
3. the environment variable MLFLOW_TRACKING_URI,
4. `sqlite:///mlflow.db`, a file in the working directory.

The address in the environment variable may hold a password, as MLflow allows. That is used to connect and never
written: files and messages have the address without it (`without_password`), and who connects puts it back
(`with_password`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

DEFAULT_URI = "sqlite:///mlflow.db"
VARIABLE = "MLFLOW_TRACKING_URI"

_SQLITE = re.compile(r"sqlite(\+\w+)?:///")
# MLflow spells these without a scheme; everything else without one is a path, that is, a file store.
_NAMED_STORES = ("databricks", "databricks-uc", "uc")

_SECRET_KEY = re.compile(
    r"(password|passwd|secret|credential|api_?key|access_?key|private_?key|authorization|(^|[._])(auth|token)$)", re.I
)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]*@")


def check_uri(uri: str) -> None:
    """Raise ValueError for a URI that MLflow cannot use, or that would put a password into files.

    A URI that is merely misspelled or unreachable passes: only the attempt to connect can tell.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "file" or (not scheme and uri not in _NAMED_STORES):
        raise ValueError(
            f"{without_password(uri)!r} is a folder, and MLflow no longer stores runs in plain folders; "
            f"use a sqlite file, for example {DEFAULT_URI!r}, or the http(s):// address of a server"
        )
    if urlsplit(uri).password is not None:
        raise ValueError(
            "the URI holds a password, which would be written into the run directory; leave it out and set "
            f"MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (a server) or the database's own password file, or "
            f"give the whole URI in the environment variable {VARIABLE}"
        )


def choose_uri(told: str | None = None) -> str:
    """The URI that the rule of this module comes to for what is not tracked yet, without a password; a relative sqlite
    path is left relative.

    Raises ValueError, naming the variable, if it comes to MLFLOW_TRACKING_URI and MLflow cannot use what that says.
    """
    if told:
        return told
    if not (uri := os.environ.get(VARIABLE, "").strip()):
        return DEFAULT_URI
    try:
        check_uri(without_password(uri))
    except ValueError as error:
        raise ValueError(f"the environment variable {VARIABLE}: {error}; tracking.uri goes before it") from None
    return without_password(uri)


def resolve_uri(uri: str, base: Path | None = None) -> str:
    """`uri` with a relative sqlite path made absolute against `base` (default: the working directory)."""
    if (path := sqlite_path(uri)) is None:
        return uri
    prefix = _SQLITE.match(uri)
    assert prefix is not None
    _, question_mark, options = uri.partition("?")
    return f"{prefix[0]}{_escaped(str(((base or Path.cwd()) / path).resolve()))}{question_mark}{options}"


def sqlite_path(uri: str) -> Path | None:
    """The file that an sqlite URI names: up to the first `?`, percent-decoded as SQLAlchemy does. None for others."""
    if (prefix := _SQLITE.match(uri)) is None:
        return None
    path = unquote(uri[prefix.end() :].partition("?")[0])
    # sqlite's own URIs have rules of their own, and are left as they are.
    return None if path in ("", ":memory:") or path.startswith("file:") else Path(path)


def store_folder(uri: str) -> Path | None:
    """The folder that holds the sqlite file of `uri`; None for other stores."""
    path = sqlite_path(uri)
    return None if path is None else path.parent


def shortest_uri(uri: str) -> str:
    """`uri` as one would type it here: an sqlite file of the working directory by its name."""
    path = sqlite_path(uri)
    if path is None or path.parent != Path.cwd() or "?" in uri:
        return uri
    return f"sqlite:///{_escaped(path.name)}"


def _escaped(path: str) -> str:
    """A path within a URI. Nothing but these two has a meaning there, and other characters are easier to read."""
    return path.replace("%", "%25").replace("?", "%3F")


def without_password(uri: str) -> str:
    """`uri` less its password, before the host or among the options; names of users stay."""
    uri = _PASSWORD.sub(r"\1@", uri).replace("://@", "://")
    address, question_mark, options = uri.partition("?")
    if any(is_secret(key) for key, _ in parse_qsl(options)):
        options = "&".join(option for option in options.split("&") if not is_secret(option.partition("=")[0]))
    return f"{address}{question_mark if options else ''}{options}"


def with_password(uri: str) -> str:
    """`uri` with the password that MLFLOW_TRACKING_URI has for the same address, if it has one."""
    given = os.environ.get(VARIABLE, "").strip()
    return given if given and without_password(given) == uri else uri


def is_secret(key: str) -> bool:
    """Whether a key, or the name of an environment variable, is that of a secret by its looks."""
    return bool(_SECRET_KEY.search(key))


def without_secrets(values: dict[str, str]) -> dict[str, str]:
    """`values` (dotted key to text) less the keys that name a secret; user:password@ in URIs is cut out."""
    return {key: _USER_INFO.sub("", text) for key, text in values.items() if not is_secret(key)}
