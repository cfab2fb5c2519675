"""megatron-core: imported when weights are split and not before, and made to work where there is no GPU."""

from __future__ import annotations

from typing import Any

import torch

from glm_scale.parallel.axis import TensorAxis


def answer_cpu_without_cuda() -> None:
    """The one thing about megatron-core 0.16 that needs a GPU where none is: it asks for the *current CUDA device* to
    put results on, which raises without one. On such hosts (laptops, tests) the answer is now "cpu"."""
    if not torch.cuda.is_available():
        torch.cuda.current_device = _cpu  # type: ignore[assignment]


def layer_config(axis: TensorAxis, sequence_parallel: bool) -> Any:
    """A `ModelParallelConfig`: weights in fp32 on the CPU, without values, which `model.init` draws."""
    from megatron.core import ModelParallelConfig

    return ModelParallelConfig(
        use_cpu_initialization=True,
        perform_initialization=False,
        tensor_model_parallel_size=axis.size,
        sequence_parallel=sequence_parallel,
        gradient_accumulation_fusion=False,
    )


def no_values(weight: torch.Tensor) -> None:
    """In place of an initialisation."""


def _cpu() -> torch.device:
    return torch.device("cpu")
