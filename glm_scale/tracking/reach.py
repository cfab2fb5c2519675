"""Whether an MLflow store can be reached, asked quickly and without MLflow, and what stands against it, in plain words.

MLflow itself takes seconds to be imported, tries a folder that it may not write for minutes, calls every schema that is
not its own out of date, and brings an older one up to date unasked if a table is missing.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shlex
import socket
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from glm_scale.tracking.uris import sqlite_path, with_password, without_password

if TYPE_CHECKING:
    import requests

DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
LOGIN = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN; or the server has to be "
    "started with this name among its --allowed-hosts"
)
# Ways to log in that only MLflow knows.
_OTHER_LOGINS = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_CLIENT_CERT_PATH")
_LEAST_SPACE = 1 << 20
_SCHEMA = re.compile(r"out-of-date database schema \(found version (\w+)|Can't locate revision identified by '(\w+)'")
_STATUS = re.compile(r"failed with error code (\d{3})")
_SQLITE_TROUBLE = re.compile(r"(database is locked|disk is full|readonly database|file is not a database)")


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a store, and what to do about it. `passing`: it may heal by itself."""

    says: str
    way_out: str = ""
    passing: bool = False

    def __str__(self) -> str:
        return f"{self.says} – {self.way_out}" if self.way_out else self.says


class StoreError(Exception):
    """A store cannot be used."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


def check_store(uri: str, patience: float) -> None:
    """Raise StoreError for a store that cannot be used, as far as can be told without MLflow.

    patience: seconds that a server has to answer.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    trouble = None
    if (path := sqlite_path(uri)) is not None:
        trouble = file_trouble(path, uri)
    elif scheme in ("http", "https") and not any(os.environ.get(name) for name in _OTHER_LOGINS):
        answer = ask(uri, patience)
        if answer.status is None:
            trouble = Trouble(answer.words, passing=True)
        elif answer.status in (401, 403):
            trouble = Trouble(answer.words, LOGIN)
    elif scheme in DATABASES:
        trouble = port_trouble(uri, patience)
    if trouble:
        raise StoreError(trouble)


def explain(error: BaseException, uri: str) -> Trouble:
    """Why MLflow, or the way to it, failed with `error`."""
    if isinstance(error, StoreError):
        return error.trouble
    text = without_password(" ".join(str(error).split()))
    if isinstance(error, ImportError):
        missing = "" if error.name in (None, "mlflow") else f" needs {error.name}, which"
        return Trouble(f"MLflow{missing} cannot be imported here: {text}", "install it into this environment")
    if "unsupported URI" in text:
        return Trouble("MLflow knows no store of this kind", "use http(s)://…, sqlite:///… or a database's address")
    if found := _SCHEMA.search(text):
        return _schema_trouble(found[1] or found[2], uri) or Trouble(text)
    if found := _STATUS.search(text):
        return Trouble(f"HTTP {found[1]}", LOGIN if found[1] in ("401", "403") else "", found[1].startswith("5"))
    if found := _SQLITE_TROUBLE.search(text):
        return Trouble(found[1], passing="locked" in found[1])
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.strerror:
            return Trouble(cause.strerror + (f": {cause.filename}" if cause.filename else ""), passing=True)
    return Trouble((text or type(error).__name__)[:300], passing=True)


# Files -----------------------------------------------------------------------------------------------------------


