"""One token of decoding: states are read and written in place, and weights as fast as memory gives them.

launch        steps of the recurrence, of attention and of the SSM: how their kernels are launched
kernels       kernels
projections   products of a token with weights: how their kernel is launched
matvec        kernel
overlap       launches that begin while the kernel before them ends
"""
