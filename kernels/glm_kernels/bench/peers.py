"""Kernels of others, timed beside ours: SDPA, FlexAttention with a pattern's mask, flash-linear-attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import normalize, scaled_dot_product_attention

from glm_kernels.bench.cases import Case, Operands, Shape
from glm_kernels.patterns import Dense, Window, parse_pattern

PEERS = ("sdpa", "flex", "fla")


def peer_cases(peers: Sequence[str], operators: Sequence[str], shape: Shape) -> list[Case]:
    """The peers to time beside `operators` on this device; whether each of them runs, only a call can tell."""
    cases = []
    if "sdpa" in peers:
        cases += _sdpa(shape)
    if "flex" in peers and shape.device == "cuda":
        cases += _flex(operators, shape)
    if "fla" in peers and shape.device == "cuda":
        cases += _fla()
    return cases


def is_attention(name: str) -> bool:
    """Whether a case is full causal attention, what ratios are taken to."""
    return name.partition(":")[0] == "attention"


def _sdpa(shape: Shape) -> list[Case]:
    if shape.device == "cpu":
        return [Case("attention", _attend)]
    choices = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}

    def chosen(backend: SDPBackend) -> Callable[[Operands], Tensor]:
        def run(x: Operands) -> Tensor:
            with sdpa_kernel(backend):
                return _attend(x)

        return run

    return [Case(f"attention:{name}", chosen(backend)) for name, backend in choices.items()]


def _attend(x: Operands) -> Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (x.q, x.k, x.v))
    return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def _flex(operators: Sequence[str], shape: Shape) -> list[Case]:
    """A recurrence reads the rows before; attention that may see the same reads the row itself as well."""
    cases = []
    compiled = torch.compile(flex_attention)
    for operator in operators:
        pattern = None if operator == "ssm" else parse_pattern(operator)
        if isinstance(pattern, Window):
            cases.append(Case(f"local:{pattern.width + 1}:flex", _masked(compiled, pattern.width, shape)))
        elif isinstance(pattern, Dense):
            cases.append(Case("attention:flex", _masked(compiled, shape.length, shape)))
    return cases


def _masked(attend: Callable[..., Tensor], reach: int, shape: Shape) -> Callable[[Operands], Tensor]:
    def reads(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (i - j <= reach)

    mask = create_block_mask(reads, None, None, shape.length, shape.length, device=shape.device)

    def run(x: Operands) -> Tensor:
        q, k, v = (tensor.transpose(1, 2) for tensor in (x.q, x.k, x.v))
        return attend(q, k, v, block_mask=mask).transpose(1, 2)

    return run


def _fla() -> list[Case]:
    """Operators of flash-linear-attention, refused where its kernels are known to be wrong."""
    from glm_kernels.fla import operator

    def simple_gla(x: Operands) -> Tensor:
        return operator("simple_gla")(x.q, x.k, x.v, g=x.log_decay)[0]

    def gla(x: Operands) -> Tensor:
        return operator("gla")(x.q, x.k, x.v, x.log_decay.unsqueeze(3).expand_as(x.k))[0]

    def gated_delta_rule(x: Operands) -> Tensor:
        k = normalize(x.k, dim=3)
        return operator("gated_delta_rule")(x.q, k, x.v, g=x.log_decay, beta=x.d.detach().sigmoid())[0]

    runs = (simple_gla, gla, gated_delta_rule)
    return [Case(f"fla:{run.__name__}", run, "log_decay") for run in runs]