def file_trouble(path: Path, uri: str) -> Trouble | None:
    """What keeps an sqlite file from being written, or made. `uri` is how the user calls it."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    elsewhere = "name a file of yours in tracking.uri"
    if not folder.is_dir():
        return Trouble(f"{folder} is a file, not a folder", elsewhere)
    if path.is_dir():
        return Trouble(f"{path} is a folder, not a file", elsewhere)
    for place in (path, folder):
        if place.exists() and not os.access(place, os.W_OK | (os.X_OK if place is folder else 0)):
            beside = "; sqlite writes a journal beside its file" if place is folder and path.exists() else ""
            return Trouble(f"no permission to write {place}{beside}", elsewhere)
    space = os.statvfs(folder)
    if space.f_bavail * space.f_frsize < _LEAST_SPACE:
        return Trouble(f"no space left where {path} lies", "make room", passing=True)
    if not path.exists() or not path.stat().st_size:
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            if not database.execute("select 1 from sqlite_master where name = 'alembic_version'").fetchone():
                return None
            (version,) = database.execute("select version_num from alembic_version").fetchone() or (None,)
    except sqlite3.Error as error:
        locked = "locked" in str(error)
        return Trouble(
            f"{path} cannot be read: {error}", "" if locked else "move it away, or name another file", locked
        )
    return _schema_trouble(version, uri) if version else None


def _schema_trouble(version: str, uri: str) -> Trouble | None:
    """What the version of a database's schema says: None if it is that of the MLflow of this environment."""
    known = _revisions()
    if not known or version in (heads := set(known) - {parent for parents in known.values() for parent in parents}):
        return None
    here = f"MLflow {importlib.metadata.version('mlflow')}"
    if version not in known:
        return Trouble(
            f"the database has the schema of a later version than the {here} of this environment ({version})",
            "update MLflow here, or name another store in tracking.uri",
        )
    return Trouble(
        f"the database has the schema of an earlier version than {here} ({version}, not {', '.join(sorted(heads))})",
        f"back it up, then: mlflow db upgrade {shlex.quote(without_password(uri))}",
    )


def _revisions() -> dict[str, list[str]]:
    """The versions of the schema that the installed MLflow knows, and what each follows. Read, not imported."""
    found = importlib.util.find_spec("mlflow")
    known = {}
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in Path(folder, "store", "db_migrations", "versions").glob("*.py"):
            text = path.read_text(errors="replace", encoding="utf-8")
            if name := re.search(r"^revision\b.*?=\s*[\"'](\w+)", text, re.M):
                follows = re.search(r"^down_revision\b.*?=\s*(.*)", text, re.M)
                known[name[1]] = re.findall(r"[\"'](\w+)[\"']", follows[1]) if follows else []
    return known


# Servers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """Of an MLflow server: HTTP status, None if there was no answer; its clock as in the header; both in words."""

    status: int | None
    date: str | None
    words: str


def ask(uri: str, patience: float) -> Answer:
    """Ask for one experiment, which, unlike /health, needs the right to read. Raises nothing."""
    try:
        response = _get(uri, patience)
    except Exception as error:
        return Answer(None, None, _in_words(error))
    date = response.headers.get("Date")
    if response.status_code != 200:
        return Answer(response.status_code, date, f"HTTP {response.status_code} {response.reason}")
    if "application/json" not in response.headers.get("Content-Type", ""):
        return Answer(404, date, "answers, but not as an MLflow server")
    return Answer(200, date, "answers")


def port_trouble(uri: str, patience: float) -> Trouble | None:
    """Why nobody listens where a database should."""
    parts = urlsplit(uri)
    try:
        address = (parts.hostname or "localhost", parts.port or DATABASES[parts.scheme.partition("+")[0]])
        socket.create_connection(address, patience).close()
    except (OSError, ValueError) as error:
        return Trouble(getattr(error, "strerror", None) or str(error), "see that it runs", passing=True)
    return None


def _get(uri: str, patience: float) -> requests.Response:
    import requests

    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    certificates = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
    return requests.get(
        f"{with_password(uri).rstrip('/')}/api/2.0/mlflow/experiments/search",
        params={"max_results": 1},
        headers={"Authorization": f"Bearer {token}"} if token and not user else {},
        auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
        verify=False if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") == "true" else certificates,
        timeout=patience,
        allow_redirects=False,
    )


def _in_words(error: Exception) -> str:
    """Why there is no answer. Messages of requests hold the whole address, with what may be secret in it."""
    import requests

    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not accepted; MLFLOW_TRACKING_SERVER_CERT_PATH names the authority's file"
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return f"no connection, {type(error).__name__}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what has caused it, as far as libraries tell."""
    seen: set[int] = set()
    innermost: object = error
    while isinstance(innermost, BaseException) and id(innermost) not in seen:
        seen.add(id(innermost))
        yield innermost
        arguments = [value for value in innermost.args if isinstance(value, BaseException)]
        said = getattr(innermost, "reason", None) or innermost.__cause__ or next(iter(arguments), None)
        innermost = said or innermost.__context__
