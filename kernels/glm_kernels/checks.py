"""What must hold of the operators' arguments. Every failure is a ValueError: the argument, what was found, the rule.

Shapes, dtypes and devices are checked when an operator is called, values when it runs: under a compiler nothing is
known of them before. Values on a GPU are checked there, so that the host need not wait; only those of a state, which
decide about the work to be launched, are read.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from glm_kernels import documents
from glm_kernels.patterns import Pattern
from glm_kernels.rotation import Angles
from glm_kernels.state import RecurrenceState

Backend = Literal["auto", "triton", "torch", "reference"]

_INTEGERS = (torch.int32, torch.int64)


def check_operands(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, gate_name: str) -> None:
    """q, k `[B, T, H, K]`, v `[B, T, H, V]`, gate `[B, T, H]`: one device and dtype (gate: or float32)."""
    if q.ndim != 4 or 0 in q.shape:
        raise ValueError(f"q must have shape [B, T, H, K] with every size ≥ 1, got {list(q.shape)}")
    if v.ndim != 4 or v.shape[:3] != q.shape[:3] or v.shape[3] == 0:
        wanted = f"[{', '.join(map(str, q.shape[:3]))}, V ≥ 1]"
        raise ValueError(f"v must have shape {wanted} to go with q {list(q.shape)}, got {list(v.shape)}")
    for name, tensor, shape in (("k", k, q.shape), (gate_name, gate, q.shape[:3])):
        if tensor.shape != shape:
            raise ValueError(
                f"{name} must have shape {list(shape)} to go with q {list(q.shape)}, got {list(tensor.shape)}"
            )
    for name, tensor in (("q", q), ("k", k), ("v", v), (gate_name, gate)):
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be a floating tensor, got {tensor.dtype}")
        # A decay close to one says more in float32 than bfloat16 can hold.
        allowed = (q.dtype, torch.float32) if tensor is gate else (q.dtype,)
        if tensor.dtype not in allowed or tensor.device != q.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, but q is {q.dtype} on {q.device}; "
                f"all operands must share dtype and device, but {gate_name} may be float32"
            )


def check_convolution(x: Tensor, weight: Tensor, positions: Tensor, before: Tensor | None) -> None:
    """x `[B, T, D]`, weight `[width, D]`, positions int `[B or 1, T]`, before `[B, width − 1, D]`: one device."""
    if x.ndim != 3 or 0 in x.shape or not x.is_floating_point():
        raise ValueError(
            f"x must be a floating tensor [B, T, D] with every size ≥ 1, got {x.dtype} of shape {list(x.shape)}"
        )
    batch, length, channels = x.shape
    if weight.ndim != 2 or weight.shape[1] != channels or len(weight) == 0 or not weight.is_floating_point():
        raise ValueError(
            f"weight must be a floating tensor [width ≥ 1, {channels}] to go with x {list(x.shape)}, "
            f"got {weight.dtype} of shape {list(weight.shape)}"
        )
    if positions.dtype not in _INTEGERS or tuple(positions.shape) not in {(batch, length), (1, length)}:
        raise ValueError(
            f"positions must be int32 or int64 of shape [{batch} or 1, {length}] to go with x {list(x.shape)}, "
            f"got {positions.dtype} of shape {list(positions.shape)}"
        )
    wanted = (batch, len(weight) - 1, channels)
    if before is not None and (tuple(before.shape) != wanted or before.dtype != x.dtype):
        raise ValueError(
            f"before must be {x.dtype} of shape {list(wanted)} to go with x {list(x.shape)} and weight "
            f"{list(weight.shape)}, got {before.dtype} of shape {list(before.shape)}"
        )
    for name, tensor in (("weight", weight), ("positions", positions), ("before", before)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on {x.device} like x, got {tensor.device}")


def check_packing(q: Tensor, cu_seqlens: Tensor | None, document_starts: Tensor | None) -> None:
    """Shapes, dtypes and devices of the arguments that say where documents begin."""
    documents.check_packing_shape(q.shape[0], q.shape[1], cu_seqlens, document_starts)
    for name, tensor in (("cu_seqlens", cu_seqlens), ("document_starts", document_starts)):
        if tensor is None:
            continue
        if tensor.dtype not in _INTEGERS:
            raise ValueError(f"{name} must be int32 or int64, got {tensor.dtype}")
        if tensor.device != q.device and tensor.device.type != "cpu":
            raise ValueError(f"{name} must be on {q.device} like q, or on cpu, got {tensor.device}")


def carried_documents(q: Tensor, cu_seqlens: Tensor | None) -> int:
    """N, how many documents a state has: those of `cu_seqlens`, or one a batch row."""
    return q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def check_state(state: RecurrenceState | None, carried: int, q: Tensor, v: Tensor) -> None:
    """Shapes, dtypes and devices of a recurrence's initial state of `carried` documents."""
    if state is None:
        return
    _check_state_shapes(state, carried, q, v)
    for name, tensor in (("k", state.k), ("y", state.y), ("position", state.position)):
        _check_state_tensor(f"the state's {name}", tensor, q)


