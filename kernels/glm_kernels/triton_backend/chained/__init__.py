"""Lifetime patterns with many live tokens, such as `lattice:k^2+1` and wide windows: chains of programs.

A program works on a chunk, reads the older live tokens tile by tile from their slots, and hands its outputs on to the
program of the next chunk.

    launch       the family: what it serves and keeps, forward and backward, and its configuration
    forward      kernel: the chain from the first chunk to the last
    adjoint      kernel: the chain of the transposed system, from the last chunk to the first
    gradient     kernels: the gradients, once every adjoint is known
    tiles        tiles of slots
"""
