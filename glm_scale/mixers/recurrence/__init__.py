"""`window:w`, `dense`, `lattice:f`, `offsets:f`: structured recurrences, and how they are spelled, spread and drawn."""

from glm_scale.mixers.recurrence.spec import read_recurrence

__all__ = ["read_recurrence"]
