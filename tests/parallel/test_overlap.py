"""When ranks share memory, and graphs in which exchanges stand beside products. What products in pieces give:
test_compiled_parity."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import _symmetric_memory as symmetric_memory
from torch.fx.experimental.proxy_tensor import make_fx

from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.tensor import overlap
from glm_scale.parallel.tensor.reshaping import OneReshape

AXIS = TensorAxis(group=None, rank=0, size=2, name="tensor", shards_tokens=True)


def reshapes(function: Any, x: Tensor) -> int:
    """That are left of a function of x `[2, 3, 4]`, which must give what it gave."""
    traced = make_fx(function)(x)
    OneReshape()(traced.graph)
    traced.recompile()
    assert torch.equal(traced(x), function(x))
    return sum(
        node.target in (torch.ops.aten.view.default, torch.ops.aten.reshape.default) for node in traced.graph.nodes
    )


def test_of_several_reshapes_one_is_left_or_none() -> None:
    x = torch.randn(2, 3, 4)
    assert reshapes(lambda x: x.view(6, 4).view(3, 8).view(4, 6) + 1, x) == 1
    assert reshapes(lambda x: x.view(6, 4).view(2, 3, 4) + 1, x) == 0
    assert reshapes(lambda x: x.view(6, 4).view(6, 4) @ torch.ones(4, 2), x) == 1
    assert reshapes(lambda x: (y := x.view(6, 4)).view(24)[:6] + y.sum(1), x) == 2


@pytest.mark.parametrize(
    ("places", "able"),
    [
        ([("a", 0, [1, 2]), ("a", 1, [0])], True),
        ([("a", 0, [1]), ("b", 1, [0])], False),
        ([("a", 0, [1]), ("a", 1, [])], False),
        ([("a", 0, []), ("a", 0, [])], False),
    ],
    ids=["one host", "two hosts", "one way", "one GPU shown to each"],
)
def test_gpus_of_one_host_that_reach_one_another_share_memory(
    monkeypatch: pytest.MonkeyPatch, places: list[Any], able: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(dist, "all_gather_object", lambda out, own, group: out.__setitem__(slice(None), places))
    assert overlap._reach_one_another(AXIS, torch.device("cuda", 0)) is able


def test_what_drivers_refuse_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("CUDA driver error: operation not permitted")

    monkeypatch.setattr(symmetric_memory, "enable_symm_mem_for_group", refuse)
    assert not overlap._can_share(AXIS)


def test_where_no_rows_are_exchanged_between_gpus_nothing_is_asked() -> None:
    assert not overlap.share_memory(None, torch.device("cuda"))
    assert not overlap.share_memory(AXIS, torch.device("cpu"))
