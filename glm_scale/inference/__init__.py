"""What is done with a trained model: loading, generation, evaluation, export."""

from glm_scale.inference.loading import LoadedModel, load_model

__all__ = ["LoadedModel", "load_model"]
