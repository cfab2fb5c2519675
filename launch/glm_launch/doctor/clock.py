"""Whether clocks agree: ages of checkpoints and lengths of runs are differences between them."""

from __future__ import annotations

import os
import time
from email.utils import parsedate_to_datetime

from glm_launch.doctor.findings import Asked, Finding, State
from glm_launch.doctor.folder import probe, unwritable
from glm_launch.doctor.tracking import ask
from glm_scale.tracking.uris import choose_uri

__all__ = ["clock_of_folder", "clock_of_mlflow"]

_SLIGHT, _MUCH = 2.0, 60.0
_SYNCHRONISE = "synchronise the clocks by NTP (chronyd or systemd-timesyncd), on this machine and on that server"


def clock_of_folder(asked: Asked) -> Finding:
    """The time that the file system, or its server, gives to a file that is written now."""
    name = "clock of the folder"
    with probe(asked.folder) as place:
        if place is None:
            return unwritable(name, asked)
        before = time.time()
        with (place / "now").open("w", encoding="utf-8") as file:
            file.write("now")
            file.flush()
            os.fsync(file.fileno())
        written = (place / "now").stat().st_mtime
        return _judged(name, written, before, time.time())


def clock_of_mlflow(asked: Asked) -> Finding:
    """How far this machine's clock is from the MLflow server's."""
    name = "clock of MLflow"
    try:
        uri = choose_uri(asked.tracking_uri)
    except ValueError:
        uri = ""
    if not uri.startswith(("http://", "https://")):
        return Finding(name, "not applicable", "no server")
    before = time.time()
    ask.cache_clear()
    answer = ask(uri, asked.patience)
    if answer.date is None:
        return Finding(name, "not applicable", "the server has not told its time")
    # The header has whole seconds.
    return _judged(name, parsedate_to_datetime(answer.date).timestamp() + 0.5, before - 0.5, time.time() + 0.5)


def _judged(name: str, theirs: float, before: float, after: float) -> Finding:
    """theirs: a time that was taken between `before` and `after` of this machine's clock."""
    skew = theirs - before if theirs < before else max(0.0, theirs - after)
    if abs(skew) < _SLIGHT:
        return Finding(name, "ok", f"agrees with this machine's, to {_SLIGHT:.0f} s")
    state: State = "problem" if abs(skew) >= _MUCH else "warning"
    way = "ahead of" if skew > 0 else "behind"
    return Finding(name, state, f"is {abs(skew):,.0f} s {way} this machine's", _SYNCHRONISE)
