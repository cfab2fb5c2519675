"""Settings of all tests."""

import os

import torch
from hypothesis import settings

# On a busy machine the time of a single example says nothing.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

if not torch.cuda.is_available():
    # Without a GPU Triton's kernels run in its interpreter. It reads this when a kernel is defined.
    os.environ["TRITON_INTERPRET"] = "1"
