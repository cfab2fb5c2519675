"""Checkpoints: how they lie on disk (`CheckpointStore`), reading one (`Checkpoint`), which are kept (`Retention`).

What they say of training is a `TrainingState`.
"""

from glm_scale.checkpoint.reading import Checkpoint
from glm_scale.checkpoint.retention import Retention
from glm_scale.checkpoint.state import Counters, SpikeHistory, TrainingState
from glm_scale.checkpoint.store import CheckpointStore

__all__ = ["Checkpoint", "CheckpointStore", "Counters", "Retention", "SpikeHistory", "TrainingState"]
