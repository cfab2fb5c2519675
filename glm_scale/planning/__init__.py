"""Which layouts of a run are possible on how many GPUs, and what each costs: memory, bytes sent, time.

Nothing here starts a process or needs a GPU. Imports the model, its mixers and the cost of exchanges, no trainer.
"""

from glm_scale.planning.gpus import GPU, GPUS
from glm_scale.planning.plan import Plan, Planning, plan_layouts

__all__ = ["GPU", "GPUS", "Plan", "Planning", "plan_layouts"]
