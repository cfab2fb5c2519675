"""What baselines on flash-linear-attention's kernels share: `gla`, `gated_deltanet`, `log_linear`.

They need `pip install glm-scale[fla]` and a GPU; only decoding token by token is plain PyTorch and runs anywhere. The
state has N × head_dim numbers a head. Sequences are packed by gathering the bounds of the documents, for which the host
waits for the GPU: these are baselines, not the road of a large run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glm_kernels import fla
from glm_scale.layers.norm import RMSNorm
from glm_scale.layers.projection import Projection, split_heads
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Project
from glm_scale.mixers.contract import Cache, MixerDims, MixerError
from glm_scale.mixers.heads import HeadMixing


def operator(mixer: str, name: str) -> Callable[..., Any]:
    """fla's operator `name`. Raises MixerError if it is not installed, has no GPU or is known to be wrong on it."""
    try:
        return fla.operator(name, gradients=torch.is_grad_enabled())
    except fla.FlaError as error:
        raise MixerError(f"mixer {mixer!r} runs on flash-linear-attention, but {error}") from error


def bounds_of(sequence: Sequence, batch: int, length: int) -> Tensor | None:
    """int64 cu_seqlens of the documents of all sequences, laid one behind the other; None if each is one document."""
    if sequence.document_starts is None:
        return None
    begins = (sequence.positions == 0).expand(batch, length).flatten().nonzero().squeeze(1)
    return F.pad(begins, (0, 1), value=batch * length)


def over_documents(run: Callable[..., Any], operands: tuple[Tensor, ...], bounds: Tensor | None) -> Tensor:
    """y `[B, T, H, head_dim]` of fla's operator over operands `[B, T, H, …]`, of which q is the first."""
    scale = operands[0].shape[3] ** -0.5
    if bounds is None:
        return run(*operands, scale=scale)[0]
    y = run(*(x.flatten(0, 1).unsqueeze(0) for x in operands), scale=scale, cu_seqlens=bounds)[0]
    return y.view(*operands[0].shape[:2], *y.shape[2:])


class FlaMixing(HeadMixing):
    """What the baselines share: queries, keys, a norm and a gate for every head."""

    sequence_strategies = ()
    undivided = "it is a baseline for one device"
    name: str
    operator_name: str

    def __init__(self, state: int, dims: MixerDims) -> None:
        super().__init__()
        self.heads, self.head_dim, self.state_dim = dims.heads, dims.head_dim, state
        inner = dims.heads * dims.head_dim
        self.q = Projection(dims.width, dims.heads * state)
        self.k = Projection(dims.width, dims.heads * state)
        self.gate = Projection(dims.width, inner)
        self.norm = RMSNorm(inner, dims.norm_eps, groups=dims.heads)

    def _run(self, operands: tuple[Tensor, ...], bounds: Tensor | None) -> Tensor:
        return over_documents(operator(self.name, self.operator_name), operands, bounds)

    def _output(self, project: Project, y: Tensor) -> Tensor:
        return split_heads(self.norm(y.flatten(-2)) * F.silu(project(self.gate)), self.heads)

    def _rows(self, advance: Callable[..., tuple[Tensor, Cache]], operands: tuple[Tensor, ...], state: Cache) -> Any:
        """y of tokens taken one by one, and the state after them."""
        outputs = []
        for row in zip(*(x.unbind(1) for x in operands), strict=True):
            y, state = advance(*(x.float() for x in row), state)
            outputs.append(y)
        return torch.stack(outputs, 1), state

    def _empty_state(self, batch: int) -> Tensor:
        shape = (batch, self.heads, self.state_dim, self.head_dim)
        return torch.zeros(shape, device=self.k.weight.device, dtype=torch.float32)

    @property
    def _state_numbers(self) -> int:
        return self.heads * self.state_dim * self.head_dim


def read(q: Tensor, state: Tensor) -> Tensor:
    """What queries q `[B, H, N]` find in states `[B, H, N, head_dim]`: `[B, H, head_dim]`."""
    return q.shape[-1] ** -0.5 * torch.einsum("bhk,bhkv->bhv", q, state)
