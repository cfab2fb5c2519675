"""The learning rate as a pure function of the tokens seen: nothing to save, nothing to replay on resume."""

import math

from glm_scale.training.config import ScheduleConfig

__all__ = ["learning_rate"]


def learning_rate(schedule: ScheduleConfig, peak: float, tokens: int, budget: int) -> float:
    """Learning rate of a step that ends at `tokens` of `budget` tokens.

    Linear warmup from zero; then either a cosine to `final_fraction · peak` at the end of the budget (Loshchilov and
    Hutter, arXiv 1608.03983), or a constant and a last phase along 1 − √x (warmup–stable–decay in the form that
    Hägele et al., arXiv 2405.18392, found best). Taking the *end* of the step keeps the first step from
    being thrown away on a rate of zero.
    """
    if tokens < schedule.warmup_tokens:
        return peak * tokens / schedule.warmup_tokens
    if schedule.kind == "cosine":
        start, shape = schedule.warmup_tokens, _cosine
    else:
        length = schedule.decay_tokens or min(budget // 5, budget - schedule.warmup_tokens)
        start, shape = budget - length, _one_minus_square_root
    if tokens <= start:
        return peak
    progress = min((tokens - start) / max(budget - start, 1), 1.0)
    return peak * (schedule.final_fraction + (1 - schedule.final_fraction) * shape(progress))


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _one_minus_square_root(progress: float) -> float:
    return 1 - math.sqrt(progress)
