"""Keeping nested objects for a backward pass in such a way that activation checkpointing can give their memory back.

Autograd lets go of, and computes again, only what was saved by `save_for_backward`, which takes tensors and nothing
around them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class _Place:
    """Stands for a tensor: its number among those saved."""

    number: int


def save(ctx: Any, *objects: Any) -> None:
    """Keeps tensors, and dataclasses and tuples that hold tensors, for the backward pass of a Function."""
    tensors: list[Tensor] = []
    ctx.kept = tuple(taken_apart(x, tensors) for x in objects)
    ctx.save_for_backward(*tensors)


def saved(ctx: Any) -> Any:
    """What was given to `save`."""
    return _put_together(ctx.kept, ctx.saved_tensors)


def taken_apart(x: Any, tensors: list[Tensor]) -> Any:
    """x with places for its tensors, which are appended to `tensors`."""
    if isinstance(x, Tensor):
        tensors.append(x)
        return _Place(len(tensors) - 1)
    if isinstance(x, tuple):
        return _like(x, [taken_apart(part, tensors) for part in x])
    return _changed(x, lambda part: taken_apart(part, tensors))


def _put_together(x: Any, tensors: tuple[Tensor, ...]) -> Any:
    if isinstance(x, _Place):
        return tensors[x.number]
    if isinstance(x, tuple):
        return _like(x, [_put_together(part, tensors) for part in x])
    return _changed(x, lambda part: _put_together(part, tensors))


def _like(x: tuple[Any, ...], parts: list[Any]) -> Any:
    return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)


def _changed(x: Any, change: Any) -> Any:
    """A dataclass with its parts changed; anything else, and one without tensors, as it is."""
    if not is_dataclass(x) or isinstance(x, type):
        return x
    before = {field.name: getattr(x, field.name) for field in fields(x)}
    after = {name: change(part) for name, part in before.items()}
    return x if all(after[name] is before[name] for name in before) else replace(x, **after)
