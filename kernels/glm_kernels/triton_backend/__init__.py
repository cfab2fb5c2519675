"""The kernels in Triton: one folder for each algorithm.

    pattern                                            family       files
    `lattice:2^k`, `lattice:3^k`, windows up to 4      segmented    segmented/{launch, forward, backward}.py
    `lattice:k^2+1`, windows from 5 on                 chained      chained/{launch, forward, adjoint, gradient}.py
    `dense`, `offsets:f`                               all_rows     all_rows/{launch, forward, backward}.py
    none: `glm_kernels.ssm`                            ssm          ssm/
    any, one token of decoding                         decode       decode/

`families` makes the choice, by how many tokens are live and how far they are apart. Each family's `launch` has the same
few functions, those of `kernel_interface.RecurrenceFamily`: why it does not serve a call, what it keeps for the
backward pass, forward and backward. What they share is in `common`, which imports none of them.
"""
