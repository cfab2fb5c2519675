"""Spreading work over ranks: what ranks exchange, and operators whose sequence is cut into shards."""
