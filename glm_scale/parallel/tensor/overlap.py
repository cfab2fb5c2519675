"""Products of tensor ranks while rows are on their way: torch's compiler cuts them into pieces, of which one is
computed while the next is read from the memory of another rank's GPU (`torch.ops.symm_mem`).

It does so with the exchanges of `exchange` that stand beside a product: what is gathered for it, and the sum over ranks
of what it gives. Pieces are whole rows, whose product is the same; a sum is made at once, in fp32, where NCCL adds rank
by rank.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

import torch
from torch import distributed as dist

from glm_scale.parallel.axis import TensorAxis

__all__ = ["in_pieces", "share_memory"]

_logger = logging.getLogger(__name__)
_LEAST_BYTES = 1 << 20


def in_pieces() -> dict[str, Any]:
    """Options of torch's compiler for ranks that share memory."""
    from glm_scale.parallel.tensor.reshaping import OneReshape

    # Graphs without such products are none that a user has to hear of.
    logging.getLogger("torch._inductor.fx_passes.micro_pipeline_tp").setLevel(logging.ERROR)
    return {"_micro_pipeline_tp": True, "post_grad_custom_pre_pass": OneReshape()}


def share_memory(axis: TensorAxis | None, device: torch.device) -> bool:
    """Let the ranks of `axis` read one another's memory.

    False where they exchange no rows, or cannot: on several hosts, with GPUs that do not reach one another or that are
    shown to one process each. All ranks of the run have the same answer.
    """
    if axis is None or not axis.shards_tokens or device.type != "cuda":
        return False
    shared = torch.tensor(int(_reach_one_another(axis, device) and _can_share(axis)), device=device)
    dist.all_reduce(shared, dist.ReduceOp.MIN)
    if not shared:
        _logger.info("tensor ranks wait for their exchanges: not all of them can read one another's memory")
    return bool(shared)


def _reach_one_another(axis: TensorAxis, device: torch.device) -> bool:
    """The same for all ranks of the axis."""
    own = device.index if device.index is not None else torch.cuda.current_device()
    seen = range(torch.cuda.device_count())
    reached = [other for other in seen if other != own and torch.cuda.can_device_access_peer(own, other)]
    places: list[Any] = [None] * axis.size
    dist.all_gather_object(places, (socket.gethostname(), own, reached), axis.group)
    hosts, devices = {host for host, _, _ in places}, {number for _, number, _ in places}
    if len(hosts) > 1 or len(devices) < axis.size:
        return False
    return all(devices - {number} <= set(reached) for _, number, reached in places)


def _can_share(axis: TensorAxis) -> bool:
    """Whether drivers and containers let them: by trying."""
    from torch.distributed import _symmetric_memory as symmetric_memory

    name: Any = axis.name
    try:
        symmetric_memory.enable_symm_mem_for_group(name)
        symmetric_memory.get_symm_mem_workspace(name, _LEAST_BYTES)
    except RuntimeError as error:
        _logger.info("no memory is shared between tensor ranks: %s", error)
        return False
    return True
