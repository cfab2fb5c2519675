"""The table of token embeddings."""

from __future__ import annotations

from typing import cast

from torch import nn

from glm_scale.parallel.axis import TensorAxis


def is_token_embedding(module: nn.Module) -> bool:
    """Whether a module is a table of tokens, whole or split."""
    return hasattr(module, "num_embeddings")


def token_embedding(vocabulary: int, width: int, tensor: TensorAxis | None = None) -> nn.Embedding:
    """`[B, T]` tokens to `[B, T, width]`; over tensor ranks each has an equal part of the table."""
    if tensor is None:
        return nn.Embedding(vocabulary, width)
    from glm_scale.parallel.tensor.layers import TokenEmbedding

    return cast(nn.Embedding, TokenEmbedding(vocabulary, width, tensor))
