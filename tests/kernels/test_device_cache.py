"""What follows from shapes alone is made once, wherever it is asked for first."""

import pytest
import torch

from glm_kernels.device_cache import kept_on_device

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def counted(most):
    calls = []

    @kept_on_device(most)
    def numbers(length, device):
        calls.append(length)
        return torch.arange(length, device=device)

    return numbers, calls


def test_results_are_remembered_up_to_the_given_number():
    numbers, calls = counted(2)
    first = numbers(3, DEVICE)
    assert numbers(3, DEVICE) is first
    for length in (4, 5, 5, 3):
        assert torch.equal(numbers(length, DEVICE).cpu(), torch.arange(length))
    assert calls == [3, 4, 5, 3]


def test_what_inference_made_first_serves_training():
    numbers, _ = counted(2)
    with torch.inference_mode():
        numbers(3, DEVICE)
    assert not numbers(3, DEVICE).is_inference()


def test_what_fails_is_not_remembered():
    asked = []

    @kept_on_device(2)
    def fragile(device):
        asked.append(device)
        if len(asked) == 1:
            raise ValueError("not yet")
        return torch.ones(1, device=device)

    with pytest.raises(ValueError, match="not yet"):
        fragile(DEVICE)
    assert fragile(DEVICE).item() == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_a_graph_captures_is_its_own():
    """Nothing that stands in a graph's memory is remembered; what is known already serves the graph."""
    numbers, calls = counted(2)
    known = numbers(3, DEVICE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total = numbers(3, DEVICE).sum() + numbers(4, DEVICE).sum()
    graph.replay()
    assert total.item() == 9
    assert numbers(3, DEVICE) is known
    numbers(4, DEVICE)
    assert calls == [3, 4, 4]
