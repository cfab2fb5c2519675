"""LanguageModel: tokens to logits or to a loss, and the same model token by token with caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glm_kernels import Packing
from glm_scale.layers.activation_checkpointing import ActivationCheckpointing, policies_from
from glm_scale.layers.embedding import token_embedding
from glm_scale.layers.norm import RMSNorm
from glm_scale.layers.projection import projection_flops
from glm_scale.layers.rotary import Rotary, Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import as_projected, lay_together
from glm_scale.model.block import Block, BlockCache
from glm_scale.model.config import ModelConfig
from glm_scale.model.head import LanguageModelHead, Reduction
from glm_scale.model.init import Undrawn, initialize
from glm_scale.model.parametrization import Scaling, base_of, scalings
from glm_scale.parallel.axis import SequenceAxis, TensorAxis
from glm_scale.parallel.tensor.splitting import entering

ModelCache = list[BlockCache]
"""What decoding carries from token to token: the cache of every block."""


class LanguageModel(nn.Module):
    """A pre-norm stack of token mixers and gated MLPs, with weights drawn from `seed`.

    `activation_checkpointing`: what of the blocks the backward pass computes again. It changes no number, so the
    trainer sets it and the configuration of the model does not know it.
    `sequence_axis`: over which ranks the tokens of every sequence are spread, likewise. Then tokens, document starts
    and labels are those of this rank's tokens, starts counted in whole sequences, and the loss is this rank's part of
    the sum.
    `tensor`: the ranks over which the weights are split. The parts are those of the weights that one device would have.
    """

    def __init__(self, config: ModelConfig, seed: int = 0, tensor: TensorAxis | None = None) -> None:
        super().__init__()
        self.config = config
        self.sequence_axis: SequenceAxis | None = None
        self.rotary = Rotary(config.head_size, config.rotary_base)
        self.tensor = tensor
        with Undrawn() as undrawn:
            self.embedding = token_embedding(config.vocab_size, config.width, tensor)
            self.blocks = nn.ModuleList(Block(config, mixer, tensor) for mixer in config.layer_mixers())
            self.norm = RMSNorm(config.width, config.norm_eps, tensor=tensor)
            self.head = LanguageModelHead(config.width, config.vocab_size, tensor)
        undrawn.draw_others(self)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        self.activation_checkpointing = "none"
        self.scalings = self._scalings()
        initialize(self, config, self.scalings, seed=seed, tensor=tensor)

    def _scalings(self) -> dict[str, Scaling]:
        """By which initial weights and learning rates of parameters differ from those of the base."""
        if self.config.parametrization == "standard":
            return {}
        with torch.device("meta"):
            base = LanguageModel(base_of(self.config))
        return scalings(self, base, self.config, self.tensor)

    @property
    def activation_checkpointing(self) -> ActivationCheckpointing:
        """What of the blocks the backward pass computes again, in training."""
        return self._activation_checkpointing

    @activation_checkpointing.setter
    def activation_checkpointing(self, policy: ActivationCheckpointing) -> None:
        self._activation_checkpointing: ActivationCheckpointing = policies_from(policy)[0]
        for block in self._blocks():
            block.recomputes_mlp = policy == "selective"

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def forward(
        self,
        tokens: Tensor,
        document_starts: Tensor | None = None,
        labels: Tensor | None = None,
        packing: Packing | None = None,
        all_document_starts: Tensor | None = None,
        reduction: Reduction = "sum",
    ) -> Tensor:
        """Logits `[B, T, vocab]` of the next token at every position, or with labels their summed loss.

        `tokens`: int64 `[B, T]`. `document_starts`: int32 `[B, T]`, where in its sequence each token's document
        starts; None if every sequence is one document. `labels`: int64 `[B, T]`, −100 where nothing is predicted; then
        the result is the sum, not the mean, of the token losses in nats, an fp32 scalar, or with the `reduction` "none"
        the losses themselves, fp32 `[B, T]`, without a gradient, with "scored" `head.token_scores`, fp32 `[2, B, T]`.
        `packing`: of the same documents; attention on a GPU
        is faster if it knows it. With a `sequence_axis` it is that of whole sequences, as `all_document_starts` are,
        for which ranks need not ask one another then.
        """
        length, axis = tokens.shape[1], self.sequence_axis
        sequence = Sequence.of(length, self.rotary, tokens.device, document_starts, axis, packing, all_document_starts)
        x = self.embedding(tokens)
        for block in self.blocks:
            if self.activation_checkpointing == "full" and self.training:
                # Nothing in a block draws random numbers, so there is no state of theirs to keep.
                x = checkpoint(block, x, sequence, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, sequence)
        return self.head(entering(self.norm(x), self.tensor), labels, reduction)

    def compile_blocks(
        self, backend: str | Callable[..., Any] = "inductor", options: dict[str, Any] | None = None
    ) -> None:
        """Have torch compile the blocks when they are first called, one by one: the graphs of one serve all layers of
        its kind, and compiling takes seconds instead of minutes. options: of the backend.
        """
        import torch._dynamo

        # Kinds of layers share their code; it is compiled for each with and without gradients, and for the last, fewer
        # sequences of an evaluation. What comes after the limit would not be compiled at all.
        kinds = len(set(self.config.layer_mixers()))
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * kinds)
        for block in self.blocks:
            block.compile(backend=backend, dynamic=False, options=options)

    def prefill(self, tokens: Tensor, caches: ModelCache, *, last_only: bool = False) -> tuple[Tensor, ModelCache]:
        """Logits of T more tokens `[B, T]` of the documents in `caches`, one for each sequence, and the caches after
        them.

        The logits are `[B, T, vocab]`, or `[B, 1, vocab]` of the last token with `last_only`. The caches given are
        used up.
        """
        if tokens.shape[1] == 1:
            return self.step(tokens, caches)
        x = self.embedding(tokens)
        after = []
        for block, cache in zip(self._blocks(), caches, strict=True):
            x, cache = block.extend(x, cache)
            after.append(cache)
        return self.head(self.norm(x[:, -1:] if last_only else x)), after

    def step(self, tokens: Tensor, caches: ModelCache, rotation: Rotation | None = None) -> tuple[Tensor, ModelCache]:
        """Logits `[B, 1, vocab]` after one more token `[B, 1]` of each document, and the caches after it.

        rotation: of the tokens' positions; without it every layer that rotates computes it.
        """
        x = self.embedding(tokens)
        after = []
        for block, cache in zip(self._blocks(), caches, strict=True):
            x, cache = block.step(x, cache, rotation)
            after.append(cache)
        return as_projected(self.head, self.norm, x), after

    def lay_out_for_steps(self) -> None:
        """Move weights that `step` reads at once behind one another in memory, which makes it fast; no number changes,
        and the parameters stay what they are."""
        for block in self._blocks():
            for projections in block.read_together():
                lay_together(projections)

    def empty_caches(self, batch: int = 1, length: int | None = None) -> ModelCache:
        """The caches before the first token of `batch` documents, on the device and in the dtype of the weights.

        length: no document will come to more tokens, so that decoding neither moves a cache nor waits for a GPU.
        """
        return [block.empty_cache(batch, length) for block in self._blocks()]

    def parameter_count(self, embedding: bool = True) -> int:
        """Numbers learned; without `embedding` the embedding and the head, tied or not, are left out."""
        tables = {self.embedding.weight, self.head.weight}
        return sum(p.numel() for p in self.parameters() if embedding or p not in tables)

    def flops_per_token(self, length: int) -> float:
        """Forward FLOPs of one token, the mean over a document of `length` tokens; training takes three times that.

        Matrix multiplications at two FLOPs per multiply–add, the head's among them, the embedding's look-up not;
        mixers as `Mixer.flops_per_token` says. What activation checkpointing computes again is not counted.
        """
        return projection_flops(self.head) + sum(block.flops_per_token(length) for block in self._blocks())

    def cache_bytes(self, length: int) -> int:
        """Bytes that the caches of one document need after `length` tokens; what is allocated may be more."""
        return sum(block.cache_bytes(length) for block in self._blocks())

    def cache_rows(self, length: int) -> dict[str, int | None]:
        """Rows that a layer remembers of one document after `length` tokens, by mixer; None: a state of one size."""
        return {block.mixer.name: block.mixer.cache_rows(length) for block in self._blocks()}
