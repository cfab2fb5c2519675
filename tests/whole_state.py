"""Weights and moments of an engine as whole tensors, put together from what all ranks own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from glm_scale.checkpoint.pieces import Box


def whole_state(engine: Any) -> dict[str, dict[str, Tensor]]:
    """By name and kind, on every rank. Fails unless every number is owned exactly once."""
    own = [
        (piece.name, piece.shape, kind, box, tensor[where].detach().cpu().reshape(box.sizes))
        for piece in engine.state.owned()
        for box, where in piece.boxes()
        for kind, tensor in piece.tensors.items()
    ]
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, own)
    found: dict[str, dict[str, Tensor]] = {name: {} for name in engine.state.shapes()}
    counts: dict[tuple[str, str], Tensor] = {}
    for name, shape, kind, box, tensor in (item for items in everyones for item in items):
        whole = found[name].setdefault(kind, torch.zeros(shape))
        count = counts.setdefault((name, kind), torch.zeros(shape, dtype=torch.int64))
        _view(whole, box).copy_(tensor)
        _view(count, box).add_(1)
    assert all((count == 1).all() for count in counts.values())
    assert found.keys() == {name for name, _ in counts}
    return found


def set_whole_state(engine: Any, state: dict[str, dict[str, Tensor]]) -> None:
    """The reverse."""
    for piece in engine.state.held():
        for box, where in piece.boxes():
            for kind, tensor in piece.tensors.items():
                tensor[where].copy_(_view(state[piece.name][kind], box).reshape(-1))
    engine.state.publish()


def _view(whole: Tensor, box: Box) -> Tensor:
    for dimension, (offset, size) in enumerate(zip(box.offsets, box.sizes, strict=True)):
        whole = whole.narrow(dimension, offset, size)
    return whole
