"""Configurations with `model.ssm_state`, as earlier versions wrote them, mean what they meant."""

import yaml

from glm_scale.config import load_config
from glm_scale.config.earlier_keys import rewritten
from glm_scale.run.ladder import plan
from tests.tiny_run import tiny_config, write_config


def test_the_state_goes_to_the_mixers_that_have_one(tmp_path):
    tree = tiny_config(tmp_path, tmp_path)
    tree["model"] |= {"ssm_state": 32, "mixers": ["ssm", "local:4 > ssm", "lattice:2^k", "mamba2", "ssm:16"]}
    config = load_config(write_config(tmp_path / "old.yaml", tree))
    assert config.model.mixers == ("ssm:32", "local:4 > ssm:32", "lattice:2^k", "mamba2:32", "ssm:16")
    assert "ssm_state" not in config.model_dump()["model"]
    overridden = load_config(tmp_path / "old.yaml", ["model.ssm_state=64", "model.mixers=ssm"])
    assert overridden.model.mixers == ("ssm",)


def test_the_mixers_of_a_ladder_too(tmp_path):
    tree = tiny_config(tmp_path, tmp_path)
    tree["model"]["ssm_state"] = 8
    tree["ladder"] = {"mixers": ["attention", ["ssm", "lattice:2^k"]]}
    rungs = plan(write_config(tmp_path / "old.yaml", tree))
    assert [rung.config.model.mixers for rung in rungs] == [("attention",), ("ssm:8", "lattice:2^k")]


def test_a_configuration_without_it_stays_as_it_is(tmp_path):
    tree = tiny_config(tmp_path, tmp_path)
    assert rewritten(tree) is tree
    odd = yaml.safe_load("model: {ssm_state: 4, mixers: 7}")
    assert rewritten(odd) == {"model": {"mixers": 7}}
