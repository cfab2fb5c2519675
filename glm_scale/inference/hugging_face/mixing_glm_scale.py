"""Token mixers of GLM-scale models in plain torch, for training, prompts and decoding alike. Exported models carry it.

    v = W_v x      v ← stage(x, v) for every stage      y = W_o v

A stage is attention, a structured recurrence (arXiv 2605.31367) or a state-space model (arXiv 2405.21060). It takes T
columns of a batch, and what it remembers of the columns before them; one column is decoding. `glm_kernels`, where it is
installed, computes whole sequences faster.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_glm_scale import GlmScaleConfig
from .patterns_glm_scale import Pattern

kernels: Any
try:
    import glm_kernels as kernels
except ImportError:
    kernels = None

_CHUNK = 128
"""Columns that are solved at once: their weights are a matrix of _CHUNK × (_CHUNK + rows remembered) a head."""
_SSM_CHUNK = 64


class Columns(NamedTuple):
    """Where the columns of a batch stand in their documents, of which every sequence of the batch is one.

    at: int64 `[B, T]`, positions, −1 for padding. seen: int64 `[B]`, tokens of each document once these are read.
    reach: more than any position. starts: if any column is padding int32 `[B, T]`, the first column of the document
    that a column belongs to, where padding before a document counts as another one. cos, sin: fp32
    `[B, T, 1, head_dim / 2]`, by which queries and keys are turned.
    """

    at: Tensor
    seen: Tensor
    reach: int
    starts: Tensor | None
    cos: Tensor
    sin: Tensor

    @property
    def padded(self) -> bool:
        """Whether any column is padding."""
        return self.starts is not None

    def turned(self, x: Tensor) -> Tensor:
        """x `[B, T, H, head_dim]` with rotary position embedding (arXiv 2104.09864), half-split, computed in fp32."""
        first, second = x.float().chunk(2, dim=-1)
        turned = (first * self.cos - second * self.sin, second * self.cos + first * self.sin)
        return torch.cat(turned, -1).to(x.dtype)


class Rows(NamedTuple):
    """Rows that later ones may read: positions int64 `[B, S]`, −1 for none; k and y `[B, S, H, head_dim]`."""

    at: Tensor
    k: Tensor
    y: Tensor

    def then(self, other: Rows) -> Rows:
        """These rows and others behind them."""
        return Rows(*(torch.cat([mine, its], 1) for mine, its in zip(self, other, strict=True)))

    def kept(self, alive: Tensor) -> Rows:
        """Those that are `alive`, bool `[B, S]`, in as many places as the fullest sequence needs."""
        count = int(alive.sum(1).max())
        if count == alive.shape[1]:
            return self._replace(at=self.at.where(alive, -1))
        order = alive.byte().argsort(dim=1, descending=True, stable=True)[:, :count]
        at = self.at.where(alive, -1).gather(1, order)
        return Rows(at, *(x[torch.arange(len(x), device=x.device)[:, None], order] for x in (self.k, self.y)))


class Mixing(nn.Module):
    """A stage: x `[B, T, D]`, v `[B, T, H, head_dim]`, what it remembers (None at the beginning) → v and what it
    remembers then."""

    def __init__(self, config: GlmScaleConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.value_heads = self.heads

    def split(self, x: Tensor) -> Tensor:
        """`[B, T, heads · size]` → `[B, T, heads, size]`."""
        return x.unflatten(-1, (self.heads, -1))


class Compared(Mixing):
    """A stage with queries and keys that a softmax compares."""

    def __init__(self, config: GlmScaleConfig, key_heads: int) -> None:
        super().__init__(config)
        self.key_heads = key_heads
        self.q = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=False)
        self.k = nn.Linear(config.hidden_size, key_heads * self.head_dim, bias=False)
        self.q_norm, self.k_norm = (
            HeadNorm(heads * self.head_dim, config.rms_norm_eps, heads) if config.qk_norm else nn.Identity()
            for heads in (self.heads, key_heads)
        )

    def queries_and_keys(self, x: Tensor, columns: Columns) -> tuple[Tensor, Tensor]:
        """`[B, T, H, head_dim]` and `[B, T, key_heads, head_dim]`, turned."""
        q, k = self.q_norm(self.q(x)), self.k_norm(self.k(x)).unflatten(-1, (self.key_heads, -1))
        return columns.turned(self.split(q)), columns.turned(k)


class Attention(Compared):
    """y_i = Σ_j softmax_j(q_i·k_j / √head_dim) v_j over the tokens j ≤ i; with a window over j > i − window only.
    Several heads may have a key and a value together."""

    def __init__(self, config: GlmScaleConfig, window: int | None) -> None:
        super().__init__(config, config.num_key_value_heads)
        self.window = window
        self.value_heads = self.key_heads

    def forward(self, x: Tensor, v: Tensor, columns: Columns, rows: Rows | None) -> tuple[Tensor, Rows]:
        q, k = self.queries_and_keys(x, columns)
        new = Rows(columns.at, k, v)
        everything = new if rows is None else rows.then(new)
        if rows is None and self.window is None and not columns.padded:
            y = _attended(q, k, v, None)
        elif rows is None and kernels is not None and self.window is not None:
            y = kernels.attention(q, k, v, window=self.window, document_starts=columns.starts)
        else:
            y = self._attend(q, everything, columns)
        if self.window is not None:
            everything = everything.kept((everything.at >= 0) & (everything.at > columns.seen[:, None] - self.window))
        return y, everything

    def _attend(self, q: Tensor, rows: Rows, columns: Columns) -> Tensor:
        here, there = columns.at[:, :, None], rows.at[:, None]
        reads = (there >= 0) & (there <= here)
        if self.window is not None:
            reads &= here - there < self.window
        # Padding reads itself, so that its softmax is defined.
        places = torch.arange(rows.at.shape[1], device=q.device)
        reads |= places == places[-q.shape[1] :, None]
        return _attended(q, rows.k.to(q.dtype), rows.y.to(q.dtype), reads[:, None])


class Recurrence(Compared):
    """y_i = α_i v_i + Σ_j β_ij y_j with (α_i, β_i·) = softmax([d_i, q_i·k_j / √head_dim for j that token i reads])."""

    def __init__(self, config: GlmScaleConfig, spelling: str) -> None:
        super().__init__(config, config.num_attention_heads)
        self.spelling, self.pattern = spelling, Pattern(spelling)
        self.d = nn.Linear(config.hidden_size, self.heads)

    def forward(self, x: Tensor, v: Tensor, columns: Columns, rows: Rows | None) -> tuple[Tensor, Rows]:
        q, k = self.queries_and_keys(x, columns)
        d = self.d(x)
        if rows is None and kernels is not None:
            y = kernels.recurrence(q, k, v, d, self.spelling, document_starts=columns.starts)[0]
            return y, self._remembered(Rows(columns.at, _precise(k), _precise(y)), columns.seen, columns.reach)
        # Sums are kept in fp32 under autocast as well.
        with torch.autocast(x.device.type, enabled=False):
            y, rows = self._solve(_precise(q), _precise(k), _precise(v), _precise(d), columns, rows)
        return y.to(v.dtype), rows

    def _solve(
        self, q: Tensor, k: Tensor, v: Tensor, d: Tensor, columns: Columns, rows: Rows | None
    ) -> tuple[Tensor, Rows]:
        """Chunk after chunk: outputs that are known enter as they are, those of the chunk by a triangular system."""
        if rows is None:
            rows = Rows(columns.at[:, :0], k[:, :0], v[:, :0])
        outputs = []
        for start in range(0, q.shape[1], _CHUNK):
            q_c, k_c, v_c, d_c, at = (x[:, start : start + _CHUNK] for x in (q, k, v, d, columns.at))
            past, new = rows.at.shape[1], at.shape[1]
            reads = self.pattern.reads(at[:, :, None], torch.cat([rows.at, at], 1)[:, None], columns.reach)
            scores = torch.einsum("bihk,bjhk->bhij", q_c, torch.cat([rows.k, k_c], 1)) * self.head_dim**-0.5
            scores = scores.masked_fill(~reads[:, None], -torch.inf)
            weights = torch.cat([d_c.transpose(1, 2)[..., None], scores], 3).softmax(3)
            alpha, beta, within = weights.split([1, past, new], 3)
            known = alpha * v_c.transpose(1, 2) + beta @ rows.y.transpose(1, 2)
            identity = torch.eye(new, dtype=within.dtype, device=within.device)
            y = torch.linalg.solve_triangular(identity - within, known, upper=False, unitriangular=True)
            outputs.append(y.transpose(1, 2))
            # The chunk's last position bounds what was seen; a chunk of padding alone leaves nothing to forget.
            seen = at.amax(1) + 1
            rows = self._remembered(rows.then(Rows(at, k_c, outputs[-1])), seen, columns.reach)
        return torch.cat(outputs, 1), rows

    def _remembered(self, rows: Rows, seen: Tensor, reach: int) -> Rows:
        """The rows that tokens after the first `seen [B]` may read: |S| of them, however long the document is."""
        if not self.pattern.forgets:
            return rows
        return rows.kept((rows.at >= 0) & (seen[:, None] - rows.at <= self.pattern.lives(rows.at, reach)))


class StateSpace(Mixing):
    """S_i = exp(−A Δ_i) S_{i−1} + Δ_i k_i v_iᵀ and y_i = q_iᵀ S_i / √N + skip · v_i, normalised and gated.

    Remembers S, `[B, H, N, head_dim]`.
    """

    def __init__(self, config: GlmScaleConfig, state_dim: int) -> None:
        super().__init__(config)
        width, inner = config.hidden_size, self.heads * self.head_dim
        self.q = nn.Linear(width, self.heads * state_dim, bias=False)
        self.k = nn.Linear(width, self.heads * state_dim, bias=False)
        self.dt = nn.Linear(width, self.heads, bias=False)
        self.gate = nn.Linear(width, inner, bias=False)
        self.norm = HeadNorm(inner, config.rms_norm_eps, self.heads)
        self.log_rate = nn.Parameter(torch.zeros(self.heads))
        self.dt_bias = nn.Parameter(torch.zeros(self.heads))
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.state_dim = state_dim

    def forward(self, x: Tensor, v: Tensor, columns: Columns, state: Tensor | None) -> tuple[Tensor, Tensor]:
        q, k = self.split(self.q(x)), self.split(self.k(x))
        step = F.softplus(self.dt(x).float() + self.dt_bias.float())
        if columns.padded:  # a step of no length leaves the state as it is
            step = step * (columns.at >= 0)[..., None]
        k, log_decay = k * step[..., None].to(k.dtype), -step * self.log_rate.float().exp()
        if kernels is not None:
            y, state = kernels.ssm(q, k, v, log_decay, initial_state=state, output_final_state=True)
        else:
            with torch.autocast(x.device.type, enabled=False):
                y, state = self._scan(_precise(q), _precise(k), _precise(v), _precise(log_decay), state)
        y = self.norm((y.to(v.dtype) + self.skip[:, None] * v).flatten(-2)) * F.silu(self.gate(x))
        return self.split(y), cast(Tensor, state)

    def _scan(self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Chunk after chunk: within one by decayed inner products, between them through the state."""
        if state is None:
            state = v.new_zeros(len(v), self.heads, self.state_dim, self.head_dim)
        outputs = []
        for q_c, k_c, v_c, decay in zip(*(x.split(_SSM_CHUNK, 1) for x in (q, k, v, log_decay)), strict=True):
            q_c, k_c, v_c = (x.transpose(1, 2) for x in (q_c * self.state_dim**-0.5, k_c, v_c))
            sums = decay.transpose(1, 2).cumsum(2)
            between = (sums[..., :, None] - sums[..., None, :]).tril().exp().tril()
            y = (q_c @ k_c.transpose(2, 3) * between) @ v_c + (q_c * sums.exp()[..., None]) @ state
            leaving = (sums[..., -1:] - sums).exp()[..., None]
            state = sums[..., -1, None, None].exp() * state + (k_c * leaving).transpose(2, 3) @ v_c
            outputs.append(y.transpose(1, 2))
        return torch.cat(outputs, 1), state


