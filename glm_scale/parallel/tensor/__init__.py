"""Weights that are split over ranks, head by head, on megatron-core's layers."""
