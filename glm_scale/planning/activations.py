"""What autograd keeps of one micro-batch for the backward pass.

Blocks are measured, not modelled: each runs once on tensors without values, and what its operations save is added up;
of compiled ones the compiler says what they keep (`tracing`). So a new mixer needs no entry here, and operators keep
what they announce (`glm_kernels.library`). Around the blocks everything is known: what `layers.norm`,
`layers.embedding` and `model.head` keep.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import rms_norm
from torch.overrides import TorchFunctionMode

from glm_scale.layers.activation_checkpointing import ActivationCheckpointing
from glm_scale.layers.norm import RMSNorm
from glm_scale.layers.rotary import Rotary
from glm_scale.layers.sequence import Sequence
from glm_scale.model.block import Block
from glm_scale.model.head import CHUNK_LOGITS_ON_GPU
from glm_scale.planning.again import whole_blocks
from glm_scale.planning.parts import Part
from glm_scale.planning.tracing import Traced, trace_block

__all__ = ["Activations"]


@dataclass(frozen=True)
class Activations:
    """Bytes on one rank, of `batch` sequences of `length` tokens, of which the tensor ranks have all or, with
    `shards_tokens`, a part.

    device: "cuda", or "cpu", where norms keep more. compiled: block by block. Approximations: windowed attention is
    measured as on a CPU, where it keeps keys and values twice; residuals of Triton's kernels are left out, at most a
    byte for each value; sequences are one document each.
    """

    part: Part
    batch: int
    length: int
    dtype: torch.dtype
    shards_tokens: bool
    device: str = "cuda"
    compiled: bool = False

    def kept(self, policy: ActivationCheckpointing) -> int:
        """At the end of the forward pass."""
        of_block = self.of_block(policy)
        return self.around_blocks + sum(of_block[name] for name in self.part.layers)

    def of_block(self, policy: ActivationCheckpointing) -> Mapping[str, int]:
        """By mixer, with the block's input."""
        if whole_blocks(policy):
            return dict.fromkeys(self.part.blocks, self.of_block_input)
        if self.compiled:
            return {name: traced.kept for name, traced in self.traced(policy).items()}
        return self._of_part_of_block if policy == "selective" else self._of_whole_block

    @cached_property
    def _of_whole_block(self) -> dict[str, int]:
        return self._of_blocks(2 * self._of_norm, recomputes_mlp=False)

    @cached_property
    def _of_part_of_block(self) -> dict[str, int]:
        # The second norm keeps nothing, but what it reads stays.
        return self._of_blocks(self._of_norm + self._tokens * self._of_token, recomputes_mlp=True)

    def _of_blocks(self, outside: int, *, recomputes_mlp: bool) -> dict[str, int]:
        """outside: what of it tensor ranks have parts of, if they share tokens."""
        measured = {name: self._measured(block, recomputes_mlp) for name, block in self.part.blocks.items()}
        return {name: size - outside + outside // self._outer for name, size in measured.items()}

    def traced(self, policy: ActivationCheckpointing) -> Mapping[str, Traced]:
        """By mixer, as a compiler sees its block, or as it runs without one; what of it is computed again stands in the
        backward pass, unless all of it is."""
        return self._traced_again if policy == "selective" else self._traced

    @cached_property
    def _traced(self) -> dict[str, Traced]:
        return self._trace(recomputes_mlp=False)

    @cached_property
    def _traced_again(self) -> dict[str, Traced]:
        return self._trace(recomputes_mlp=True)

    def _trace(self, *, recomputes_mlp: bool) -> dict[str, Traced]:
        config = self.part.config
        return {
            name: trace_block(block, self.batch, self.length, self.dtype, config, self.compiled, recomputes_mlp)
            for name, block in self.part.blocks.items()
        }

    @property
    def of_moment(self) -> int:
        """On a GPU: the largest tensors that come and go while all others wait: logits and their gradients, or those of
        the hidden units of an MLP."""
        if self.device == "cpu":
            return 0
        logits = min(CHUNK_LOGITS_ON_GPU, self._tokens * self.part.config.vocab_size)
        return 2 * self.dtype.itemsize * max(logits, self._tokens * self.part.config.mlp_size)

    @property
    def of_block_input(self) -> int:
        """All that is kept of a block that is computed again."""
        return self._tokens * self._of_token // self._outer

    def recomputed(self, policy: ActivationCheckpointing) -> int:
        """Of the one block that is computed again at a time, beside what is kept of it."""
        whole, kept = self.of_block("none"), self.of_block(policy)
        return max(whole[name] - kept[name] for name in whole)

    @property
    def around_blocks(self) -> int:
        """Tokens and labels, angles, the last norm, and the gradients of the head, which the forward pass makes."""
        angles = self._tokens * self.part.config.head_size * 4
        last_norm = self._of_norm // self._outer
        of_head = self._tokens * self._of_token + self.of_head_weight
        return self._tokens * 8 * 2 + angles + last_norm + of_head

    @property
    def of_head_weight(self) -> int:
        """Its gradient in fp32, the one thing that does not grow with the tokens."""
        return 4 * self.part.config.vocab_size * self.part.config.width

    @cached_property
    def _of_norm(self) -> int:
        """Of a norm between layers: all tokens."""
        with torch.device("meta"):
            norm = RMSNorm(self.part.config.width, self.part.config.norm_eps)
        return self._measured(norm)

    @property
    def _tokens(self) -> int:
        return self.batch * self.length

    @property
    def _of_token(self) -> int:
        return self.part.config.width * self.dtype.itemsize

    @property
    def _outer(self) -> int:
        """Parts into which tokens are split between layers."""
        return self.part.ranks if self.shards_tokens else 1

    def _measured(self, module: nn.Module, recomputes_mlp: bool = False) -> int:
        """Of a block or a norm, whose input is all tokens."""
        module, config = copy.deepcopy(module), self.part.config
        if isinstance(module, Block):
            module.recomputes_mlp = recomputes_mlp
        with FakeTensorMode():
            for owner in module.modules():
                for name, parameter in owner.named_parameters(recurse=False):
                    owner.register_parameter(name, nn.Parameter(torch.empty(parameter.shape, dtype=self.dtype)))
            x = torch.empty(self.batch, self.length, config.width, dtype=self.dtype, requires_grad=True)
            positions = torch.zeros(self.batch, self.length, dtype=torch.int64)
            rotation = Rotary(config.head_size, config.rotary_base)(positions)
            operands = (x, Sequence(None, positions, rotation)) if isinstance(module, Block) else (x,)
            with _NormsOfGPU() if self.device == "cuda" else nullcontext():
                return _saved(lambda: module(*operands), [*module.parameters(), *rotation])


class _NormsOfGPU(TorchFunctionMode):
    """RMSNorm by the one kernel that GPUs have for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return _NormOfGPU.apply(args[0]) if func is rms_norm else func(*args, **kwargs)


class _NormOfGPU(torch.autograd.Function):
    """Keeps its input, and a number for every token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)


def _saved(work: Callable[[], Tensor], others: Iterable[Tensor]) -> int:
    """Bytes of the storages that autograd keeps while `work` runs, those of `others` not among them."""
    known = {x.untyped_storage()._cdata for x in others}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in known:
            # Held, so that no other takes its place.
            kept[storage._cdata] = storage
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        work()
    return sum(storage.nbytes() for storage in kept.values())
