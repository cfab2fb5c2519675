"""Muon for hidden matrices: a step along the orthogonalised momentum of the gradient.

    M ← μ M + (1 − μ) G      W ← (1 − η λ) W − η · 0.2 √max(rows, columns) · orthogonalised((1 − μ) G + μ M)

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with Nesterov's momentum; weight decay
and the scale are those of Liu et al., "Muon is scalable for LLM training" (arXiv 2502.16982): a step's root mean square
is then near 0.2, as AdamW's is, so that one learning rate and one weight decay serve both.

Under ZeRO and over tensor ranks nobody holds whole matrices: momentum stays where the weights' fp32 numbers are, and
what is to be orthogonalised goes to a rank that has it all, and its part of the result back (`matrix_exchange`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glm_scale.training.matrix_exchange import Bucket, Exchange, Held
from glm_scale.training.orthogonal import orthogonalized

__all__ = ["Muon", "OwnRun"]

_UPDATE_SIZE, _USUAL_MOMENTUM = 0.2, 0.95


@dataclass(frozen=True)
class OwnRun:
    """A run of a matrix that this rank holds, and where it begins in the flat numbers of `master`, which the optimizer
    steps."""

    held: Held
    master: Tensor
    at: int

    def of(self, flat: Tensor) -> Tensor:
        """Its numbers of a tensor that is laid out as the master is."""
        return flat.view(-1).narrow(0, self.at, self.held.count)


class Muon:
    """Steps the groups of an optimizer that hold hidden matrices.

    steps: what the optimizer steps at once, one after the other and on all ranks alike: the masters, and this rank's
    runs in them. The state of a master is AdamW's without its second moment: "exp_avg" is M.
    """

    def __init__(
        self, steps: Iterable[tuple[Sequence[Tensor], Sequence[OwnRun]]], exchange: Exchange, momentum: float | None
    ) -> None:
        self._exchange, self._momentum = exchange, _USUAL_MOMENTUM if momentum is None else momentum
        self._plans: dict[int, tuple[Mapping[str, OwnRun], list[Bucket]]] = {}
        for masters, runs in steps:
            plan = exchange.plan([run.held for run in runs])
            self._plans[id(masters[0])] = {run.held.name: run for run in runs}, plan

    @torch.no_grad()
    def step(self, group: Mapping[str, Any], state: Mapping[Tensor, dict[str, Tensor]]) -> None:
        """One step of a group: its learning rate, weight decay and masters. Collective."""
        runs, buckets = self._plans[id(group["params"][0])]
        for master in group["params"]:
            state[master]["step"] += 1
            state[master]["exp_avg"].lerp_(master.grad, 1 - self._momentum)
        for bucket in buckets:
            mine = [runs[matrix.name] for matrix in bucket.matrices if matrix.name in runs]
            directions = {run.held.name: self._direction(run, state[run.master]["exp_avg"]) for run in mine}
            for name, update in self._exchange.worked(bucket, directions, _orthogonalized).items():
                run = runs[name]
                weight = run.of(run.master)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update, alpha=group["lr"] * _UPDATE_SIZE * max(run.held.shape) ** 0.5)

    def _direction(self, run: OwnRun, momentum: Tensor) -> Tensor:
        assert run.master.grad is not None
        gradient = run.of(run.master.grad)
        return gradient.lerp(run.of(momentum), self._momentum).to(self._exchange.dtype)


def _orthogonalized(matrices: list[Tensor]) -> list[Tensor]:
    """Those of one shape at once."""
    shapes: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, matrix in enumerate(matrices):
        shapes[tuple(matrix.shape)].append(number)
    done: dict[int, Tensor] = {}
    for numbers in shapes.values():
        together = orthogonalized(torch.stack([matrices[number] for number in numbers]))
        done.update(zip(numbers, together.unbind(), strict=True))
    return [done[number] for number in range(len(matrices))]
