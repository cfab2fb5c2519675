"""Records such as a trainer writes, and what MLflow has received of them."""

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from glm_scale.tracking import MetricsLog


def train(log: MetricsLog, first: int, last: int) -> None:
    """Append the records of optimizer steps `first` to `last`; the loss of step s is 10 / s."""
    for step in range(first, last + 1):
        log.append("train", step=step, tokens=10 * step, flops=6e10 * step, loss=10 / step, lr=1e-3)


def only_run(uri: str) -> Run:
    """The one active run of the store's experiment; fails if there are more or none."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("glm-scale")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def steps_of(uri: str, metric: str) -> list[tuple[int, float]]:
    """(step, value) of every point of a metric of the only run, by step."""
    history = MlflowClient(uri).get_metric_history(only_run(uri).info.run_id, metric)
    return sorted((point.step, point.value) for point in history)
