"""What happens within a step (`train --profile`): torch's trace of a few steps, and one page of what it says."""

from glm_scale.training.profiling.profiler import StepProfiler

__all__ = ["StepProfiler"]
