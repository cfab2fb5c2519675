"""MLflow runs that stand above others: a ladder above its runs."""

from __future__ import annotations

from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from glm_scale.naming import slug

__all__ = ["PARENT_TAG", "find_or_create_parent"]

PARENT_TAG = "mlflow.parentRunId"
_NAME_TAG = "glm_scale.parent"


def find_or_create_parent(client: MlflowClient, experiment: str, name: str) -> str:
    """The id of the run of this name that others stand under; there is one in an experiment.

    Several processes may be looking for it at the same time: the first that was made counts, and others are deleted.
    """
    known = _named(client, experiment, name)
    if not known:
        # A filter of MLflow knows no quotes within a text.
        tags = {_NAME_TAG: slug(name), "kind": "ladder"}
        made = client.create_run(experiment, tags=tags, run_name=name).info.run_id
        client.set_terminated(made)
        known = _named(client, experiment, name)
        if made in known[1:]:
            client.delete_run(made)
    return known[0]


def _named(client: MlflowClient, experiment: str, name: str) -> list[str]:
    """Ids, oldest first."""
    found = client.search_runs([experiment], f"tags.`{_NAME_TAG}` = '{slug(name)}'", ViewType.ACTIVE_ONLY)
    return [run.info.run_id for run in sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))]
