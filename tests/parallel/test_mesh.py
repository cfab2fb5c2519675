"""Layouts, and the groups that real processes form for them."""

import pytest
from torch import distributed as dist

from glm_scale.errors import UserError
from glm_scale.parallel.mesh import Layout, Mesh


def groups(tensor, sequence):
    """Global ranks of this process's groups, and its numbers in them."""
    mesh = Mesh(Layout.of(dist.get_world_size(), tensor=tensor, sequence=sequence))
    try:
        ranks = [
            dist.get_process_group_ranks(group)
            for group in (mesh.tensor_group, mesh.sequence_group, mesh.replica_group)
        ]
        unit = mesh.mpu()
        numbers = {
            "data": mesh.data_rank, "sequence": mesh.sequence_rank, "tensor": mesh.tensor_rank,
            "replica": unit.get_data_parallel_rank(), "replicas": unit.get_data_parallel_world_size(),
            "model": unit.get_model_parallel_rank(), "models": unit.get_tensor_model_parallel_world_size(),
        }  # fmt: skip
    finally:
        mesh.close()
    return ranks, numbers


@pytest.mark.parametrize(("tensor", "sequence"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4)])
def test_groups_are_those_of_the_layout(processes, tensor, sequence):
    data = 4 // (tensor * sequence)
    for rank, (ranks, numbers) in enumerate(processes.run(4, groups, tensor, sequence)):
        t, s, d = rank % tensor, rank // tensor % sequence, rank // (tensor * sequence)

        def at(d, s, t):
            return (d * sequence + s) * tensor + t

        assert ranks == [
            [at(d, s, other) for other in range(tensor)],
            [at(d, other, t) for other in range(sequence)],
            [at(e, other, t) for e in range(data) for other in range(sequence)],
        ]
        assert numbers == {
            "data": d, "sequence": s, "tensor": t, "model": t, "models": tensor,
            "replica": d * sequence + s, "replicas": data * sequence,
        }  # fmt: skip


def test_processes_that_do_not_come_out_even_are_refused():
    assert Layout.of(24, tensor=2, sequence=4) == Layout(tensor=2, sequence=4, data=3)
    message = r"6 processes cannot be laid out in groups of tensor 2 × sequence 2 \(.*\) = 4; .* can are 4 or 8"
    with pytest.raises(UserError, match=message):
        Layout.of(6, tensor=2, sequence=2)
    with pytest.raises(UserError, match=r"can are 4$"):
        Layout.of(1, tensor=4)
