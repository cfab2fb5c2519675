"""The first-order recurrence with state expansion, by chunks (Mamba-2's duality, arXiv 2405.21060), in four passes.

1. `states.state_pass`: what the tokens of a segment add to the state that leaves it, and the decay of the one entering.
2. `states.fold_pass`: folds these over the segments of a sequence, one after the other: the state at every edge.
3. `outputs.output_pass`: walks the chunks of a segment with the state in registers and writes the outputs.
4. `decays.decay_pass`: the gradient of the log decays, from sums that the output passes leave behind.

The recurrence y_i = Σ_j Γ_ij (q_i·k_j) v_j, with Γ_ij the product of the decays of tokens j+1 … i, is its own transpose
but for the direction of time. So the first three also give the gradients: dq is the recurrence of (dy, v, k), and dk
and dv are recurrences of (v, dy, q) and (k, q, dy) that run backwards (REVERSE).

    launch                     forward, backward and the summaries of sequence shards
    segments                   how sequences are cut
    states, outputs, decays    the kernels, and in `chunks` what they share
"""
