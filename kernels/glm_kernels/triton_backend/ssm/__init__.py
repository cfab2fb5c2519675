"""The first-order recurrence with state expansion (`glm_kernels.ssm`).

launch       forward, backward and the summaries of sequence shards
outputs      kernels
"""
