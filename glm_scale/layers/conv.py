"""Short causal depthwise convolution that never crosses the start of a document."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glm_kernels import short_convolution
from glm_scale.layers.sequence import Sequence
from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.sequence.exchange import tokens_before
from glm_scale.parallel.tensor.splitting import copied


class ShortConv(nn.Module):
    """y_i = x_i + Σ_{s<width} weight_s · x_{i−s}, over tokens of the same document only; one weight per channel.

    A depthwise convolution of a few tokens before the mixer, as in Primer (So et al. 2021, arXiv 2109.08668) and
    Mamba (Gu & Dao 2023, arXiv 2312.00752). It is residual and starts at zero, hence as the identity, so that
    switching it on leaves the initial model as it was (ours). The cache holds the last width − 1 tokens of x.

    silu: outputs are SiLU of that.
    """

    def __init__(self, channels: int, width: int, *, silu: bool = False) -> None:
        super().__init__()
        self.width, self.channels, self.silu = width, channels, silu
        self.weight = nn.Parameter(torch.zeros(width, channels))

    def _taps(self) -> Tensor:
        """`[width, channels]`."""
        return self.weight

    def forward(self, x: Tensor, sequence: Sequence) -> Tensor:
        """x `[B, T, D]`."""
        axis = sequence.axis
        before = None if axis is None else tokens_before(x, self.width - 1, axis.ranks)
        return short_convolution(x, self._taps(), sequence.positions, before, silu=self.silu)

    def extend(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Continue a document with x `[B, T, D]`: the outputs and the new cache."""
        # What there was before the document are zeros in its cache.
        positions = torch.full((1, x.shape[1]), self.width, device=x.device)
        y = short_convolution(x, self._taps(), positions, cache, silu=self.silu)
        return y, torch.cat((cache, x), 1)[:, x.shape[1] :]

    def empty_cache(self, batch: int) -> Tensor:
        """`[B, width − 1, D]` of zeros: a document begins with nothing before it."""
        return self.weight.new_zeros(batch, self.width - 1, self.channels)

    def cache_bytes(self) -> int:
        """Bytes of the cache for one sequence of the batch."""
        return (self.width - 1) * self.channels * self.weight.element_size()


class HeadsAndSharedConv(ShortConv):
    """Of channels of this rank's heads, and `shared` ones behind them that serve all heads.

    Every tensor rank has the weights of all channels, heads' first, as one process has them; their gradient is the sum
    of all ranks', of which each gives that of the channels it has.
    """

    def __init__(
        self, channels: int, shared: int, width: int, tensor: TensorAxis | None, *, silu: bool = False
    ) -> None:
        super().__init__(channels * (tensor.size if tensor else 1) + shared, width, silu=silu)
        self.channels, self._shared, self._tensor = channels + shared, shared, tensor

    def numbers_over(self, ranks: int) -> int:
        """Weights of each of so many tensor ranks whose part, built without an axis, this is."""
        return self.width * ((self.channels - self._shared) * ranks + self._shared)

    def _taps(self) -> Tensor:
        if self._tensor is None:
            return self.weight
        whole = copied(self.weight, self._tensor)
        of_heads, shared = whole.split([whole.shape[1] - self._shared, self._shared], 1)
        return torch.cat([of_heads.chunk(self._tensor.size, 1)[self._tensor.rank], shared], 1)
