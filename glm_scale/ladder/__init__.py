"""Ladders: the same training for several mixers at several sizes, budgets, seeds and learning rates.

members           the runs of a ladder, from its file
shapes            from a number of parameters to layers, widths and heads
hyperparameters   from a size and a budget to batch, learning rate and warm-up
climbing          trains the runs, one after the other or several models at a time
crew              the processes that do it, their shares of the machine, and signals
"""

from glm_scale.ladder.climbing import RunOutcome, climb, models_at_once
from glm_scale.ladder.members import Ladder, Member, is_finished, read_ladder

__all__ = ["Ladder", "Member", "RunOutcome", "climb", "is_finished", "models_at_once", "read_ladder"]
