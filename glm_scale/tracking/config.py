"""What a run tracks, and where: the `tracking` section of a run's configuration."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator

from glm_data.settings import Settings

DEFAULT_URI = "sqlite:///mlflow.db"

_SQLITE = "sqlite:///"
# MLflow spells these without a scheme; everything else without one is a path, that is, a file store.
_NAMED_STORES = ("databricks", "databricks-uc", "uc")


class TrackingConfig(Settings):
    """MLflow tracking of a run. The run directory's metrics.jsonl is written whatever is set here.

    `uri`: any MLflow tracking URI; a relative sqlite path is relative to the working directory in which the run
    starts. `system_metrics`: seconds between samples of CPU, memory and GPU; null takes none.
    """

    enabled: bool = True
    uri: str = DEFAULT_URI
    experiment: str = Field(default="glm-scale", min_length=1, max_length=500)
    system_metrics: float | None = Field(default=10.0, ge=0.1)

    @field_validator("uri")
    @classmethod
    def _usable_uri(cls, uri: str) -> str:
        check_uri(uri)
        return uri


def check_uri(uri: str) -> None:
    """Raise ValueError for a URI that MLflow cannot use, or that would put a password into files.

    A URI that is merely misspelled or unreachable passes: only the attempt to connect can tell.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "file" or (not scheme and uri not in _NAMED_STORES):
        raise ValueError(
            f"{uri!r} is a folder, and MLflow no longer stores runs in plain folders; "
            f"use a sqlite file, for example {DEFAULT_URI!r}, or the http(s):// address of a server"
        )
    if urlsplit(uri).password is not None:
        raise ValueError(
            "the URI holds a password, which would be written into the run directory; leave it out and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (a server) or the database's own password file"
        )


def resolve_uri(uri: str, base: Path | None = None) -> str:
    """`uri` with a relative sqlite path made absolute against `base` (default: the working directory)."""
    if not uri.startswith(_SQLITE):
        return uri
    path, question_mark, options = uri[len(_SQLITE) :].partition("?")
    if not path or path == ":memory:":
        return uri
    absolute = (base or Path.cwd()) / path
    return f"{_SQLITE}{absolute.resolve()}{question_mark}{options}"


def store_folder(uri: str) -> Path | None:
    """The folder that holds the sqlite file of `uri`; None for other stores."""
    if not uri.startswith(_SQLITE):
        return None
    path = unquote(uri[len(_SQLITE) :].partition("?")[0])
    return Path(path).parent if path and path != ":memory:" else None


_SECRET_KEY = re.compile(
    r"(password|passwd|secret|credential|api_?key|access_?key|private_?key|authorization|(^|[._])(auth|token)$)", re.I
)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")


def is_secret(key: str) -> bool:
    """Whether a key, or the name of an environment variable, is that of a secret by its looks."""
    return bool(_SECRET_KEY.search(key))


def without_secrets(values: dict[str, str]) -> dict[str, str]:
    """`values` (dotted key to text) less the keys that name a secret; user:password@ in URIs is cut out."""
    return {key: _USER_INFO.sub("", text) for key, text in values.items() if not is_secret(key)}