class HeadNorm(nn.Module):
    """RMSNorm of every head by itself."""

    def __init__(self, size: int, eps: float, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps, self.heads = eps, heads

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(-1, (self.heads, -1))
        return F.rms_norm(parts, parts.shape[-1:], None, self.eps).flatten(-2) * self.weight


class Mixer(nn.Module):
    """Value projection, stages, output projection; remembers what each of its stages does."""

    def __init__(self, config: GlmScaleConfig, spelling: str) -> None:
        super().__init__()
        inner = config.num_attention_heads * config.head_dim
        stages = [stage(config, part.strip()) for part in spelling.split(">")]
        self.value_heads = stages[0].value_heads
        self.v = nn.Linear(config.hidden_size, self.value_heads * config.head_dim, bias=False)
        self.stages = nn.ModuleList(stages)
        self.o = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(self, x: Tensor, columns: Columns, memory: list[Any]) -> tuple[Tensor, list[Any]]:
        """x `[B, T, D]`; memory: of every stage, None at the beginning."""
        v = self.v(x).unflatten(-1, (self.value_heads, -1))
        after = []
        for mixing, before in zip(self.stages, memory, strict=True):
            v, remembered = mixing(x, v, columns, before)
            after.append(remembered)
        return self.o(v.flatten(-2)), after


def stage(config: GlmScaleConfig, spelling: str) -> Mixing:
    """The stage of a spelling. Raises ValueError for one that it does not know."""
    word, _, argument = spelling.partition(":")
    if word == "attention":
        return Attention(config, None)
    if word == "local":
        return Attention(config, int(argument))
    if word == "ssm":
        return StateSpace(config, int(argument or 64))
    return Recurrence(config, spelling)


def _attended(q: Tensor, k: Tensor, v: Tensor, reads: Tensor | None) -> Tensor:
    """Softmax attention of `[B, T, H, head_dim]` over what a mask says, causal without one."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if k.shape[1] < q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=reads, is_causal=reads is None).transpose(1, 2)


def _precise(x: Tensor) -> Tensor:
    """At least fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
