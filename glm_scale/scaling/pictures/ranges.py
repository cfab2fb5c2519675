"""How far the axes of a panel reach, and what is marked on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glm_scale.scaling.pictures.quantities import Cost, Loss, Rate
from glm_scale.scaling.pictures.shapes import Axis, Canvas, Line, Points
from glm_scale.scaling.pictures.ticks import linear_ticks, log_ticks

__all__ = ["axes_for"]

_SHARE = 0.99
"""Of the training losses that have to be seen: the highest percent is the noise of the first batches."""
_MARGIN, _LEAST_ACROSS, _LEAST_UP = 0.06, 0.05, 0.004
_LETTERS_A_TICK, _MOST = 8, 8


def axes_for(
    lines: Sequence[Line], points: Sequence[Points], cost: Cost | Rate, loss: Loss, canvas: Canvas
) -> tuple[Axis, Axis]:
    """Room for everything but training losses. They count where they lead up to validation losses, or are all there is;
    where final losses of several sizes are the subject they are cut off."""
    training = [line for line in lines if line.role == "training"]
    others = [line for line in lines if line.role != "training"]
    counts = not (others or points) or any(line.role == "validation" for line in others)
    seen = [*others, *points, *(training if counts else ())]
    across, up = (np.concatenate([getattr(shown, name) for shown in seen]) for name in ("x", "y"))
    top = float(up.max())
    if training and counts:
        noisy = float(np.quantile(np.concatenate([line.y for line in training]), _SHARE))
        heights = [*(line.y for line in others), *(group.y for group in points)]
        top = max([noisy, *(float(y.max()) for y in heights)])
    low, high = _padded(float(across.min()), float(across.max()), _LEAST_ACROSS)
    bottom, top = _padded(float(up.min()), top, _LEAST_UP)
    most = min(max(2, int(canvas.width / (_LETTERS_A_TICK * canvas.font))), _MOST)
    x = Axis(cost.title, low, high, log_ticks(low, high, cost.unit, most))
    # A loss spans less than a decade: its ticks are round steps.
    return x, Axis(loss.title, bottom, top, tuple((tick, f"{tick:.6g}") for tick in linear_ticks(bottom, top)))


def _padded(low: float, high: float, least: float) -> tuple[float, float]:
    """With a margin on either side, of a share of the logarithmic range or a `least` one."""
    margin = np.exp(max(_MARGIN * np.log(high / low), least))
    return float(low / margin), float(high * margin)
