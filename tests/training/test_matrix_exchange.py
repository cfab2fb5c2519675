"""Whole matrices out of runs: who works on which, and that every number comes and goes where it belongs."""

from math import prod
from unittest import mock

import pytest
import torch
from torch import distributed as dist

from glm_scale.checkpoint.pieces import Box
from glm_scale.training import matrix_exchange
from glm_scale.training.matrix_exchange import Exchange, Held, planned

SHAPES = {"a": (4, 6), "b": (6, 2), "c": (3, 5), "d": (2, 2)}


def whole(name):
    return Box((0,) * 2, SHAPES[name])


def run(name, start, count, part=None):
    return Held(name, SHAPES[name], part or whole(name), start, count)


def complete(name):
    return run(name, 0, prod(SHAPES[name]))


FLAT = [[complete("a"), run("b", 0, 5)], [run("b", 5, 7), run("c", 0, 8)], [run("c", 8, 7), complete("d")], []]
"""As ZeRO-1 and 2 cut a group: one buffer in equal parts, the last of which is padding."""
COLUMNS = [
    [run("a", 0, 12, Box((0, 0), (4, 3))), complete("c")],
    [run("a", 0, 12, Box((0, 3), (4, 3))), complete("c")],
]
"""Tensor ranks: columns of one matrix, and all of another."""


def cut(parts, tensor):
    """Every matrix in rows over `tensor` ranks, and of that equal runs over `parts` replicas, as ZeRO-3 cuts it."""
    ranks: list[list[Held]] = [[] for _ in range(parts * tensor)]
    for name, (rows, columns) in SHAPES.items():
        split = tensor if rows % tensor == 0 else 1
        for replica in range(parts):
            for rank in range(tensor):
                part = Box((rank * rows // split if split > 1 else 0, 0), (rows // split, columns))
                each = -(-part.numel // parts)
                count = min(each, part.numel - replica * each)
                if count > 0:
                    ranks[replica * tensor + rank].append(run(name, replica * each, count, part))
    return ranks


CASES = {
    "flat": FLAT,
    "columns": COLUMNS,
    "each in four": cut(4, 1),
    "tensor 2, each in two": cut(2, 2),
    "tensor 2, whole": cut(1, 2),
    "alone": [[complete(name) for name in SHAPES]],
}


def exchanged(held, together):
    """What this rank gets of matrices that all know by their numbers, negated and with the name's letter added."""
    with mock.patch.object(matrix_exchange, "_TOGETHER", together):
        return _exchanged(held)


def _exchanged(held):
    group = dist.group.WORLD if dist.get_world_size() > 1 else None
    exchange = Exchange(group, torch.float64, torch.device("cpu"))
    mine = held[dist.get_rank()]
    numbers = {name: torch.arange(prod(shape), dtype=torch.float64).view(shape) for name, shape in SHAPES.items()}
    worked, results = [], dict[str, torch.Tensor]()

    def work(matrices):
        worked.append([tuple(matrix.shape) for matrix in matrices])
        return [-matrix for matrix in matrices]

    runs = {run.name: taken(numbers[run.name], run) for run in mine}
    for bucket in exchange.plan(mine):
        results |= exchange.worked(bucket, {name: runs[name] for name in runs if name in names(bucket)}, work)
    return (
        worked,
        {run.name: torch.equal(results.pop(run.name), -taken(numbers[run.name], run)) for run in mine},
        results,
    )


def names(bucket):
    return {matrix.name for matrix in bucket.matrices}


def taken(matrix, held):
    (row, column), (rows, columns) = held.part.offsets, held.part.sizes
    part = matrix[row : row + rows, column : column + columns].flatten()
    return part[held.start : held.start + held.count]


@pytest.mark.parametrize("together", [1, 2**26])
@pytest.mark.parametrize("case", CASES)
def test_every_rank_gets_its_runs_of_what_was_made_of_whole_matrices(processes, case, together):
    held = CASES[case]
    for worked, right, left in processes.run(len(held), exchanged, held, together):
        assert all(right.values())
        assert not left
        assert all(shape in SHAPES.values() for shapes in worked for shape in shapes)


def workers(held):
    return {matrix.name: matrix.workers for bucket in planned(held) for matrix in bucket.matrices}


def test_who_has_all_of_a_matrix_works_on_it_and_others_share():
    assert workers(FLAT) == {"a": (0,), "b": (1,), "c": (2,), "d": (2,)}
    assert workers(COLUMNS) == {"a": (0,), "c": (0, 1)}
    assert sorted(worker for (worker,) in workers(cut(4, 1)).values()) == [0, 1, 2, 3]


def test_nothing_is_sent_twice_and_nothing_that_is_there():
    for held in CASES.values():
        for bucket in planned(held):
            for matrix in bucket.matrices:
                own = sum(run.count for rank, run in matrix.sources()) if len(matrix.workers) == 1 else None
                assert own in (None, prod(matrix.shape))
            routes = list(bucket.to_workers())
            assert len(set(routes)) == len(routes)
            alone = {name for name, ranks in workers(held).items() if len(ranks) > 1}
            assert all(source == target for source, target, run in routes if run.name in alone)
