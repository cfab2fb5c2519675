"""The cache of GLM-scale models for `transformers`. Exported models carry it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from .configuration_glm_scale import GlmScaleConfig
from .mixing_glm_scale import Rows


class GlmScaleCacheLayer(CacheLayerMixin):
    """What a layer remembers of the tokens before: for each stage of its mixer the rows that later tokens may read, or
    the state of a state-space model; and the last inputs of the convolution."""

    is_compileable = False
    is_sliding = False

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.memory: list[Any] = [None] * stages
        self.conv: Tensor | None = None
        self.columns = 0

    @property
    def rows(self) -> int:
        """Rows that it holds, the most of any sequence; none for a state-space model."""
        return sum(stage.at.shape[1] for stage in self.memory if isinstance(stage, Rows))

    def select(self, sequences: Tensor) -> None:
        """Go on with these sequences of the batch, int64 `[B']`."""
        self.memory = [
            Rows(*(x[sequences.to(x.device)] for x in stage)) if isinstance(stage, Rows)
            else None if stage is None else stage[sequences.to(stage.device)]
            for stage in self.memory
        ]  # fmt: skip
        if self.conv is not None:
            self.conv = self.conv[sequences.to(self.conv.device)]

    def reset(self) -> None:
        """Forget everything."""
        self.memory, self.conv, self.columns = [None] * len(self.memory), None, 0

    def get_seq_length(self, cache_position: object = None) -> int:
        """Columns of the batch that were read, padding among them."""
        return self.columns

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Length and offset of an attention mask over all columns."""
        return self.columns + int(getattr(query_length, "shape", [query_length])[0]), 0

    def get_max_length(self) -> int:
        """−1: there is no longest text."""
        return -1

    get_max_cache_shape = get_max_length

    def lazy_initialization(self, *tensors: Tensor) -> None:
        """Nothing is allocated before it is known."""

    def update(self, *tensors: Any, **others: Any) -> tuple[Tensor, Tensor]:
        """For models whose layers give keys and values alone. Always raises RuntimeError: mixers remember more, and
        write it themselves."""
        raise RuntimeError("a GLM-scale cache takes no keys and values: the model's layers write into it themselves")


class GlmScaleCache(Cache):
    """What the layers remember; the model makes it. Text that was read cannot be taken back: rows are forgotten."""

    def __init__(self, config: GlmScaleConfig) -> None:
        layers = config.num_hidden_layers
        stages = [config.mixers[layer % len(config.mixers)].count(">") + 1 for layer in range(layers)]
        super().__init__(layers=[GlmScaleCacheLayer(count) for count in stages])
        self.seen: Tensor | None = None
        """int64 `[B]`: tokens of each sequence, without padding."""

    def _layers(self) -> Iterator[GlmScaleCacheLayer]:
        for layer in self.layers:
            assert isinstance(layer, GlmScaleCacheLayer)
            yield layer

    @property
    def rows(self) -> list[int]:
        """Rows that each layer holds."""
        return [layer.rows for layer in self._layers()]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these sequences of the batch."""
        for layer in self._layers():
            layer.select(indices)
        if self.seen is not None:
            self.seen = self.seen[indices.to(self.seen.device)]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """As beam search asks for it."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every sequence so many times."""
        if self.seen is not None:
            self.batch_select_indices(torch.arange(len(self.seen)).repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.seen = None
