"""The file of `glm-scale bench calibrate`: written, read, refused."""

import json
from pathlib import Path

import pytest

from glm_scale.errors import UserError
from glm_scale.planning.calibration import packaged_calibration, read_calibration
from glm_scale.planning.gpus import GPUS
from tests.planning.made_up import made_up


def test_what_is_written_is_read(tmp_path: Path) -> None:
    exchanges = [{"collective": "all_reduce", "ranks": 2, "sent": 8, "seconds": 1e-6}]
    calibration = made_up(exchanges=exchanges, failed={"dense": "too little memory"})
    path = tmp_path / "h200.json"
    path.write_text(calibration.to_json())
    assert read_calibration(path) == calibration
    # A measurement a line, so that a difference between two files can be read.
    assert '\n  {"tokens": 128, "inputs": 32, "outputs": 32, "forward": 0.001, ' in path.read_text()


def broken(tmp_path: Path, **changed: object) -> Path:
    content = json.loads(made_up().to_json()) | changed
    (tmp_path / "broken.json").write_text(json.dumps(content))
    return tmp_path / "broken.json"


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("host", -1.0, r"at host: Input should be greater than 0 \(found -1\.0\)"),
        ("copies", [{"size": 1}], r"at copies\.0\.seconds: Field required"),
        ("matmul", [], r"at matmul: Extra inputs"),
        ("gpu", None, r"at gpu: Input should be a valid string"),
        ("exchanges", [{"collective": "shout", "ranks": 2, "sent": 1, "seconds": 1}], r"at exchanges\.0\.collective"),
    ],
)
def test_a_broken_file_is_named_with_the_key_and_the_way_out(tmp_path: Path, key: str, value: object, why: str) -> None:
    path = broken(tmp_path, **{key: value})
    with pytest.raises(UserError, match=rf"broken\.json is no calibration {why}.*glm-scale bench calibrate --output"):
        read_calibration(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "nothing"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(UserError, match=r"other\.json is no calibration.*glm-scale bench calibrate --output"):
        read_calibration(tmp_path / "other.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json: No such file"):
        read_calibration(tmp_path / "none.json")


@pytest.mark.parametrize("gpu", GPUS)
def test_those_that_come_with_the_package_are_of_the_gpus_they_are_named_after(gpu: str) -> None:
    calibration = packaged_calibration(gpu)
    assert calibration is None or (GPUS[gpu].product in calibration.gpu and calibration.matmuls)
