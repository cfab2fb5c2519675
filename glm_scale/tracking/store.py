"""Opening an MLflow store, and finding what is in it. Every call may raise, or take long."""

from __future__ import annotations

import os
import re

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from glm_scale.locking import folder_lock
from glm_scale.tracking.uris import store_folder, with_password, without_password

# MLflow decodes a % in a path that is just a %, and writes paths into SQL with quotes that these would end.
_MISREAD = re.compile(r"[%'\":\\]")
# Where MLflow's own server says the same, and the only way to say it before the first experiment is made.
_ARTIFACT_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"


def open_store(uri: str) -> MlflowClient:
    """A client of the store. Of several processes that open a new sqlite store, one makes its tables.

    The process works in the folder of an sqlite store from now on.
    """
    if (folder := store_folder(uri)) is None:
        return MlflowClient(tracking_uri=with_password(uri))
    # MLflow puts the artifacts of a new sqlite store into ./mlruns: keep them beside the database.
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if _MISREAD.search(str(folder)):
        os.environ[_ARTIFACT_ROOT] = (folder / "mlruns").as_uri()
    if "%" in uri:
        # MLflow makes the folders of a path as it is spelled, and not all versions of SQLAlchemy decode it.
        uri = f"sqlite:///{uri.rpartition('/')[2]}"
    with folder_lock(folder, patience=60.0):
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
        return client


def find_or_create_experiment(client: MlflowClient, name: str) -> str:
    """The id of the experiment called `name`; another process may be creating it at the same time."""
    if (experiment := client.get_experiment_by_name(name)) is None:
        try:
            return client.create_experiment(name)
        except MlflowException:
            if (experiment := client.get_experiment_by_name(name)) is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise ValueError(
            f"the experiment {name!r} was deleted in MLflow; set tracking.experiment to another name, or restore it"
        )
    return experiment.experiment_id


def active_run(client: MlflowClient, run_id: str) -> Run | None:
    """The run, unless it is gone or was deleted."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without passwords, cut to a length that fits a log line."""
    text = str(error).strip() or type(error).__name__
    return without_password(text.splitlines()[0])[:300]
