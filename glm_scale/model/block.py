"""One layer of the model."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glm_scale.layers.conv import ShortConv
from glm_scale.layers.mlp import GatedMLP
from glm_scale.layers.norm import RMSNorm
from glm_scale.layers.rotary import Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Token, through_mlp
from glm_scale.mixers import Mixer, MixerSpec
from glm_scale.mixers.contract import Cache
from glm_scale.model.config import ModelConfig
from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.graph_breaks import between_graphs
from glm_scale.parallel.tensor.splitting import all_tokens, copied, entering

_checkpoint_between_graphs = between_graphs(checkpoint)


class BlockCache(NamedTuple):
    """The mixer's cache and the few tokens that the short convolution still reads (None without one)."""

    mixer: Cache
    conv: Tensor | None


class Block(nn.Module):
    """x ← x + mixer(conv(norm x)); x ← x + mlp(norm x). Pre-norm; the convolution is optional.

    `tensor`: the ranks over which heads and hidden units are split.
    `recomputes_mlp`: keep only x of mlp(norm x) for the backward pass and compute it again there, in training.
    `breaks_mlp`: whether hooks that fetch weights end compiled graphs within that.
    """

    def __init__(self, config: ModelConfig, mixer: MixerSpec, tensor: TensorAxis | None = None) -> None:
        super().__init__()
        self.tensor = tensor
        self.recomputes_mlp = False
        self.breaks_mlp = False
        self.mixer_norm = RMSNorm(config.width, config.norm_eps, tensor=tensor)
        self.conv = ShortConv(config.width, config.conv_width) if config.conv_width else None
        self.mixer: Mixer = mixer.build(config.mixer_dims().over(tensor))
        self.mlp_norm = RMSNorm(config.width, config.norm_eps, tensor=tensor)
        self.mlp = GatedMLP(config.width, config.mlp_size, tensor)

    def forward(self, x: Tensor, sequence: Sequence) -> Tensor:
        """x `[B, T, width]` to `[B, T, width]`. Raises MixerError if the mixer cannot work on one rank's tokens."""
        if sequence.axis is not None:
            self.mixer.require_sequence_strategy(sequence.axis.strategy, sequence.axis.ranks.size)
        mixed = self.mixer_norm(x)
        if self.conv is None:
            mixed = entering(mixed, self.tensor)
        else:
            # The convolution reads tokens of other ranks, and every rank does all of it.
            mixed = copied(self.conv(all_tokens(mixed, self.tensor), sequence), self.tensor)
        x = x + self.mixer(mixed, sequence)
        return x + (self.fed_forward_again(x) if self.recomputes_mlp and self.training else self.fed_forward(x))

    def fed_forward(self, x: Tensor) -> Tensor:
        """mlp(norm x), `[B, T, width]`."""
        return self.mlp(entering(self.mlp_norm(x), self.tensor))

    def fed_forward_again(self, x: Tensor) -> Tensor:
        """The same, of which the backward pass computes again what it needs: all but the last product, and nothing
        random."""
        # A compiler takes what is computed again into the graph of the block if it can see all of it. If it cannot, it
        # leaves it alone, and what it could compile there is compiled by itself, see `compile`.
        run = _checkpoint_between_graphs if self.breaks_mlp else checkpoint
        again: Tensor = run(self.fed_forward, x, use_reentrant=False, preserve_rng_state=False)
        return again

    def compile(self, **options: Any) -> None:
        """As every module; and the hidden units of the MLP by themselves, for `fed_forward_again` with `breaks_mlp`.

        The last product is no part of that graph, lest it be computed again with it.
        """
        super().compile(**options)
        self.mlp.hidden = torch.compile(self.mlp.hidden, **options)  # type: ignore[method-assign]

    def extend(self, x: Tensor, cache: BlockCache) -> tuple[Tensor, BlockCache]:
        """T more tokens `[B, T, width]` of the documents in `cache`; the cache given is used up."""
        if x.shape[1] == 1:
            return self.step(x, cache)
        mixed, conv = self.mixer_norm(x), cache.conv
        if self.conv is not None and conv is not None:
            mixed, conv = self.conv.extend(mixed, conv)
        mixed, mixer = self.mixer.prefill(mixed, cache.mixer)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), BlockCache(mixer, conv)

    def step(self, x: Tensor, cache: BlockCache, rotation: Rotation | None = None) -> tuple[Tensor, BlockCache]:
        """One more token `[B, 1, width]`: `extend` at the cost of decoding. rotation: of its positions, if known."""
        token, conv = Token(x, self.mixer_norm, rotation), cache.conv
        if self.conv is not None and conv is not None:
            mixed, conv = self.conv.extend(token.normed(), conv)
            token = Token(mixed, None, rotation)
        x, mixer = self.mixer.advance(x, token, cache.mixer)
        return through_mlp(x, self.mlp_norm, self.mlp), BlockCache(mixer, conv)

    def read_together(self) -> list[SequenceOf[nn.Linear]]:
        """Projections that `step` computes at once, if the weights of each group lie one behind the other."""
        return [self.mixer.read_together(), (self.mlp.gate, self.mlp.up)]

    def empty_cache(self, batch: int, length: int | None = None) -> BlockCache:
        return BlockCache(self.mixer.empty_cache(batch, length), self.conv.empty_cache(batch) if self.conv else None)

    def flops_per_token(self, length: int) -> float:
        """Forward FLOPs of the mixer and the MLP; the depthwise convolution is no matrix multiplication."""
        return self.mixer.flops_per_token(length) + self.mlp.flops_per_token()

    def cache_bytes(self, length: int) -> int:
        return self.mixer.cache_bytes(length) + (self.conv.cache_bytes() if self.conv else 0)
