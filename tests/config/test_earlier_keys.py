"""Configurations with keys and values of earlier versions mean what they meant."""

import pytest
import yaml

from glm_scale.config import ConfigError, load_config
from glm_scale.config.earlier_keys import rewritten
from glm_scale.config.other_versions import understood
from glm_scale.ladder import read_ladder
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
    rungs = read_ladder(write_config(tmp_path / "old.yaml", tree)).members
    assert [rung.config.model.mixers for rung in rungs] == [("attention",), ("ssm:8", "lattice:2^k")]


def test_a_configuration_without_it_stays_as_it_is(tmp_path):
    tree = tiny_config(tmp_path, tmp_path)
    assert rewritten(tree) is tree
    odd = yaml.safe_load("model: {ssm_state: 4, mixers: 7}")
    assert rewritten(odd) == {"model": {"mixers": 7}}
    assert rewritten({"evaluation": None}) == {"evaluation": None}


@pytest.mark.parametrize(
    ("written", "policy"), [("true", "full"), ("false", "none"), ("none", "none"), ("selective", "selective")]
)
def test_activation_checkpointing_was_all_or_nothing(tmp_path, written, policy):
    tree = tiny_config(tmp_path, tmp_path)
    path = write_config(tmp_path / "some.yaml", tree)
    config = load_config(path, [f"training.activation_checkpointing={written}"])
    assert config.training.activation_checkpointing == policy
    tree["training"]["activation_checkpointing"] = yaml.safe_load(written)
    assert load_config(write_config(path, tree)).training.activation_checkpointing == policy
    with pytest.raises(ConfigError, match="'none', 'selective' or 'full'"):
        load_config(path, ["training.activation_checkpointing=some"])


class TestRowsThatAreSequencesNow:
    @pytest.fixture
    def tree(self, tmp_path):
        return tiny_config(tmp_path, tmp_path) | {"evaluation": {"every": 3, "rows": 4}}

    def test_they_are_as_many(self, tree, tmp_path):
        config = load_config(write_config(tmp_path / "old.yaml", tree))
        assert config.evaluation.sequences == 4
        assert config.model_dump()["evaluation"] == {"every": 3, "sequences": 4, "tasks": None}

    @pytest.mark.parametrize("written", ["rows", "sequences"])
    @pytest.mark.parametrize("override", ["evaluation.{}=7", "evaluation={{{}: 7}}"])
    @pytest.mark.parametrize("said", ["rows", "sequences"])
    def test_an_override_by_either_name_replaces_what_the_file_says(self, tree, tmp_path, written, override, said):
        tree["evaluation"] = {"every": 3, written: 4}
        config = load_config(write_config(tmp_path / "some.yaml", tree), [override.format(said)])
        assert (config.evaluation.every, config.evaluation.sequences) == (3, 7)

    def test_a_wrong_number_is_one_of_the_present_key(self, tree, tmp_path):
        path = write_config(tmp_path / "old.yaml", tree)
        for value in ("-1", "true"):
            with pytest.raises(ConfigError, match=r"evaluation\.sequences = \S+  \(from the command line\)"):
                load_config(path, [f"evaluation.rows={value}"])

    def test_both_names_in_one_file_are_refused(self, tree, tmp_path):
        tree["evaluation"]["sequences"] = 8
        with pytest.raises(ConfigError, match=r"evaluation\.rows = 4\n.*is not a known key"):
            load_config(write_config(tmp_path / "both.yaml", tree))

    def test_those_of_a_ladder_too(self, tree, tmp_path):
        tree["ladder"] = {"mixers": ["attention"], "sizes": [{"evaluation.rows": 5}, {"evaluation.sequences": 6}]}
        rungs = read_ladder(write_config(tmp_path / "old.yaml", tree)).members
        assert [rung.config.evaluation.sequences for rung in rungs] == [5, 6]

    def test_what_a_run_or_a_checkpoint_holds_is_understood(self, tree, tmp_path):
        config, remarks = understood(tree, tmp_path / "config.yaml", "")
        assert (config.evaluation.sequences, remarks) == (4, ())
        tree["evaluation"] = {"rows": -1}
        config, (remark,) = understood(tree, tmp_path / "config.yaml", "")
        assert config.evaluation.sequences is None
        assert "evaluation.sequences = -1" in remark
