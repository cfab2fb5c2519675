"""Checkpoints: what is saved (`Saver`), how it lies on disk (`CheckpointStore`), reading a model (`load_model`)."""

from glm_scale.training.checkpoint.loading import LoadedModel, load_model
from glm_scale.training.checkpoint.saver import Saver
from glm_scale.training.checkpoint.store import Checkpoint, CheckpointStore

__all__ = ["Checkpoint", "CheckpointStore", "LoadedModel", "Saver", "load_model"]
