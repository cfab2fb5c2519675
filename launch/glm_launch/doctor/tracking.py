"""Whether the place where runs are tracked can be reached. Passwords and tokens are used, and never told."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from glm_launch.doctor.findings import Asked, Finding
from glm_launch.doctor.mounts import existing, mount_of
from glm_launch.doctor.within import within
from glm_scale.tracking.config import check_uri, resolve_uri, store_folder, without_secrets

if TYPE_CHECKING:
    import requests

__all__ = ["Answer", "ask", "mlflow", "shown"]

NAME = "MLflow"
_DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_OVER_NETWORK = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs", "cifs", "wekafs"}


def mlflow(asked: Asked) -> Finding:
    uri = asked.tracking_uri
    try:
        check_uri(uri)
    except ValueError as error:
        return Finding(NAME, "problem", without_secrets({"": str(error)})[""], "set tracking.uri accordingly")
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme == "sqlite":
        return _of_file(uri)
    if scheme in ("http", "https"):
        return _of_server(uri, asked.patience)
    if scheme in _DATABASES:
        return _of_database(uri, scheme, asked.patience)
    return Finding(NAME, "not applicable", f"{shown(uri)} is not checked")


def shown(uri: str) -> str:
    """`uri` without what may hold a secret: user, password, query."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _of_file(uri: str) -> Finding:
    folder = store_folder(uri)
    if folder is None:
        return Finding(NAME, "warning", f"{shown(uri)} is in memory, and gone with the process", "name a file")
    path = Path(resolve_uri(uri).removeprefix("sqlite:///").partition("?")[0])
    if not os.access(path if path.exists() else existing(folder), os.W_OK):
        return Finding(NAME, "problem", f"no permission to write {path}", "set tracking.uri to a file of yours")
    if path.exists():
        try:
            with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
                database.execute("select count(*) from sqlite_master").fetchone()
        except sqlite3.Error as error:
            return Finding(NAME, "problem", f"{path} cannot be read: {error}", "move it away, or name another file")
    if (kind := mount_of(path).kind) in _OVER_NETWORK:
        return Finding(
            NAME, "warning", f"{path} is on {kind}, where several writers may spoil an sqlite file",
            "use a server, see docker/README.md",
        )  # fmt: skip
    return Finding(NAME, "ok", f"{path}, {'there already' if path.exists() else 'will be made'}")


def _of_server(uri: str, patience: float) -> Finding:
    answer = ask(uri, patience)
    says = f"{shown(uri)}: {answer.words}"
    if answer.status is None:
        return Finding(NAME, "problem", says, f"see that the server runs and can be reached from here{_proxy(uri)}")
    if answer.status in (401, 403):
        return Finding(
            NAME, "problem", says,
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN; or the server has to "
            "be started with this name among its --allowed-hosts",
        )  # fmt: skip
    if answer.status != 200:
        return Finding(NAME, "problem", says, f"see that the address is that of an MLflow server{_proxy(uri)}")
    return Finding(NAME, "ok", says)


def _of_database(uri: str, scheme: str, patience: float) -> Finding:
    parts = urlsplit(uri)
    try:
        address = (parts.hostname or "localhost", parts.port or _DATABASES[scheme])
        within(patience, lambda: socket.create_connection(address, patience).close())
    except (OSError, ValueError) as error:
        return Finding(
            NAME, "problem", f"{shown(uri)}: {getattr(error, 'strerror', None) or error}", "see that it runs"
        )
    return Finding(NAME, "ok", f"{shown(uri)}: something listens there; whether it lets you in was not tried")


@dataclass(frozen=True)
class Answer:
    """Of an MLflow server: HTTP status, None if there was no answer; its clock as in the header; both in words."""

    status: int | None
    date: str | None
    words: str


@functools.lru_cache(maxsize=1)
def ask(uri: str, patience: float) -> Answer:
    """Ask for one experiment, which, unlike /health, needs the right to read. Raises nothing."""
    try:
        response = within(patience, lambda: _get(uri, patience))
    except TimeoutError as error:
        return Answer(None, None, str(error))
    except Exception as error:
        return Answer(None, None, _in_words(error))
    date = response.headers.get("Date")
    if response.status_code != 200:
        return Answer(response.status_code, date, f"HTTP {response.status_code} {response.reason}")
    if "application/json" not in response.headers.get("Content-Type", ""):
        return Answer(404, date, "answers, but not as an MLflow server")
    return Answer(200, date, "answers")


def _get(uri: str, patience: float) -> requests.Response:
    import requests

    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    certificates = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
    return requests.get(
        f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search",
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
    innermost: object = error
    while isinstance(innermost, BaseException):
        if isinstance(innermost, OSError) and innermost.strerror:
            return innermost.strerror
        arguments = [value for value in innermost.args if isinstance(value, BaseException)]
        innermost = getattr(innermost, "reason", None) or innermost.__cause__ or next(iter(arguments), None)
    return f"no connection, {type(error).__name__}"


def _proxy(uri: str) -> str:
    import requests

    # Environment variables of this kind are set on clusters for the outside world.
    return (
        "; requests go through a proxy, add the server to no_proxy" if requests.utils.get_environ_proxies(uri) else ""
    )
