"""What the device could do at best."""

import torch

from glm_scale.training.hardware import peak_flops


def test_the_peak_of_a_cpu_is_not_known() -> None:
    assert peak_flops(torch.device("cpu"), "fp32") is None
