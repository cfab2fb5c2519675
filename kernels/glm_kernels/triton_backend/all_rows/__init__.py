"""Patterns that keep every token live: `dense` and `offsets:f`. Chains of programs that read all earlier tokens.

Nearby tokens are read tile by tile as attention does; those at far offsets one by one.

    launch           the family: what it serves and keeps, forward and backward
    passes           the launches one by one
    configuration    of the kernels, and tables of the distances that they read over
    rows             initial states and packed documents as tokens like others
    forward          kernel: the chain from the first chunk to the last
    backward         kernels: the chain of the transposed system, and the gradients
    tiles            which chunk a program works on, its tiles and masks
"""
