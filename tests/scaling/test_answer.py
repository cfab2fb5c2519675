"""What finished runs say of their mixers, where the law behind them is known."""

import json
from dataclasses import replace

import pytest

from glm_scale.errors import UserError
from glm_scale.scaling.answer import answer, reference_of
from glm_scale.scaling.endpoints import Endpoint, best_rates, endpoints_of
from glm_scale.scaling.laws import Bootstrap, Multiplier, Refusal
from tests.scaling.planted import FLOPS, WORTH, ladder, ladder_runs, said, trained_run


def test_multipliers_are_those_of_the_law_behind_the_losses() -> None:
    """With C = κ N D, a mixer whose parameters are worth 1.4 needs 1/1.4 of κ N D, here with κ of 6 instead of 8."""
    found = {each.unit: each for each in said(ladder()).multipliers if isinstance(each, Multiplier)}
    assert set(found) == {"FLOPs", "seconds of training", "cache", "FLOPs per decoded token"}
    worth = WORTH["lattice:2^k"]
    expected = FLOPS["lattice:2^k"] / FLOPS["attention"] / worth
    for unit in ("FLOPs", "seconds of training"):
        assert found[unit].resolved
        assert found[unit].ratio.includes(expected)
        assert found[unit].ratio.value == pytest.approx(expected, rel=0.02)
    assert found["cache"].ratio.value == pytest.approx(1 / 1000 / worth, rel=0.1)
    assert found["FLOPs per decoded token"].ratio.value == pytest.approx(expected, rel=0.1)


def test_it_is_said_in_sentences_and_as_values() -> None:
    found = said(ladder())
    assert any("lattice:2^k needs 0." in sentence and "attention's FLOPs" in sentence for sentence in found.sentences)
    values = json.loads(json.dumps(found.values()))
    assert len(values["points"]) == len(ladder_runs())
    assert set(values["laws"]) == {"attention", "lattice:2^k"}
    assert values["refusal"] is None
    assert values["multipliers"][0]["unit"] == "FLOPs"


def test_one_ratio_of_tokens_to_parameters_is_refused_with_the_reason() -> None:
    found = said(ladder(20))
    assert isinstance(found.law, Refusal)
    assert found.sentences == (f"no law: {found.law.reason}",)
    assert found.values()["laws"] == {}
    assert found.values()["refusal"] == found.law.reason


def test_a_cost_that_is_not_known_of_all_runs_is_not_compared() -> None:
    ends = endpoints_of(ladder_runs())
    found = answer([replace(end, cache=None if end.seed else end.cache) for end in ends], "attention")
    assert "cache" not in {each.unit for each in found.multipliers if isinstance(each, Multiplier)}


def test_runs_that_do_not_say_their_flops_have_a_law_and_no_multiplier() -> None:
    found = answer([replace(end, flops=0.0) for end in endpoints_of(ladder_runs())], "attention")
    assert isinstance(found.law, Bootstrap)
    assert all(isinstance(each, Refusal) for each in found.multipliers)


def test_of_runs_that_differ_in_the_learning_rate_alone_the_best_counts() -> None:
    runs = [trained_run("ssm", loss, name=f"r{loss}") for loss in (3.1, 2.9, 3.0)]
    (best,) = best_rates(endpoints_of(runs))
    assert best.run == "r2.9"
    other_seed = trained_run("ssm", 3.3, name="s", seed=1)
    assert [end.run for end in best_rates(endpoints_of([*runs, other_seed]))] == ["r2.9", "s"]


def test_what_has_not_finished_is_no_point() -> None:
    assert Endpoint.of(trained_run("ssm", 3.0, status="failed")) is None


def test_a_branch_shares_its_trunk_and_a_token_is_decoded_at_a_third_of_its_training() -> None:
    run = trained_run("attention", 3.0, parameters=10**6, seed=7)
    branch = Endpoint.of(replace(run, config={**run.config, "branch": {"run": "trunk", "step": 3}}))
    assert branch is not None
    assert (branch.point.run, branch.point.seed, branch.decode_flops) == ("trunk", 7, 8e6 / 3)


def test_the_reference_is_attention_unless_another_is_asked_for() -> None:
    assert reference_of(["ssm", "attention"]) == "attention"
    assert reference_of(["ssm", "dense"]) == "ssm"
    assert reference_of(["ssm", "attention"], "ssm") == "ssm"
    with pytest.raises(UserError, match="--reference 'gla' has no finished run; there are ssm, attention"):
        reference_of(["ssm", "attention"], "gla")
