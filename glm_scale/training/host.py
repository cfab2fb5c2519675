"""Numbers and tensors between host and device, without one waiting for the other."""

import torch
from torch import Tensor

__all__ = ["HostRead", "on_device"]


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device; from page-locked memory, where the copy waits for nothing before it."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class HostRead:
    """A number of the device that the host asks for now and reads later, as a float.

    Reading waits for what the device had to do when it was asked, not for what it was given since.
    """

    def __init__(self, number: Tensor) -> None:
        self._number = number
        self._done: torch.cuda.Event | None = None
        if number.is_cuda:
            self._number = torch.empty((), dtype=number.dtype, pin_memory=True)
            self._number.copy_(number.reshape(()), non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()

    def __float__(self) -> float:
        if self._done is not None:
            self._done.synchronize()
        return float(self._number)
