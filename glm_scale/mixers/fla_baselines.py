"""`gla`, `gated_deltanet`, `log_linear`: published recurrent mixers, as baselines, on flash-linear-attention's kernels.

    gla              S_i = diag(α_i) S_{i−1} + k_i v_iᵀ                            arXiv 2312.06635
    gated_deltanet   S_i = α_i (I − β_i k_i k_iᵀ) S_{i−1} + β_i k_i v_iᵀ           arXiv 2412.06464
    log_linear       y_i = Σ_l λ_il q_iᵀ S_i^(l), one Mamba-2 state for each       arXiv 2506.04761
                     power of two of the rows before i

They need `pip install glm-scale[fla]` and a GPU; only decoding row by row is plain PyTorch and runs anywhere. The
state has `state_dim` × head_dim numbers a head. Rows are packed by gathering the bounds of the documents, for which
the host waits for the GPU: these are baselines, not the road of a large run.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glm_kernels import fla
from glm_scale.layers.conv import ShortConv
from glm_scale.layers.norm import RMSNorm
from glm_scale.layers.projection import Projection, projection_flops, split_heads
from glm_scale.mixers.contract import Cache, MixerDims, MixerError
from glm_scale.mixers.heads import HeadMixing, StageSpec
from glm_scale.mixers.ssm import decay_parameters
from glm_scale.sequence import Sequence

CONV_WIDTH = 4


def operator(mixer: str, name: str) -> Callable[..., Any]:
    """fla's operator `name`. Raises MixerError if it is not installed, has no GPU or is known to be wrong on it."""
    try:
        return fla.operator(name, gradients=torch.is_grad_enabled())
    except fla.FlaError as error:
        raise MixerError(f"mixer {mixer!r} runs on flash-linear-attention, but {error}") from error


def bounds_of(sequence: Sequence, batch: int, length: int) -> Tensor | None:
    """int64 cu_seqlens of the documents of all batch rows, laid one behind the other; None if rows are documents."""
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

    def __init__(self, dims: MixerDims) -> None:
        super().__init__()
        self.heads, self.head_dim, self.state_dim = dims.heads, dims.head_dim, dims.state_dim
        inner = dims.heads * dims.head_dim
        self.q = Projection(dims.width, dims.heads * dims.state_dim)
        self.k = Projection(dims.width, dims.heads * dims.state_dim)
        self.gate = Projection(dims.width, inner)
        self.norm = RMSNorm(inner, dims.norm_eps, groups=dims.heads)

    def _run(self, operands: tuple[Tensor, ...], bounds: Tensor | None) -> Tensor:
        return over_documents(operator(self.name, self.operator_name), operands, bounds)

    def _output(self, x: Tensor, y: Tensor) -> Tensor:
        return split_heads(self.norm(y.flatten(-2)) * F.silu(self.gate(x)), self.heads)

    def _rows(self, advance: Callable[..., tuple[Tensor, Cache]], operands: tuple[Tensor, ...], state: Cache) -> Any:
        """y of rows taken one by one, and the state after them."""
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

    @abstractmethod
    def _projections(self) -> tuple[nn.Linear, ...]:
        """Projections beside those of queries, keys and gate."""

    def _projection_flops(self) -> int:
        return projection_flops(self.q, self.k, self.gate, *self._projections())


