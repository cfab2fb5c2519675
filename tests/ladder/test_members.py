"""Which runs a ladder makes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from glm_scale.config import ConfigError, RunConfig, resolved_yaml, validate
from glm_scale.ladder import Member, read_ladder
from glm_scale.ladder.hyperparameters import learning_rate
from tests.tiny_run import tiny_config, write_config

SIZES = [{"model.layers": 1}, {"model.layers": 2, "model.width": 32}]


def ladder_file(folder: Path, data: Path, **ladder: Any) -> Path:
    tree = tiny_config(data, folder)
    return write_config(folder / "ladder.yaml", {**tree, "ladder": {"sample_tokens": 5, **ladder}})


def test_trains_every_mixer_at_every_size(tmp_path: Path) -> None:
    mixers = ["attention", ["ssm", "lattice:2^k"], "local:8 > window:4"]
    rungs = read_ladder(
        ladder_file(tmp_path, tmp_path / "data", mixers=mixers, sizes=SIZES), ["training.seed=3"]
    ).members
    assert [rung.config.name for rung in rungs] == [
        "tiny-attention-layers1",
        "tiny-ssm-plus-lattice-2-pow-k-layers1",
        "tiny-local-8-then-window-4-layers1",
        "tiny-attention-layers2-width32",
        "tiny-ssm-plus-lattice-2-pow-k-layers2-width32",
        "tiny-local-8-then-window-4-layers2-width32",
    ]
    assert [(rung.config.model.layers, rung.config.model.width) for rung in rungs] == [(1, 16)] * 3 + [(2, 32)] * 3
    assert rungs[1].config.model.mixers == ("ssm", "lattice:2^k")
    assert {rung.config.training.seed for rung in rungs} == {3}


def test_one_size_needs_no_size_in_the_name(tmp_path: Path) -> None:
    (rung,) = read_ladder(ladder_file(tmp_path, tmp_path / "data", mixers=["ssm"])).members
    assert rung.config.name == "tiny-ssm"


def test_a_wrong_size_is_told_before_anything_starts(tmp_path: Path) -> None:
    path = ladder_file(tmp_path, tmp_path / "data", mixers=["ssm"], sizes=[{"model.layer": 3}])
    with pytest.raises(ConfigError, match=r"did you mean model\.layers"):
        read_ladder(path)


@pytest.mark.parametrize(
    ("ladder", "part"), [({"mixers": ["ssm", "ssm"]}, "two runs named tiny-ssm"), ({"mixers": []}, "at least 1 item")]
)
def test_a_ladder_without_sense_is_refused(tmp_path: Path, ladder: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        read_ladder(ladder_file(tmp_path, tmp_path / "data", **ladder))


def test_a_file_without_ladder_is_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path / "run.yaml", tiny_config(tmp_path / "data", tmp_path))
    with pytest.raises(ConfigError, match="list the mixers"):
        read_ladder(path)


def sized_file(folder: Path, data: Path, **ladder: Any) -> Path:
    """What a ladder by parameters needs to say of its runs: nothing that follows from sizes and budgets."""
    tree = tiny_config(data, folder)
    tree["model"] = {"vocab_size": tree["model"]["vocab_size"]}
    tree["training"] = {"device": "cpu"}
    tree["checkpoint"] = {"every": None}
    return write_config(folder / "sized.yaml", {**tree, "ladder": ladder})


def test_a_size_in_parameters_needs_nothing_else(tmp_path: Path) -> None:
    ladder: dict[str, Any] = {
        "mixers": ["attention", "ssm"],
        "sizes": [3e4, 1e5],
        "tokens_per_parameter": [8, 20],
        "seeds": [0, 7],
    }
    found = read_ladder(sized_file(tmp_path, tmp_path / "data", **ladder)).members
    assert len(found) == 2 * 2 * 2 * 2
    assert [member.name for member in found[:4]] == [
        "tiny-0000.03M-attention-020.0t-s0",
        "tiny-0000.03M-attention-008.0t-s0",
        "tiny-0000.03M-attention-020.0t-s7",
        "tiny-0000.03M-attention-008.0t-s7",
    ]
    sizes = [member.parameters for member in sorted(found, key=lambda member: member.name)]
    assert sizes == sorted(sizes, key=lambda size: size or 0), "names sort by size"
    assert {(member.parameters, member.config.tracking.tags["size"]) for member in found} == {
        (3e4, "0000.03M"),
        (1e5, "0000.10M"),
    }
    for trunk, branch in zip(found[::2], found[1::2], strict=True):
        assert branch.trunk == trunk.name
        assert branch.config.branch is not None
        assert trunk.config.checkpoint.at == (branch.config.branch.step,)
        assert branch.config.training.schedule.decay_tokens == branch.own_steps * branch.config.training.batch_tokens
        assert trunk.config.training.seed == trunk.config.data.seed
        assert {trunk.shape, branch.shape} == {trunk.shape}
    for size in ladder["sizes"]:
        counts = [member.shape.parameters for member in found if member.parameters == size and member.shape]
        assert max(counts) / min(counts) <= 1.01


def test_names_and_tags_sort_as_sizes_and_budgets_do(tmp_path: Path) -> None:
    ladder: dict[str, Any] = {
        "mixers": ["attention"],
        "sizes": [2e4, 3e5, 12e6, 3e9],
        "tokens_per_parameter": [5, 20, 160],
    }
    settings = ["training.batch_tokens=64", "training.schedule.warmup_tokens=64"]
    found = read_ladder(sized_file(tmp_path, tmp_path / "data", **ladder), settings).members

    def order(member: Member) -> tuple[float, float]:
        assert member.budget is not None
        return member.parameters or 0.0, member.budget.ratio

    assert [member.name for member in sorted(found, key=order)] == sorted(member.name for member in found)
    sizes = [member.config.tracking.tags["size"] for member in sorted(found, key=order)]
    assert sizes == sorted(sizes)


def test_rates_are_factors_of_what_the_rule_or_the_file_says(tmp_path: Path) -> None:
    ladder = {"mixers": ["ssm"], "sizes": [1e6], "tokens_per_parameter": [20], "learning_rates": [0.5, 1, 2]}
    path = sized_file(tmp_path, tmp_path / "data", **ladder)
    by_rule = [member.config.training.optimizer.learning_rate for member in read_ladder(path).members]
    assert by_rule == [factor * by_rule[1] for factor in (0.5, 1, 2)]
    given = read_ladder(path, ["training.optimizer.learning_rate=1e-3"]).members
    assert [member.config.training.optimizer.learning_rate for member in given] == [5e-4, 1e-3, 2e-3]
    assert given[0].name == "tiny-0001.00M-ssm-020.0t-lr0.5"


def test_mixers_and_sizes_have_what_is_their_own(tmp_path: Path) -> None:
    ladder = {
        "mixers": ["attention", {"mixer": "ssm", "sizes": [4e5], "training.optimizer.learning_rate": 8e-3}],
        "sizes": [1e5, {"parameters": 4e5, "seeds": [1], "learning_rates": [0.5, 1], "model.conv_width": 4}],
        "tokens_per_parameter": [20],
        "seeds": [0, 1],
    }
    found = read_ladder(sized_file(tmp_path, tmp_path / "data", **ladder)).members
    assert [member.name for member in found] == [
        "tiny-0000.10M-attention-020.0t-s0",
        "tiny-0000.10M-attention-020.0t-s1",
        "tiny-0000.40M-attention-020.0t-s1-lr0.5",
        "tiny-0000.40M-attention-020.0t-s1-lr1",
        "tiny-0000.40M-ssm-020.0t-s1-lr0.5",
        "tiny-0000.40M-ssm-020.0t-s1-lr1",
    ]
    assert [member.config.training.optimizer.learning_rate for member in found[4:]] == [4e-3, 8e-3]
    assert [member.config.model.conv_width for member in found] == [0, 0, 4, 4, 4, 4]
    assert load_config_of(found[-1]) == found[-1].config, "what a run records can be read again"


def load_config_of(member: Member) -> RunConfig:
    return validate(RunConfig, yaml.safe_load(resolved_yaml(member.config)), member.name)


def test_with_mup_all_sizes_have_the_rate_of_the_base(tmp_path: Path) -> None:
    ladder = {"mixers": ["ssm"], "sizes": [1e5, 3e6, 9e6], "tokens_per_parameter": [5, 20]}
    path = sized_file(tmp_path, tmp_path / "data", **ladder)
    mup = ["model.parametrization=mup", "model.base_width=128", "model.base_layers=2"]
    rates = [member.config.training.optimizer.learning_rate for member in read_ladder(path, mup).members]
    base = 12 * 2 * 128**2
    assert rates == [pytest.approx(learning_rate(base, 10 * base))] * 6
    assert len({member.config.training.optimizer.learning_rate for member in read_ladder(path).members}) == 3


@pytest.mark.parametrize(
    ("ladder", "reason"),
    [
        ({"sizes": [1e5], "mixers": [{"mixer": "ssm", "sizes": [1e6]}]}, r"mixers\[0\]\.sizes has 1e\+06, .*: 100000"),
        ({"mixers": [{"mixer": "ssm", "sizes": [1e6]}]}, r"which is no size of the ladder: none in parameters"),
        ({"mixers": [{"sizes": [1e6]}]}, r"ladder\.mixers\[0\]\.mixer"),
        ({"mixers": [{"mixer": "ssm", "model.layer": 3}]}, r"did you mean model\.layers"),
        ({"sizes": [{"parameters": 1e5, "seeds": [2, 2]}]}, r"sizes\[0\]\.seeds \[2, 2\] has one twice"),
        ({"sizes": [{"model.layers": 2}], "tokens_per_parameter": [5]}, "needs sizes in parameters: sizes: "),
        ({"sizes": [1e5], "tokens_per_parameter": [5, 5.0]}, "has one twice"),
        ({"sizes": ["large"]}, "ladder.sizes"),
        ({"sizes": [-1]}, "ladder.sizes"),
        ({"sizes": [1e5], "decay": 1}, "ladder.decay"),
    ],
)
def test_sizes_and_budgets_without_sense_are_refused(tmp_path: Path, ladder: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_ladder(sized_file(tmp_path, tmp_path / "data", **{"mixers": ["ssm"], **ladder}))
