"""A ladder: which runs it makes, and what ends it."""

from pathlib import Path
from typing import Any

import pytest

from glm_scale.config import ConfigError
from glm_scale.run.ladder import climb, plan
from tests.tiny_run import tiny_config, write_config

SIZES = [{"model.layers": 1}, {"model.layers": 2, "model.width": 32}]


def ladder_file(folder: Path, data: Path, **ladder: Any) -> Path:
    tree = tiny_config(data, folder)
    return write_config(folder / "ladder.yaml", {**tree, "ladder": {"sample_tokens": 5, **ladder}})


def test_trains_every_mixer_at_every_size(tmp_path: Path) -> None:
    mixers = ["attention", ["ssm", "lattice:2^k"], "local:8 > window:4"]
    rungs = plan(ladder_file(tmp_path, tmp_path / "data", mixers=mixers, sizes=SIZES), ["training.seed=3"])
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
    (rung,) = plan(ladder_file(tmp_path, tmp_path / "data", mixers=["ssm"]))
    assert rung.config.name == "tiny-ssm"


def test_a_wrong_size_is_told_before_anything_starts(tmp_path: Path) -> None:
    path = ladder_file(tmp_path, tmp_path / "data", mixers=["ssm"], sizes=[{"model.layer": 3}])
    with pytest.raises(ConfigError, match=r"did you mean model\.layers"):
        plan(path)


@pytest.mark.parametrize(
    ("ladder", "part"), [({"mixers": ["ssm", "ssm"]}, "two runs named tiny-ssm"), ({"mixers": []}, "at least 1 item")]
)
def test_a_ladder_without_sense_is_refused(tmp_path: Path, ladder: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        plan(ladder_file(tmp_path, tmp_path / "data", **ladder))


@pytest.mark.parametrize(
    ("code", "outcomes"), [(85, ["stopped"]), (130, ["stopped"]), (-15, ["stopped"]), (1, ["failed", "failed"])]
)
def test_a_run_that_was_asked_to_end_ends_the_ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, outcomes: list[str]
) -> None:
    path = ladder_file(tmp_path, tmp_path / "data", mixers=["ssm", "attention"])
    monkeypatch.setattr("glm_scale.run.ladder._run", lambda command: code)
    assert list(climb(path, plan(path)).values()) == outcomes


def test_a_file_without_ladder_is_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path / "run.yaml", tiny_config(tmp_path / "data", tmp_path))
    with pytest.raises(ConfigError, match="list the mixers"):
        plan(path)
