"""The first-order SSM of a sequence shard: what it does to the state that enters it, forward and backward.

A shard of rows maps the state h that enters it to decay · h + added, and the gradient g of the state that leaves it to
decay · g + added', so that ranks can link their shards by exchanging these alone:

    forward    h of a shard from the (decay, added) of those before it, by `summary`; then `outputs`
    backward   g of a shard from the (decay, added') of those after it, by `adjoint_summary`; then `gradients`

q, k `[B, L, H, K]`, v and grad `[B, L, H, V]`, log_decay `[B, L, H]` as in `glm_kernels.ssm`; states `[B, H, K, V]` and
decays `[B, H]` in float32 (float64 in float64 work).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from glm_kernels.dispatch import ssm_kernel
from glm_kernels.kernel_interface import SSMCall


@dataclass(frozen=True)
class SSMShard:
    """One shard's operands. `opens` bool `[B]`: whether the document of its first row begins with that row, so that it
    takes nothing over. `starts` int32 `[B, L]`: where documents start, counted from the shard's first row (0 for those
    from before), or None."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    scale: float
    starts: Tensor | None
    opens: Tensor

    def summary(self) -> tuple[Tensor, Tensor]:
        """(decay, added) of states that enter."""
        kernel = ssm_kernel(self._call(None), "auto")
        decay, added = kernel.summary(self.k, self.v, self.log_decay, self.starts)
        return decay.masked_fill(self.opens[:, None], 0), added

    def outputs(self, state: Tensor) -> Tensor:
        """y `[B, L, H, V]` for the state that enters."""
        call = self._call(state)
        return ssm_kernel(call, "auto").forward(call)[0]

    def adjoint_summary(self, grad: Tensor) -> Tensor:
        """added' of gradients of the state that leaves; their decay is that of `summary`."""
        kernel = ssm_kernel(self._call(None), "auto")
        _, added = kernel.adjoint_summary(self.q, grad.contiguous(), self.log_decay, self.scale, self.starts)
        return added.masked_fill(self.opens[:, None, None, None], 0)

    def gradients(self, state: Tensor, grad: Tensor, left_grad: Tensor) -> list[Tensor]:
        """Gradients of q, k, v and log_decay, from those of y and of the state that leaves."""
        call = replace(self._call(state), output_final_state=True)
        return ssm_kernel(call, "auto").backward(call, grad.contiguous(), left_grad)[:4]

    def _call(self, state: Tensor | None) -> SSMCall:
        if state is not None:
            state = state.masked_fill(self.opens[:, None, None, None], 0)
        return SSMCall(self.q, self.k, self.v, self.log_decay, self.scale, None, self.starts, state, False)


def ssm_shard_of(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    scale: float,
    first_row: int,
    document_starts: Tensor | None = None,
) -> SSMShard:
    """The shard whose first row is `first_row` of all.

    document_starts: int `[B, L]`, counted from the first of all rows, so that a document may start on an earlier shard.
    """
    q, k, v, log_decay = (x.contiguous() for x in (q, k, v, log_decay))
    if document_starts is None:
        return SSMShard(q, k, v, log_decay, scale, None, q.new_full((len(q),), first_row == 0).bool())
    local = (document_starts - first_row).clamp(min=0).int().contiguous()
    return SSMShard(q, k, v, log_decay, scale, local, document_starts[:, 0] >= first_row)
