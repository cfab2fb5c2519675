"""Chunkwise operators in plain torch: any device, any floating dtype, accumulation in at least float32.

recurrence    the structured recurrence and one step of it, by way of `chunkwise` and `sources`
chunkwise     the solution chunk by chunk, forward and backward
sources       which tokens each chunk reads
summaries     the recurrence of a sequence shard
ssm           the first-order recurrence with state expansion, its step and the summaries of its shards
"""
