"""Checkpoints: what is saved (`Saver`), how it lies on disk (`CheckpointStore`), reading a model (`load_model`)."""

from glm_scale.training.checkpoint.folder import CheckpointStore
from glm_scale.training.checkpoint.loading import LoadedModel, load_model
from glm_scale.training.checkpoint.reading import Checkpoint
from glm_scale.training.checkpoint.retention import Retention
from glm_scale.training.checkpoint.saver import Saver

__all__ = ["Checkpoint", "CheckpointStore", "LoadedModel", "Retention", "Saver", "load_model"]
