"""Lifetime patterns with few live tokens, such as `lattice:2^k`: segments of a sequence, worked on in parallel.

A segment's outputs are an affine map of the outputs in the slots it begins with. Only the fold of these maps, over few
slots, is sequential.

    launch       the family: what it serves and keeps, forward and backward; how a call is cut
    passes       the launches one by one, and how they are configured
    forward      kernels: segments, the fold of their maps, outputs
    backward     kernels: the transposed system, and the gradients
    maps         how both store the maps of a segment
    summaries    the same maps as the summary of a sequence shard
"""
