"""What a piece of work belongs to, by the name of its kernel."""

from __future__ import annotations

import re

__all__ = ["COMMUNICATION", "component"]

COMMUNICATION = "communication"

# The first that fits counts. Names are those of NCCL, cuDNN, cuBLAS, torch, its compiler, and glm_kernels.
_RULES: tuple[tuple[str, str], ...] = (
    (COMMUNICATION, r"nccl|gloo|c10d::"),
    ("copies", r"^mem(cpy|set)|^aten::(copy_|zero_|fill_|_to_copy)$"),
    ("token mixing", r"_pass$|^chained_|^glm_kernels::"),
    ("attention", r"flash|fmha|sdpa|flex|attention"),
    ("matrix products", r"gemm|gemv|nvjet|cutlass|xmma|splitk|^aten::(mm|addmm|bmm|_grouped_mm)$"),
    ("optimizer", r"adam|multi_tensor|foreach|l2norm|lpnorm"),
    ("compiled", r"^triton_"),
    ("loss", r"softmax|nll_loss|cross_entropy|index|gather|scatter"),
)
_OTHER = "other"


def component(name: str) -> str:
    """The component of a kernel, or of an operator of the CPU."""
    return next((found for found, rule in _RULES if re.search(rule, name, re.IGNORECASE)), _OTHER)
