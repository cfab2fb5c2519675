from pathlib import Path
from typing import Any

import pytest
import yaml

from glm_scale.config import ConfigError, check_environment, load_config, resolved_yaml
from tests.tiny_run import tiny_config, write_config


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_config(tmp_path / "run.yaml", tiny_config(tmp_path / "data", tmp_path))


def problems(path: Path, *overrides: str) -> dict[str, str]:
    """Key → message of every problem."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_defaults_are_filled_in_and_the_result_reads_back(path: Path) -> None:
    config = load_config(path)
    assert config.training.optimizer.betas == (0.9, 0.95)
    assert config.accumulation() == 2
    path.write_text(resolved_yaml(config))
    assert load_config(path) == config


def test_overrides_replace_values_and_lists_and_merge_groups(path: Path) -> None:
    config = load_config(
        path, ["training.seed=7", "model.mixers=[ssm]", "data.sources[0].path=x", "training.optimizer={clip: 2}"]
    )
    assert config.training.seed == 7
    assert config.model.mixers == ("ssm",)
    assert config.data.sources[0].path == Path("x")
    assert (config.training.optimizer.clip, config.training.optimizer.learning_rate) == (2, 0.01)


def test_values_may_refer_to_one_another(path: Path) -> None:
    config = load_config(path, ["training.schedule.warmup_tokens=${training.batch_tokens}"])
    assert config.training.schedule.warmup_tokens == config.training.batch_tokens


def test_all_problems_are_told_at_once_with_the_nearest_key(path: Path) -> None:
    found = problems(path, "training.lr=1", "modle.width=3", "training.tokens=many", "data.sequence_lenght=3")
    assert set(found) == {"training.lr", "modle", "training.tokens", "data.sequence_lenght"}
    assert "did you mean training.optimizer.learning_rate?" in found["training.lr"]
    assert "did you mean model?" in found["modle"]
    assert "did you mean data.sequence_length?" in found["data.sequence_lenght"]
    assert found["training.tokens"] == "must be an integer"


def test_a_key_is_found_in_the_group_where_it_belongs(path: Path) -> None:
    assert "did you mean training.micro_batch?" in problems(path, "micro_batch=3")["micro_batch"]


def test_the_message_names_file_key_value_origin_and_choices(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["training.device=gpu"])
    message = str(caught.value)
    assert str(path) in message
    assert "training.device = 'gpu'  (from the command line)" in message
    assert "must be 'auto', 'cpu' or 'cuda'" in message


def test_a_value_from_the_file_is_not_blamed_on_the_command_line(path: Path) -> None:
    tree = yaml.safe_load(path.read_text())
    tree["training"]["device"] = "gpu"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["training.seed=1"])
    assert "command line" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "key", "part"),
    [
        (["training.precision=bf16", "training.zero_stage=0"], "training", "zero_stage: 1"),
        (["training.micro_batch=3"], "", "nearest: 96"),
        (["training.schedule={kind: cosine, decay_tokens: 5}"], "training.schedule", "belongs to kind: wsd"),
        (["training.compile=maybe"], "training.compile", "'auto'"),
        (["training.schedule.warmup_tokens=100000"], "training", "warmup and decay take 100000 tokens"),
        (["training.batch_tokens=8192"], "training", "exceeds the budget"),
        (["training.tokens=true"], "training.tokens", "must be an integer"),
        (["training.optimizer.learning_rate=false"], "training.optimizer.learning_rate", "must be a number"),
        (["training.optimizer.betas=[0.9, 2]"], "training.optimizer", "below 1"),
        (["training=3"], "training", "must be a group of keys"),
        (["data.sources=3"], "data.sources", "must be a list"),
        (["data.sources=[{}]"], "data.sources[0].path", "is missing"),
        (["model.mixers=[lattic:2^k]"], "model.mixers", "did you mean"),
        (["name=a/b"], "name", "names a directory"),
        (["data.sequence_length=${model.foo}"], "data.sequence_length", "model.foo"),
        (["training.seed"], "", "key=value"),
        (["model.layers=[1"], "", "cannot be applied"),
        (["data.sources[3].path=x"], "", "cannot be applied"),
    ],
)
def test_impossible_values_say_what_is_possible(path: Path, overrides: list[str], key: str, part: str) -> None:
    found = problems(path, *overrides)
    assert part in found[key]


@pytest.mark.parametrize(
    ("text", "part"),
    [("a: [1\nb: 2", "line 2"), ("a: 1\na: 2", "duplicate key a"), ("- 1", "groups of keys"), ("a: \x00", "YAML")],
)
def test_a_broken_file_is_one_message(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=part):
        load_config(path)


def test_a_missing_file_lists_its_neighbours(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; there are .*run\.yaml"):
        load_config(path.with_name("nun.yaml"))


def test_missing_data_and_an_unusable_run_root_are_told_together(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = load_config(path, [f"run_root={tmp_path}/file/runs"])
    with pytest.raises(ConfigError) as caught:
        check_environment(config, str(path))
    found: dict[str, Any] = {problem.path: problem.message for problem in caught.value.problems}
    assert set(found) == {"data.sources[0].path", "run_root"}
    assert "glm-scale data build" in found["data.sources[0].path"]
    assert "is a file" in found["run_root"]
