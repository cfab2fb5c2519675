"""Token mixings, forward and backward, by the operators of glm_kernels and called as mixers call them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from glm_kernels import Packing, attention
from glm_kernels.bench.cases import Case, Operands, Shape, operator_case, random_operands
from glm_scale.bench.calibration.clock import Clock
from glm_scale.errors import UserError
from glm_scale.mixers import parse_mixer
from glm_scale.mixers.structure import Structure
from glm_scale.planning.calibration import OperatorTime
from glm_scale.planning.speeds import operator_of

__all__ = ["operator_time", "structure_of"]


def structure_of(spelling: str) -> Structure:
    """Of a mixer that is one operator. Raises UserError for another one, as MixerError for none."""
    structure = parse_mixer(spelling).structure
    single = structure is not None and (structure.pattern is None or not structure.mixes_inputs)
    if structure is None or not single or not _known(structure):
        raise UserError(
            f"{spelling!r} is no single operator of glm_kernels; give attention, local:w, ssm:N or a pattern such as "
            "lattice:2^k, one for each part of a composition"
        )
    return structure


def _known(structure: Structure) -> bool:
    return structure.state is None or structure.spelling.partition(":")[0] == "ssm"


def operator_time(clock: Clock, structure: Structure, batch: int, length: int, heads: int, width: int) -> OperatorTime:
    """`batch` sequences of `length` tokens, one document each, with heads of `width` numbers."""
    name, key = operator_of(structure, width)
    shape = Shape(batch, length, heads, width, clock.dtype, clock.device)
    starts = torch.zeros(batch, length, dtype=torch.int32)
    operands = replace(random_operands(shape), starts=starts.to(clock.device))
    if structure.state is not None:
        operands = _with_state(operands, clock, key)
    case = _case(structure, starts, clock)
    forward = clock.seconds(lambda: case.run(operands))
    both = clock.seconds(lambda: case.gradients(case.run(operands), operands))
    # Noise of a machine that others use could make it negative.
    backward = max(both - forward, 0.1 * forward)
    return OperatorTime(
        operator=name, batch=batch, length=length, heads=heads, key=key, value=width, forward=forward, backward=backward
    )


def _with_state(operands: Operands, clock: Clock, state: int) -> Operands:
    """Queries and keys of as many numbers as the state has, small enough that a sum over all tokens stays finite."""
    shape = (*operands.q.shape[:3], state)
    q, k = (clock.random(*shape, scale=0.1).requires_grad_() for _ in range(2))
    return replace(operands, q=q, k=k, log_decay=operands.log_decay.detach().float().requires_grad_())


def _case(structure: Structure, starts: Tensor, clock: Clock) -> Case:
    if structure.state is not None:
        return operator_case("ssm", packed=True)
    if structure.pattern is not None:
        return operator_case(str(structure.pattern), packed=True)
    return Case(structure.spelling, _attention(structure.input_width, starts, clock))


def _attention(window: int | None, starts: Tensor, clock: Clock) -> Callable[[Operands], Tensor]:
    packing = Packing.of(starts, torch.device(clock.device)) if clock.device == "cuda" else None

    def run(x: Operands) -> Tensor:
        return attention(x.q, x.k, x.v, window=window, document_starts=x.starts, packing=packing)

    return run
