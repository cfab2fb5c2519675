"""Sequences whose tokens are spread over ranks: what each mixer exchanges, how, and what that costs."""
