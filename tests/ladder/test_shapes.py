"""Shapes of models of one size."""

from typing import Any

import pytest
import torch

from glm_scale.errors import UserError
from glm_scale.ladder.shapes import shape_for
from glm_scale.model import LanguageModel, ModelConfig
from glm_scale.scaling.differences import SAME_PARAMETERS

MODEL: dict[str, Any] = {"vocab_size": 4096, "conv_width": 4}
MIXERS = ["attention", "lattice:2^k", "ssm", "mamba2", "local:16 > lattice:2^k"]


def counted(mixer: str, parameters: float, **given: Any) -> int:
    shape = shape_for(parameters, [mixer], MODEL | given)
    sizes = {key.removeprefix("model."): value for key, value in shape.overrides().items()}
    with torch.device("meta"):
        model = LanguageModel(ModelConfig(**MODEL | given | sizes, mixers=(mixer,)))
    found = model.parameter_count(embedding=False)
    assert found == shape.parameters
    return found


@pytest.mark.parametrize("parameters", [1e5, 1e6, 3e7, 1.2e9])
def test_all_mixers_of_a_size_have_as_many_parameters(parameters: float) -> None:
    found = [counted(mixer, parameters) for mixer in MIXERS]
    assert all(abs(count / parameters - 1) <= SAME_PARAMETERS / 2 for count in found)
    assert max(found) / min(found) - 1 <= SAME_PARAMETERS


def test_hybrids_have_as_many_as_their_parts() -> None:
    shape = shape_for(3e6, ["ssm", "lattice:2^k", "attention"], MODEL)
    assert abs(shape.parameters / 3e6 - 1) <= SAME_PARAMETERS / 2


def test_depth_and_width_grow_together_whatever_the_mixer() -> None:
    shapes = [[shape_for(n, [mixer], MODEL) for n in (1e6, 1e7, 1e8, 1e9)] for mixer in MIXERS]
    for of_mixer in shapes:
        sizes = [(shape.layers, shape.width) for shape in of_mixer]
        assert sizes == sorted(sizes)
        assert sizes == [(shape.layers, shape.width) for shape in shapes[0]]
        assert all(32 <= shape.width / shape.layers <= 128 for shape in of_mixer)
        assert all(shape.width % shape.heads == 0 for shape in of_mixer)


def test_what_is_given_stands() -> None:
    shape = shape_for(1e6, ["ssm"], MODEL | {"layers": 5, "heads": 8})
    assert (shape.layers, shape.heads) == (5, 8)
    assert abs(shape.parameters / 1e6 - 1) <= SAME_PARAMETERS / 2
    assert shape_for(1e6, ["ssm"], MODEL | {"head_dim": 64}).heads == 3


def test_an_mlp_that_is_given_is_not_changed_and_the_difference_is_known() -> None:
    given = {"layers": 2, "width": 64, "heads": 2, "mlp_width": 128}
    attention, ssm = (shape_for(1e5, [mixer], MODEL | given) for mixer in ("attention", "ssm"))
    assert attention.mlp_width == ssm.mlp_width == 128
    assert ssm.parameters > attention.parameters * (1 + SAME_PARAMETERS)


def test_a_mixer_that_is_too_large_for_a_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"no MLP gives ssm 1e\+05 parameters with 4 layers of width 256: all but"):
        shape_for(1e5, ["ssm"], MODEL | {"layers": 4, "width": 256})
