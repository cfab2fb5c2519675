"""Measurements of a run: the JSONL log that is the truth, and its mirror in MLflow.

A trainer uses three names: `TrackingConfig` (settings), `MetricsLog` (writes) and `Tracker` (mirrors in the
background). None of them imports MLflow into the training process.
"""

from glm_scale.tracking.config import TrackingConfig
from glm_scale.tracking.metrics_log import MetricsLog, Record, read_metrics
from glm_scale.tracking.tracker import Tracker

__all__ = ["MetricsLog", "Record", "Tracker", "TrackingConfig", "read_metrics"]
