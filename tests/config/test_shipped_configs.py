"""The configurations in configs/ load, build, and are of the size their names claim."""

from pathlib import Path

import pytest
import torch

from glm_kernels import parse_pattern
from glm_scale.config import RunConfig, load_config
from glm_scale.ladder import read_ladder
from glm_scale.model import LanguageModel

CONFIGS = Path(__file__).parents[2] / "configs"
CLAIMED = {"160m": 160e6, "410m": 410e6, "1.3b": 1.3e9, "7b": 7e9}
MIXERS = ("attention", "lattice:2^k", "ssm")


def parameters(config: RunConfig) -> int:
    with torch.device("meta"):
        return LanguageModel(config.model).parameter_count()


def test_every_config_is_known_here() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {"quickstart", "ladder", "transfer", "text", *CLAIMED}


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("name", CLAIMED)
def test_a_pretraining_config_has_the_size_of_its_name(name: str, mixer: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml", [f"model.mixers=[{mixer}]"])
    assert parameters(config) == pytest.approx(CLAIMED[name], rel=0.1)
    assert config.training.tokens == pytest.approx(20 * parameters(config), rel=0.1)
    assert config.training.precision == "bf16"


def test_the_ladder_has_as_many_parameters_for_every_mixer() -> None:
    ladder = read_ladder(CONFIGS / "ladder.yaml")
    assert {member.config.model.mixers for member in ladder.members} == {(mixer,) for mixer in MIXERS}
    for size in ladder.config.sizes:
        alike = [member for member in ladder.members if member.parameters == size.parameters]
        counts = {member.shape.parameters for member in alike if member.shape}
        assert max(counts) / min(counts) <= 1.01
    for member in ladder.members:
        with torch.device("meta"):
            assert LanguageModel(member.config.model).parameter_count(embedding=False) == (
                member.shape and member.shape.parameters
            )


def test_the_grid_of_rates_is_the_same_at_every_width_and_asked_of_the_base() -> None:
    members = read_ladder(CONFIGS / "transfer.yaml").members
    assert len(members) == len({member.name for member in members}) == 4 * 3 * 6
    grids: dict[int, set[float]] = {}
    for member in members:
        model, training = member.config.model, member.config.training
        grids.setdefault(model.width, set()).add(training.optimizer.learning_rate)
        assert (model.parametrization, model.base_width, training.steps) == ("mup", 128, 1000)
        assert model.head_size == 32
    assert len(grids[128]) == 6
    assert grids[128] == grids[256] == grids[512]
    standard = ["name=untransferred", "model.parametrization=standard", "model.base_width=null"]
    assert len(read_ladder(CONFIGS / "transfer.yaml", standard).members) == len(members)


def test_the_ladder_on_text_carries_the_rate_of_its_smallest_size_to_all() -> None:
    ladder = read_ladder(CONFIGS / "text.yaml")
    smallest = min(ladder.members, key=lambda member: member.parameters or 0).config.model
    assert (smallest.base_width, smallest.base_layers) == (smallest.width, smallest.layers)
    rates = [member.config.training.optimizer.learning_rate for member in ladder.members]
    assert rates == pytest.approx([rates[0]] * len(rates))
    everywhere, two_sizes = 5 * 3 * (2 + 2 + 1 + 1), 3 * 3 * (2 + 1)
    assert len(ladder.members) == everywhere + two_sizes
    # The window holds as many rows as the lattice that it stands beside.
    assert parse_pattern("window:12").slot_count(2048) == parse_pattern("lattice:2^k").slot_count(2048)


def test_the_quickstart_keeps_its_promises() -> None:
    rungs = read_ladder(CONFIGS / "quickstart.yaml").members
    assert [rung.config.model.mixers for rung in rungs] == [(mixer,) for mixer in MIXERS for _ in range(2)]
    tokens = [rung.config.training.tokens for rung in rungs]
    assert tokens == tokens[:2] * len(MIXERS)
    assert tokens[0] >= 1_000_000
    assert tokens[1] >= 500_000
    for rung in rungs:
        assert rung.config.data.sequence_length >= 512
        assert parameters(rung.config) >= 1_000_000
