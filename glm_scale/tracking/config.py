"""What a run tracks, and where: the `tracking` section of a run's configuration."""

from pydantic import Field, field_validator

from glm_data.settings import Settings
from glm_scale.tracking.uris import check_uri


class TrackingConfig(Settings):
    """MLflow tracking of a run. The run directory's metrics.jsonl is written whatever is set here.

    `uri`: any MLflow tracking URI; a relative sqlite path is relative to the working directory in which the run
    starts. null: where the run is tracked already, else what MLFLOW_TRACKING_URI says, else sqlite:///mlflow.db (the
    rule is that of `glm_scale.tracking.uris`). `system_metrics`: seconds between samples of CPU, memory and GPU; null
    takes none. `parent`: the name of an MLflow run under which this one stands, as those of a ladder do; it is made if
    there is none. `tags`: by which to filter and group runs, besides those that every run has; a ladder gives its runs
    the tag `size`.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str = Field(default="glm-scale", min_length=1, max_length=500)
    system_metrics: float | None = Field(default=10.0, ge=0.1)
    parent: str | None = Field(default=None, min_length=1, max_length=250)
    tags: dict[str, str] = Field(default_factory=dict)

    @field_validator("uri")
    @classmethod
    def _usable_uri(cls, uri: str | None) -> str | None:
        if uri is not None:
            check_uri(uri)
        return uri
