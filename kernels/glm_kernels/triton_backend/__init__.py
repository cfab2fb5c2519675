"""Fused operators in Triton. Importing this package touches no device."""
