"""GPUs as their data sheets describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from glm_scale.training.hardware import peaks

__all__ = ["GPU", "GPUS", "NODE"]

NODE = 8
"""GPUs of one machine."""


@dataclass(frozen=True)
class GPU:
    """Bytes, bytes per second and seconds, of one GPU. Links count one direction, which is what a rank sends.

    product: its name in `training.hardware`. inside: to GPUs of the same machine; outside: its share of the network.
    latencies: of one step of a collective.
    """

    product: str
    memory: float
    memory_bandwidth: float
    inside: float
    outside: float
    inside_latency: float = 5e-6
    outside_latency: float = 15e-6

    def peak_flops(self, precision: str) -> float:
        """FLOP/s of dense matrices in "bf16" or "fp32"."""
        found = peaks(self.product)
        assert found is not None
        return found[precision != "bf16"]


GPUS: Mapping[str, GPU] = MappingProxyType(
    {
        # NVIDIA DGX B200 data sheet: 1,440 GB and 64 TB/s of 8 GPUs, NVLink 5 1.8 TB/s both ways, 400 Gb/s each.
        "b200": GPU("B200", 180e9, 8.0e12, 900e9, 50e9),
        # NVIDIA H200 data sheet (SXM): 141 GB, 4.8 TB/s, NVLink 4 900 GB/s both ways; DGX H200: 400 Gb/s each.
        "h200": GPU("H200", 141e9, 4.8e12, 450e9, 50e9),
        # NVIDIA H100 data sheet (SXM): 80 GB, 3.35 TB/s, NVLink 4 900 GB/s both ways; DGX H100: 400 Gb/s each.
        "h100": GPU("H100", 80e9, 3.35e12, 450e9, 50e9),
        # NVIDIA A100 80GB data sheet (SXM): 2,039 GB/s, NVLink 3 600 GB/s both ways; DGX A100: 200 Gb/s each.
        "a100": GPU("A100", 80e9, 2.039e12, 300e9, 25e9),
        # NVIDIA L40S data sheet: 48 GB, 864 GB/s, PCIe 4 64 GB/s both ways; two share a network card of 200 Gb/s.
        "l40s": GPU("L40S", 48e9, 0.864e12, 32e9, 12.5e9),
    }
)
"""By the name that `--gpu` takes. The latencies are assumptions, common for NCCL over NVLink and InfiniBand."""
