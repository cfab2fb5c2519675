"""Layers of which each tensor rank has a part: megatron-core's, with the shapes of this project.

Import this module only where weights are split: megatron-core takes a while to load.
"""

from __future__ import annotations

from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from torch import Tensor
from torch.nn import functional as F

from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.tensor.megatron import answer_cpu_without_cuda, layer_config, no_values
from glm_scale.parallel.tensor.splitting import mark_split, summed

answer_cpu_without_cuda()


class ColumnProjection(ColumnParallelLinear):
    """y = W x, of which each rank has `outputs` outputs.

    Its input has passed `tensor.entering`, once for all projections that read it; so it sums no gradients itself.
    """

    residual = False

    def __init__(self, inputs: int, outputs: int, bias: bool, axis: TensorAxis) -> None:
        super().__init__(
            inputs, outputs * axis.size, bias=bias, config=layer_config(axis, False), init_method=no_values,
            disable_grad_reduce=True, tp_group=axis.group,
        )  # fmt: skip
        self.in_features, self.out_features = inputs, outputs
        mark_split(self.weight, axis, 0)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class RowProjection(RowParallelLinear):
    """y = W x, of which each rank has `inputs` inputs: the sum over ranks, of all tokens or of this rank's."""

    residual = True

    def __init__(self, inputs: int, outputs: int, axis: TensorAxis) -> None:
        super().__init__(
            inputs * axis.size, outputs, bias=False, config=layer_config(axis, axis.shards_tokens),
            init_method=no_values, input_is_parallel=True, skip_bias_add=False, tp_group=axis.group,
        )  # fmt: skip
        self.in_features, self.out_features = inputs, outputs
        self._axis = axis
        mark_split(self.weight, axis, 1)

    def forward(self, x: Tensor) -> Tensor:
        return summed(F.linear(x, self.weight), self._axis)


class TokenEmbedding(VocabParallelEmbedding):
    """Rows of the table `[vocab, width]` for tokens `[B, T]`, of which each rank has an equal part of the vocabulary.

    All tokens of the result, or with `TensorAxis.shards_tokens` this rank's.
    """

    def __init__(self, vocabulary: int, width: int, axis: TensorAxis) -> None:
        super().__init__(
            vocabulary, width, init_method=no_values, config=layer_config(axis, axis.shards_tokens),
            reduce_scatter_embeddings=axis.shards_tokens, tp_group=axis.group,
        )  # fmt: skip
        self._shards_tokens = axis.shards_tokens
        mark_split(self.weight, axis, 0)

    def forward(self, tokens: Tensor) -> Tensor:
        if not self._shards_tokens:
            return super().forward(tokens)
        # megatron-core would give each rank a part of every sequence.
        return super().forward(tokens.view(1, -1)).view(len(tokens), -1, self.embedding_dim)