class GLAMixing(FlaMixing):
    """Gated linear attention: a decay of its own for every line of the state, by a projection of low rank."""

    name, operator_name = "gla", "gla"

    RANK = 16
    TEMPERATURE = 16.0

    def __init__(self, dims: MixerDims) -> None:
        super().__init__(dims)
        self.decay_in = Projection(dims.width, self.RANK)
        self.decay_out = Projection(self.RANK, dims.heads * dims.state_dim, bias=True)
        nn.init.zeros_(self.decay_out.bias)

    def _projections(self) -> tuple[nn.Linear, ...]:
        return self.decay_in, self.decay_out

    def _operands(self, x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        log_decay = F.logsigmoid(self.decay_out(self.decay_in(x)).float()) / self.TEMPERATURE
        q, k, log_decay = (split_heads(y, self.heads) for y in (self.q(x), self.k(x), log_decay))
        return q, k, v, log_decay

    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor:
        return self._output(x, self._run(self._operands(x, v), bounds_of(sequence, *x.shape[:2])))

    def extend(self, x: Tensor, v: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self._rows(gla_row, self._operands(x, v), cache)
        return self._output(x, y.to(v.dtype)), state

    def empty_cache(self, batch: int, length: int | None = None) -> Tensor:
        return self._empty_state(batch)

    def flops_per_token(self, length: int) -> float:
        return self._projection_flops() + 4 * self._state_numbers

    def cache_bytes(self, length: int) -> int:
        return 4 * self._state_numbers


def gla_row(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One row of q, k, log_decay `[B, H, N]` and v `[B, H, head_dim]` that continues the state."""
    state = log_decay.exp()[..., None] * state + k[..., None] * v[:, :, None]
    return read(q, state), state


class DeltaCache(NamedTuple):
    """state `[B, H, N, head_dim]`, fp32; rows: the last rows before the convolution, `[B, 3, channels]`."""

    state: Tensor
    rows: Tensor


class GatedDeltaNetMixing(FlaMixing):
    """The gated delta rule: writing a value first takes out what the state holds for its key."""

    name, operator_name = "gated_deltanet", "gated_delta_rule"

    def __init__(self, dims: MixerDims) -> None:
        super().__init__(dims)
        self.dt = Projection(dims.width, dims.heads)
        self.beta = Projection(dims.width, dims.heads)
        self.conv = ShortConv(dims.heads * (2 * dims.state_dim + dims.head_dim), CONV_WIDTH)
        self.log_rate, self.dt_bias = decay_parameters(dims)

    def _projections(self) -> tuple[nn.Linear, ...]:
        return self.dt, self.beta

    def _channels(self, x: Tensor, v: Tensor) -> Tensor:
        heads = (split_heads(self.q(x), self.heads), split_heads(self.k(x), self.heads), v)
        return torch.cat(heads, -1).flatten(-2)

    def _operands(self, x: Tensor, mixed: Tensor) -> tuple[Tensor, ...]:
        sizes = [self.state_dim, self.state_dim, self.head_dim]
        q, k, v = F.silu(split_heads(mixed, self.heads)).split(sizes, -1)
        q, k = (F.normalize(y.float(), dim=-1).to(y.dtype) for y in (q, k))
        step = F.softplus(self.dt(x).float() + self.dt_bias.float())
        return q, k, v, -step * self.log_rate.float().exp(), self.beta(x).sigmoid()

    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor:
        mixed = self.conv(self._channels(x, v), sequence)
        return self._output(x, self._run(self._operands(x, mixed), bounds_of(sequence, *x.shape[:2])))

    def extend(self, x: Tensor, v: Tensor, cache: DeltaCache) -> tuple[Tensor, DeltaCache]:
        mixed, rows = self.conv.extend(self._channels(x, v), cache.rows)
        y, state = self._rows(delta_row, self._operands(x, mixed), cache.state)
        return self._output(x, y.to(v.dtype)), DeltaCache(state, rows)

    def empty_cache(self, batch: int, length: int | None = None) -> DeltaCache:
        return DeltaCache(self._empty_state(batch), self.conv.empty_cache(batch))

    def flops_per_token(self, length: int) -> float:
        return self._projection_flops() + 6 * self._state_numbers

    def cache_bytes(self, length: int) -> int:
        return 4 * self._state_numbers + self.conv.cache_bytes()


def delta_row(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One row of q, k `[B, H, N]`, v `[B, H, head_dim]`, log_decay and beta `[B, H]` that continues the state."""
    state = log_decay.exp()[..., None, None] * state
    change = beta[..., None] * (v - torch.einsum("bhk,bhkv->bhv", k, state))
    state = state + k[..., None] * change[:, :, None]
    return read(q, state), state


def read(q: Tensor, state: Tensor) -> Tensor:
    return q.shape[-1] ** -0.5 * torch.einsum("bhk,bhkv->bhv", q, state)


class LevelCache(NamedTuple):
    """levels `[B, H, LEVELS, N, head_dim]`, fp32: the state of every level; position int64 `[B]`: rows seen."""

    levels: Tensor
    position: Tensor


class LogLinearMixing(FlaMixing):
    """The recurrence of `ssm` with states of its own for the last row, the 1, 2, 4, … rows before, which it weighs.

    Row i has one level for itself and one for every bit of i (counted from 0), as in a Fenwick tree: the decays are
    those of the single state, but how much a level is heard is chosen for every row. λ = softplus(L W x) as published.
    """

    name, operator_name = "log_linear", "log_linear"

    LEVELS = 18
    """Enough for documents of 2¹⁷ rows, the longest that fla's kernel takes."""

    def __init__(self, dims: MixerDims) -> None:
        super().__init__(dims)
        if dims.head_dim & (dims.head_dim - 1) or dims.state_dim % 64:
            raise MixerError(
                f"mixer 'log_linear' with heads of {dims.head_dim} and model.ssm_state = {dims.state_dim}: "
                "fla's kernel needs heads of a power of two and a state of a multiple of 64"
            )
        self.dt = Projection(dims.width, dims.heads)
        self.level = Projection(dims.width, dims.heads * self.LEVELS)
        self.level_scale = nn.Parameter(torch.ones(dims.heads, self.LEVELS))
        self.log_rate, self.dt_bias = decay_parameters(dims)

    def _projections(self) -> tuple[nn.Linear, ...]:
        return self.dt, self.level

    def _operands(self, x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        step = F.softplus(self.dt(x).float() + self.dt_bias.float())
        q, k = split_heads(self.q(x), self.heads), split_heads(self.k(x), self.heads)
        level = F.softplus(self.level_scale * split_heads(self.level(x), self.heads)).to(v.dtype)
        return q, k * step[..., None].to(k.dtype), v, -step * self.log_rate.float().exp(), level

    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor:
        return self._output(x, self._run(self._operands(x, v), bounds_of(sequence, *x.shape[:2])))

    def extend(self, x: Tensor, v: Tensor, cache: LevelCache) -> tuple[Tensor, LevelCache]:
        y, after = self._rows(level_row, self._operands(x, v), cache)
        return self._output(x, y.to(v.dtype)), after

    def empty_cache(self, batch: int, length: int | None = None) -> LevelCache:
        levels = self._empty_state(batch).unsqueeze(2).repeat(1, 1, self.LEVELS, 1, 1)
        return LevelCache(levels, torch.zeros(batch, dtype=torch.int64, device=levels.device))

    def flops_per_token(self, length: int) -> float:
        heard = sum(1 + i.bit_count() for i in range(length)) / max(length, 1)
        return self._projection_flops() + (2 + 2 * heard) * self._state_numbers

    def cache_bytes(self, length: int) -> int:
        return 4 * self.LEVELS * self._state_numbers + 8


def level_row(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, level: Tensor, cache: LevelCache
) -> tuple[Tensor, LevelCache]:
    """One row of q, k `[B, H, N]`, v `[B, H, head_dim]`, log_decay `[B, H]`, level `[B, H, LEVELS]`.

    Counting the rows in binary: when bit b of the position becomes one, all that lower levels hold moves to b + 1.
    """
    levels, position = cache
    size = 2 ** torch.arange(levels.shape[2], device=position.device)
    moves = (position[:, None] % size == 0)[:, None, :, None, None]  # levels 0 … b
    arrives = moves.roll(1, 2) & ~moves
    levels = log_decay.exp()[..., None, None, None] * levels
    moved = (levels * moves).sum(2, keepdim=True)
    levels = levels.masked_fill(moves, 0) + moved * arrives
    levels = torch.cat([(k[..., None] * v[:, :, None])[:, :, None], levels[:, :, 1:]], 2)
    y = read(q, (level[..., None, None] * levels).sum(2))
    return y, LevelCache(levels, position + 1)


def read_baseline(spelling: str, argument: str | None) -> StageSpec:
    """`gla`, `gated_deltanet` or `log_linear`; their state expansion is `ssm_state` of the model's configuration."""
    stage: Callable[[MixerDims], HeadMixing]
    for stage in (GLAMixing, GatedDeltaNetMixing, LogLinearMixing):
        if stage.name == spelling and argument is None:
            return StageSpec(stage.name, "outputs", stage)
    raise MixerError(
        f"mixer {spelling!r}: {spelling.partition(':')[0].strip()} takes no argument; "
        "its state expansion is model.ssm_state"
    )
