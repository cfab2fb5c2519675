"""ModelConfig: derived sizes, and refusals that name the value."""

from typing import Any

import pytest
from pydantic import ValidationError

from glm_scale.model import LanguageModel, ModelConfig

SIZES = {"vocab_size": 50, "layers": 3, "width": 64, "heads": 4}


def test_sizes_are_derived_from_the_width():
    config = ModelConfig(**SIZES)
    assert (config.head_size, config.mlp_size) == (16, 192)
    given = ModelConfig(**SIZES, head_dim=20, mlp_width=100)
    assert (given.head_size, given.mlp_size) == (20, 100)


def test_mixers_repeat_through_the_depth_in_canonical_spelling():
    config = ModelConfig(**SIZES, mixers=["lattice: 2^k", "local:8>dense"])
    assert config.mixers == ("lattice:2^k", "local:8 > dense")
    assert [mixer.name for mixer in config.layer_mixers()] == ["lattice:2^k", "local:8 > dense", "lattice:2^k"]
    assert config.mixer_name == "lattice:2^k+local:8 > dense"
    blocks: Any = LanguageModel(config).blocks
    assert [block.mixer.name for block in blocks] == ["lattice:2^k", "local:8 > dense", "lattice:2^k"]


def test_one_mixer_needs_no_list():
    assert ModelConfig(**SIZES, mixers="dense").mixers == ("dense",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 6}, "width 64 does not divide into 6 heads; take 4 heads, a width of 66, or give head_dim"),
        ({"heads": 64}, "width 64 / heads 64 = 1 is odd"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"mixers": []}, "at least 1 item"),
        ({"mixers": ["latice:2^k"]}, "did you mean 'lattice:f'"),
        ({"mixers": ["lattice:2^k", "lattice:k"]}, r"lattice:k.*f\(0\) = 0"),
        ({"layers": 0}, "greater than or equal to 1"),
        ({"conv_width": 1}, "conv_width 1 would read no earlier row"),
        ({"rotary_base": 1.0}, "greater than 1"),
        ({"widht": 3}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig(**(SIZES | change))
