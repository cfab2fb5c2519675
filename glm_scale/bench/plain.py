"""The transformer that others are measured against, as one would write it in plain PyTorch for speed alone.

Pre-norm, rotary positions, SwiGLU, untied head; causal attention by the fastest library kernel, which knows no
documents; the whole model compiled, with its loss; fused AdamW and clipping. No accumulation, no resuming, no ranks.
A program: `python -m glm_scale.bench.plain` prints one JSON object a step.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from glm_scale.bench.parts import SIZES, Size

__all__ = ["PlainTransformer"]

_CLIP = 1.0
_BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]


class PlainTransformer(nn.Module):
    """Tokens and labels, int64 `[B, T]`, to the mean loss in nats."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.vocabulary, size.width)
        self.layers = nn.ModuleList(_Layer(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.width)
        self.head = nn.Linear(size.width, size.vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=math.sqrt(2 / (5 * size.width)))

    def forward(self, tokens: Tensor, labels: Tensor, rotation: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, rotation)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


class _Layer(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.mixer_norm, self.mlp_norm = nn.RMSNorm(size.width), nn.RMSNorm(size.width)
        self.qkv = nn.Linear(size.width, 3 * size.width, bias=False)
        self.out = nn.Linear(size.width, size.width, bias=False)
        self.gate_up = nn.Linear(size.width, 2 * size.hidden, bias=False)
        self.down = nn.Linear(size.hidden, size.width, bias=False)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.mixer_norm(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(_rotated(q, rotation), _rotated(k, rotation), v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def rotation(length: int, head_dim: int, device: torch.device) -> Tensor:
    """Cosines and sines of rotary positions, fp32 `[2, length, head_dim / 2]`."""
    powers = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * 10000.0**-powers
    return torch.stack([angles.cos(), angles.sin()])


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    cos, sin = rotation
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def train(
    size: Size, batches: Iterable[tuple[Tensor, Tensor]], *, masters: bool, learning_rate: float, device: torch.device
) -> Iterator[float]:
    """Losses of one step after the other; `masters`: weights and moments are fp32, and a forward pass casts them."""
    with device:
        model = PlainTransformer(size)
    model = model if masters else model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    compute: Callable[..., Tensor] = torch.compile(model) if device.type == "cuda" else model
    angles: Tensor | None = None
    before: Tensor | None = None
    for tokens, labels in batches:
        if angles is None:
            angles = rotation(tokens.shape[1], size.width // size.heads, device)
        with (
            sdpa_kernel(_BACKENDS, set_priority=True),
            torch.autocast(device.type, torch.bfloat16, enabled=masters),
        ):
            loss = compute(tokens, labels, angles)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # One step late, so that the device has work while the host waits.
        if before is not None:
            yield before.item()
        before = loss.detach()
    if before is not None:
        yield before.item()


def _batches(path: str, length: int, sequences: int, steps: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Those of the first steps of a run of ours, on the device."""
    from glm_data import DataConfig, PackedSequences, SourceConfig, batches

    config = DataConfig(sources=[SourceConfig(path=path)], sequence_length=length, workers=0)
    read = itertools.islice(batches(PackedSequences(config, "train"), 0, sequences), steps)
    return [(batch.tokens.to(device), batch.labels.to(device)) for batch in read]


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m glm_scale.bench.plain", description=__doc__)
    parser.add_argument("data", help="a built data set")
    parser.add_argument("--size", choices=SIZES, default="1.3b")
    parser.add_argument("--length", type=int, default=8192, help="tokens of a sequence")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--masters", action="store_true", help="fp32 weights and moments, cast by the forward pass")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    given = parser.parse_args()
    size, device = SIZES[given.size], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    read = _batches(given.data, given.length, size.sequences(given.length), given.steps, device)
    losses = train(size, read, masters=given.masters, learning_rate=given.learning_rate, device=device)
    for step, loss in enumerate(losses, start=1):
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
        print(json.dumps({"step": step, "loss": loss, "time": time.time(), "peak_bytes": peak}), flush=True)


if __name__ == "__main__":
    main()
