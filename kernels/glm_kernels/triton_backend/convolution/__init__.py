"""The short convolution along tokens in Triton."""
