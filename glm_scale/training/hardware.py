"""Peak matrix throughput of known GPUs, the denominator of model FLOPs utilisation (MFU)."""

import torch

__all__ = ["peak_flops", "peaks"]

# FLOP/s of dense matrix products, without sparsity: (bf16 on tensor cores, fp32 without TF32). From NVIDIA's data
# sheets of each product. More specific names come first.
_PEAKS: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250e12, 75e12),
    ("H200", 989e12, 67e12),
    ("H100 PCIe", 756e12, 51e12),
    ("H100 NVL", 835e12, 60e12),
    ("H100", 989e12, 67e12),
    ("A100", 312e12, 19.5e12),
    ("L40S", 362e12, 91.6e12),
    ("L4", 121e12, 30.3e12),
    ("A10G", 70e12, 35e12),
    ("A10", 125e12, 31.2e12),
)


def peaks(product: str) -> tuple[float, float] | None:
    """Peak FLOP/s of a GPU for (bf16, fp32) matrices, by its name in CUDA; None where they are not known."""
    return next(((bf16, fp32) for known, bf16, fp32 in _PEAKS if known in product), None)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Peak FLOP/s of the device for "bf16" or "fp32" matrices; None where it is not known (every CPU)."""
    found = peaks(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if found is None else found[precision != "bf16"]
