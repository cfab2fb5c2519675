"""What finished runs say of their mixers, where the law behind them is known."""

import json
import math

import numpy as np
import pytest

from glm_scale.ladder import Ladder, read_ladder
from glm_scale.ladder.answer import Trained, answer, trained
from glm_scale.scaling.laws import Multiplier, Refusal
from tests.ladder.test_members import sized_file

WORTH = 1.4
"""Of a parameter of the second mixer, in parameters of the first."""


def loss(mixer: str, parameters: float, tokens: float) -> float:
    size = parameters * (WORTH if mixer == "lattice:2^k" else 1.0)
    return 1.8 + 400 / size**0.35 + 900 / tokens**0.4


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    folder = tmp_path_factory.mktemp("ladder")
    path = sized_file(
        folder, folder / "data", mixers=["attention", "lattice:2^k"], sizes=[1e6, 3e6, 1e7, 3e7],
        tokens_per_parameter=[5, 20, 80], seeds=[0, 1],
    )  # fmt: skip
    return read_ladder(path, ["training.batch_tokens=65536"])


def runs(ladder: Ladder, noise: float = 0.0005) -> list[Trained]:
    random, found = np.random.default_rng(3), []
    for member in ladder.members:
        assert member.shape is not None
        parameters, tokens, mixer = (
            member.shape.parameters,
            member.config.training.tokens,
            member.config.model.mixers[0],
        )
        measured = loss(mixer, parameters, tokens) * math.exp(noise * random.standard_normal())
        per_token = parameters * (8.0 if mixer == "attention" else 6.0)
        cache = 1000 * parameters if mixer == "attention" else parameters
        found.append(
            Trained(member, parameters, tokens, measured, per_token * tokens, per_token * tokens / 1e12, cache)
        )
    return found


def by_unit(ladder: Ladder) -> dict[str, Multiplier]:
    found = answer(runs(ladder), "attention").multipliers
    return {result.unit: result for result in found if isinstance(result, Multiplier)}


def test_multipliers_are_those_of_the_law_behind_the_losses(ladder: Ladder) -> None:
    """With C = κ N D, a mixer whose parameters are worth 1.4 needs 1/1.4 of κ N D, here with κ of 6 instead of 8."""
    found = by_unit(ladder)
    assert set(found) == {"FLOPs", "seconds of training", "cache"}
    expected = 6 / 8 / WORTH
    for unit in ("FLOPs", "seconds of training"):
        assert found[unit].resolved
        assert found[unit].ratio.includes(expected)
        assert found[unit].ratio.value == pytest.approx(expected, rel=0.02)
    assert found["cache"].ratio.value == pytest.approx(1 / 1000 / WORTH, rel=0.1)


def test_it_is_said_in_sentences_and_as_values(ladder: Ladder) -> None:
    found = answer(runs(ladder), "attention")
    assert any("lattice:2^k needs 0." in sentence and "attention's FLOPs" in sentence for sentence in found.sentences)
    values = json.loads(json.dumps(found.values()))
    assert len(values["points"]) == len(ladder.members)
    assert set(values["laws"]) == {"attention", "lattice:2^k"}


def test_one_ratio_of_tokens_to_parameters_is_refused_with_the_reason(ladder: Ladder) -> None:
    one = [run for run in runs(ladder) if run.member.budget and run.member.budget.ratio == 20]
    found = answer(one, "attention")
    assert isinstance(found.law, Refusal)
    (sentence,) = found.sentences
    assert sentence.startswith("no law: ")
    assert found.values()["laws"] == {}


def test_runs_that_have_not_finished_are_no_points(ladder: Ladder) -> None:
    assert trained(ladder) == []
