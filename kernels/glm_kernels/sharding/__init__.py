"""Operators whose sequence is cut into shards, one a rank: what a rank computes before and after it hears of others.

    recurrence    a recurrence with lifetimes, from the cut to the gradients
    ssm           the first-order SSM

A shard is summed up as plain data, an affine map of what enters it, which ranks exchange by whatever means they have.
Nothing here communicates. Imports `dispatch` for kernels; kernels know of shards what `kernel_interface` says.
"""
