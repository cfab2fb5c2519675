"""Chunkwise operators in plain torch: any device, any floating dtype, accumulation in at least float32."""
