"""A token on its way through a block: at once what modules compute one by one."""

import pytest
import torch
import torch.nn.functional as F

from glm_scale.layers.fused import in_one_kernel
from glm_scale.layers.mlp import GatedMLP
from glm_scale.layers.norm import RMSNorm
from glm_scale.layers.projection import Projection, ResidualProjection
from glm_scale.layers.token import Token, added, as_projected, lay_together, through_mlp
from tests.tolerances import assert_close, rounding

SAME = rounding(torch.float32, 4 * 32)


def projections():
    made = [Projection(16, 5, bias=True), Projection(16, 8), Projection(16, 3)]
    torch.nn.init.normal_(made[0].bias)
    return made


def scaled_norm():
    norm = RMSNorm(16, 1e-5)
    torch.nn.init.normal_(norm.weight)
    return norm


@pytest.mark.parametrize("norm", [None, scaled_norm()])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("documents", [1, 3])
@torch.no_grad()
def test_projections_of_a_token_are_those_of_its_norm(norm, together, documents):
    made, other = projections(), Projection(16, 4)
    if together:
        lay_together(made)
    token = Token(torch.randn(documents, 1, 16), norm)
    project = token.projected(made)
    for projection in [*made, other]:
        assert_close(project(projection), projection(token.normed()), SAME)


@torch.no_grad()
def test_weights_that_lie_together_still_learn_and_load():
    made = projections()
    states = [{name: value.clone() for name, value in projection.state_dict().items()} for projection in made]
    lay_together(made)
    for projection, state in zip(made, states, strict=True):
        assert all(torch.equal(projection.state_dict()[name], value) for name, value in state.items())
        projection.load_state_dict({name: value + 1 for name, value in state.items()})
        assert torch.equal(projection.weight, state["weight"] + 1)
    with torch.enable_grad():
        made[1](torch.ones(1, 16)).sum().backward()
    assert torch.equal(made[1].weight.grad, torch.ones(8, 16))


@pytest.mark.parametrize("documents", [1, 3])
@torch.no_grad()
def test_sums_mlps_and_heads_of_a_token(documents):
    x, stream, norm = torch.randn(documents, 1, 8), torch.randn(documents, 1, 16), scaled_norm()
    onto, mlp, head = ResidualProjection(8, 16), GatedMLP(16, 32), Projection(16, 20)
    assert_close(added(stream, onto, x), stream + onto(x), SAME)
    assert_close(through_mlp(stream, norm, mlp), stream + mlp(norm(stream)), SAME)
    assert_close(as_projected(head, norm, stream), head(norm(stream)), SAME)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="only on a GPU it is compiled")
@torch.inference_mode()
def test_small_work_in_one_kernel_is_the_work():
    x, y = torch.randn(2, 3, 1, 40, device="cuda")
    assert_close(in_one_kernel(_work, x, y), _work(x, y), SAME)


def _work(x, y):
    return F.silu(x + y) * y
