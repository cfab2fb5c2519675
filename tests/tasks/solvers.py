"""Answers of the tasks, found from the tokens alone by looking: plain integers, nothing learned."""

from __future__ import annotations

from collections.abc import Callable

Solver = Callable[[list[int], int], int]
"""From the tokens of a sequence and a place in it to the token that follows there."""


def copied(tokens: list[int], place: int) -> int:
    separator = tokens.index(0)
    return tokens[place - separator]


def copied_without_noise(tokens: list[int], place: int) -> int:
    separator = tokens.index(0)
    symbols = [token for token in tokens[:separator] if token != 32]
    return symbols[place - separator]


def recalled(tokens: list[int], place: int) -> int:
    return tokens[tokens.index(tokens[place]) + 1]


def after_hops(hops: int) -> Solver:
    def solve(tokens: list[int], place: int) -> int:
        separator = tokens.index(0)
        node = tokens[place]
        for _ in range(hops):
            (node,) = [tokens[link + 1] for link in range(0, separator, 2) if tokens[link] == node]
        return node

    return solve


SOLVERS: dict[str, Solver] = {
    "copy": copied,
    "copy:5": copied,
    "selective_copy": copied_without_noise,
    "recall": recalled,
    "recall:3": recalled,
    "recall_gaps": recalled,
    "recall_gaps:5": recalled,
    "multihop:1": after_hops(1),
    "multihop:2": after_hops(2),
    "multihop:4": after_hops(4),
    "multihop:12": after_hops(12),
}
