"""Whether the place where runs are tracked can be reached. Passwords and tokens are used, and never told."""

from __future__ import annotations

import functools
from urllib.parse import urlsplit

from glm_launch.doctor.findings import Asked, Finding
from glm_launch.doctor.mounts import mount_of
from glm_launch.doctor.within import within
from glm_scale.tracking import reach
from glm_scale.tracking.reach import DATABASES, LOGIN, Answer, Trouble, file_trouble, port_trouble
from glm_scale.tracking.uris import VARIABLE, check_uri, choose_uri, resolve_uri, sqlite_path, without_secrets

__all__ = ["Answer", "ask", "mlflow", "shown"]

NAME = "MLflow"
_OVER_NETWORK = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs", "cifs", "wekafs"}


def mlflow(asked: Asked) -> Finding:
    """Whether runs that start here now, or with `asked.tracking_uri`, could be tracked."""
    try:
        uri = choose_uri(asked.tracking_uri)
        check_uri(uri)
    except ValueError as error:
        says = without_secrets({"": str(error)})[""]
        return Finding(NAME, "problem", says, f"set tracking.uri or {VARIABLE} accordingly")
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme == "sqlite":
        return _of_file(uri)
    if scheme in ("http", "https"):
        return _of_server(uri, asked.patience)
    if scheme in DATABASES:
        return _of_database(uri, asked.patience)
    return Finding(NAME, "not applicable", f"{shown(uri)} is not checked")


def shown(uri: str) -> str:
    """`uri` without what may hold a secret: user, password, query."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _of_file(uri: str) -> Finding:
    path = sqlite_path(resolve_uri(uri))
    if path is None:
        return Finding(NAME, "warning", f"{shown(uri)} is in memory, and gone with the process", "name a file")
    if trouble := file_trouble(path, resolve_uri(uri)):
        return _problem(trouble)
    if (kind := mount_of(path).kind) in _OVER_NETWORK:
        return Finding(
            NAME, "warning", f"{path} is on {kind}, where several writers may spoil an sqlite file",
            "use a server, see docker/README.md",
        )  # fmt: skip
    return Finding(NAME, "ok", f"{path}, {'there already' if path.exists() else 'will be made'}")


def _problem(trouble: Trouble, of: str = "") -> Finding:
    return Finding(NAME, "problem", f"{of}{trouble.says}", trouble.way_out)


def _of_server(uri: str, patience: float) -> Finding:
    answer = ask(uri, patience)
    says = f"{shown(uri)}: {answer.words}"
    if answer.status is None:
        return Finding(NAME, "problem", says, f"see that the server runs and can be reached from here{_proxy(uri)}")
    if answer.status in (401, 403):
        return Finding(NAME, "problem", says, LOGIN)
    if answer.status != 200:
        return Finding(NAME, "problem", says, f"see that the address is that of an MLflow server{_proxy(uri)}")
    return Finding(NAME, "ok", says)


def _of_database(uri: str, patience: float) -> Finding:
    try:
        trouble = within(patience, lambda: port_trouble(uri, patience))
    except TimeoutError as error:
        trouble = Trouble(str(error), "see that it runs")
    if trouble:
        return _problem(trouble, f"{shown(uri)}: ")
    return Finding(NAME, "ok", f"{shown(uri)}: something listens there; whether it lets you in was not tried")


@functools.lru_cache(maxsize=1)
def ask(uri: str, patience: float) -> Answer:
    """What the server answers; looking up its name alone may take longer than `patience`. Raises nothing."""
    try:
        return within(patience, lambda: reach.ask(uri, patience))
    except TimeoutError as error:
        return Answer(None, None, str(error))


def _proxy(uri: str) -> str:
    import requests

    # Environment variables of this kind are set on clusters for the outside world.
    return (
        "; requests go through a proxy, add the server to no_proxy" if requests.utils.get_environ_proxies(uri) else ""
    )