def check_values(state: RecurrenceState, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Operands of one token of attention, and the state whose y are values; it may have any floating dtype. Several
    heads of queries may have a key and a value together."""
    if q.ndim == k.ndim == 4 and k.shape[2] and q.shape[2] % k.shape[2]:
        raise ValueError(f"k has {k.shape[2]} heads, which cannot be shared by the {q.shape[2]} heads of q")
    of_groups = q[:, :, : k.shape[2]] if q.ndim == k.ndim == 4 else q
    check_operands(of_groups, k, v, of_groups[..., 0], "q")
    _check_state_shapes(state, q.shape[0], of_groups, v)
    for name, tensor in (("k", state.k), ("y", state.y), ("position", state.position)):
        if tensor.device != q.device:
            raise ValueError(f"the state's {name} must be on {q.device} like q, got {tensor.device}")
        if tensor is not state.position and not tensor.is_floating_point():
            raise ValueError(f"the state's {name} must be a floating tensor, got {tensor.dtype}")


def check_angles(angles: Angles | None, q: Tensor) -> None:
    """Cosines and sines of one token of each document, or of one for all."""
    for name, x in zip(("cosines", "sines"), angles or (), strict=False):
        if x.shape not in {(n, 1, 1, q.shape[3] // 2) for n in (1, q.shape[0])} or q.shape[3] % 2:
            raise ValueError(
                f"the {name} must have shape [N or 1, 1, 1, K / 2] to go with q {list(q.shape)}, got {list(x.shape)}"
            )
        if x.dtype != torch.float32 or x.device != q.device:
            raise ValueError(f"the {name} must be float32 on {q.device} like q, got {x.dtype} on {x.device}")


def _check_state_shapes(state: RecurrenceState, carried: int, q: Tensor, v: Tensor) -> None:
    if state.position.shape != (carried,) or state.position.dtype not in _INTEGERS:
        raise ValueError(
            f"the state's position must have shape [{carried}] and integers, "
            f"got {list(state.position.shape)} of {state.position.dtype}"
        )
    for name, tensor, width in (("k", state.k, q.shape[3]), ("y", state.y, v.shape[3])):
        found = tuple(tensor.shape)
        if len(found) != 4 or found[:2] != (carried, q.shape[2]) or found[3] != width:
            raise ValueError(
                f"the state's {name} must have shape [N, H, S, {'K' if name == 'k' else 'V'}] = "
                f"[{carried}, {q.shape[2]}, S, {width}], got {list(found)}"
            )
    if state.k.shape[2] != state.y.shape[2]:
        raise ValueError(f"the state's k has {state.k.shape[2]} slots and its y {state.y.shape[2]}; they must agree")


def check_ssm_state(state: Tensor | None, carried: int, q: Tensor, v: Tensor) -> None:
    """Shape, dtype and device of an SSM's initial state of `carried` documents."""
    if state is None:
        return
    expected = [carried, q.shape[2], q.shape[3], v.shape[3]]
    if list(state.shape) != expected:
        raise ValueError(f"the state must have shape [N, H, K, V] = {expected}, got {list(state.shape)}")
    _check_state_tensor("the state", state, q)


def _check_state_tensor(name: str, tensor: Tensor, q: Tensor) -> None:
    if tensor.device != q.device:
        raise ValueError(f"{name} must be on {q.device} like q, got {tensor.device}")
    if tensor.dtype not in (*_INTEGERS, torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32, or float64 in float64 work, got {tensor.dtype}")


def check_scale(scale: float | None) -> None:
    """A number that is neither infinite nor NaN; None stands for the default."""
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"scale = {scale}; it must be finite")


def check_backend(backend: str) -> None:
    """One of the names that `Backend` lists."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend = {backend!r}; allowed are {', '.join(get_args(Backend))}")


def check_packing_values(length: int, cu_seqlens: Tensor | None, document_starts: Tensor | None) -> None:
    """The documents' bounds. The layers of a model share the tensor that says them, which is looked at once."""
    packing = document_starts if cu_seqlens is None else cu_seqlens
    if packing is None or packing.is_inference():
        documents.check_packing(length, cu_seqlens, document_starts)
    elif _known_right.get(packing) != (packing._version, length):
        documents.check_packing(length, cu_seqlens, document_starts)
        _known_right[packing] = (packing._version, length)


_known_right = WeakTensorKeyDictionary()
"""(version, T) of packing tensors whose values were right; a tensor written to has another version."""


def check_room(state: RecurrenceState, pattern: Pattern) -> None:
    """A state has the slots that its room needs."""
    if state.room is not None and state.k.shape[2] < pattern.slot_count(state.room):
        raise ValueError(
            f"the state's room is {state.room} tokens, for which {pattern} needs S ≥ {pattern.slot_count(state.room)} "
            f"slots, but its k is {list(state.k.shape)}; with_room makes room"
        )


def check_positions(state: RecurrenceState, pattern: Pattern) -> None:
    """A state has the live rows of its documents. Waits for the device."""
    lowest, most = map(int, state.position.aminmax())
    if lowest < 0:
        raise ValueError(f"the state's position must be ≥ 0, got {lowest}")
    needed = pattern.slot_count(most)
    if state.k.shape[2] < needed:
        raise ValueError(
            f"the state's k and y must have S ≥ {needed} slots for {pattern} after {most} tokens, "
            f"got {list(state.k.shape)} and {list(state.y.shape)}"
        )
