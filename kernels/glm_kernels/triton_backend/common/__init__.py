"""What the families share.

numerics     products and storage that lose less than 16 bits would: parts, units, residuals; the inverse of I − P
softmax      the joint softmax by binary logarithms
constants    what a kernel is compiled for, as one of its arguments
tiles        tiles of tokens and of slots: where they stand, and how they are loaded
chain        how the programs of a launch wait for one another
tables       which token stands in which slot when a chunk begins, built by `table_pass`
late_keys    key gradients that tokens receive from later pieces of their sequence
"""
