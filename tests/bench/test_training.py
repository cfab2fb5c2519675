"""`glm-scale bench train`: parts, their measurement, the file that grows, and the table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from glm_scale.bench.checking import Checked
from glm_scale.bench.measuring import WARM_UP, Measured, Setting, measure, run_config
from glm_scale.bench.parts import SIZES, Part
from glm_scale.bench.results import Results
from glm_scale.bench.run import run_table
from glm_scale.config import RunConfig
from glm_scale.errors import UserError
from glm_scale.model import LanguageModel

MEASURED = Measured("attention@64", 100, [2.0, 1.0, 4.0], 9.0, 300, [3.0, 2.5])


def test_a_part_is_a_model_at_a_length() -> None:
    part = Part.parse("lattice:2^k+attention@8192")
    assert (part.mixers, part.length, part.plain, str(part)) == (
        ["lattice:2^k", "attention"], 8192, False, "lattice:2^k+attention@8192",
    )  # fmt: skip
    assert Part.parse("plain:fp32@128").plain


@pytest.mark.parametrize(
    ("spelling", "why"),
    [("attention", "give MODEL@LENGTH"), ("attention@0", "is no part"), ("atention@8", "did you mean 'attention'")],
)
def test_what_is_no_part_is_refused(spelling: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        Part.parse(spelling)


@pytest.mark.parametrize("size", SIZES)
def test_our_run_has_the_weights_of_the_plain_transformer(size: str) -> None:
    from torch import device

    from glm_scale.bench.plain import PlainTransformer

    setting = Setting(size, Path("data"))
    config = RunConfig.model_validate(run_config(Part.parse("attention@64"), setting, Path("runs")))
    with device("meta"):
        plain, ours = PlainTransformer(SIZES[size]), LanguageModel(config.model)
    assert sum(p.numel() for p in plain.parameters()) == ours.parameter_count()
    matrices = SIZES[size].matrix_parameters + SIZES[size].vocabulary * SIZES[size].width
    assert ours.parameter_count() == matrices + (2 * SIZES[size].layers + 1) * SIZES[size].width


def test_the_speed_is_that_of_the_median_step(tmp_path: Path) -> None:
    plain = replace(MEASURED, part="plain:bf16@64", step_seconds=[1.0], peak_bytes=200)
    results = Results(tmp_path / "r.json", "a machine", "tiny", "data")
    for measured in (plain, MEASURED, replace(MEASURED, part="attention@32")):
        results.add(measured)
    ratios = [(row.measured.part, row.speed, row.memory) for row in results.rows()]
    assert ratios == [("plain:bf16@64", 1.0, 1.0), ("attention@64", 0.5, 1.5), ("attention@32", None, None)]
    assert "| attention | 64 | 50 | 0.50 |" in results.markdown()


def test_results_of_earlier_calls_stay(tmp_path: Path) -> None:
    for part in ("attention@64", "ssm@64"):
        Results(tmp_path / "r.json", "a machine", "tiny", "data").add(replace(MEASURED, part=part))
    calls = json.loads((tmp_path / "r.json").read_text())["calls"]
    assert [[part["part"] for part in call["parts"]] for call in calls] == [["attention@64"], ["ssm@64"]]
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(UserError, match=r"other\.json holds no results of `glm-scale bench train`"):
        Results(tmp_path / "other.json", "a machine", "tiny", "data")


def test_losses_that_are_off_are_found() -> None:
    assert Checked("attention@64", 1e-3).right
    assert not Checked("attention@64", 3e-3).right
    assert not Checked("attention@64", float("nan")).right


def test_a_length_that_no_step_holds_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="100 is no part and no multiple of the 256 tokens of a step"):
        run_table(["attention@100"], Setting("tiny", data), tmp_path / "r.json", checked=False)


def test_plain_and_ours_are_measured_in_one_call(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_table(["lattice:2^k@128"], Setting("tiny", data, steps=2), tmp_path / "r.json", checked=False)
    (call,) = json.loads((tmp_path / "r.json").read_text())["calls"]
    plain, ours = (Measured.from_json(part) for part in call["parts"])
    assert (plain.part, ours.part) == ("plain:bf16@128", "lattice:2^k@128")
    for measured in (plain, ours):
        assert (len(measured.losses), len(measured.step_seconds)) == (WARM_UP + 2, 2)
        assert 5 < measured.losses[0] < 7
        assert measured.first_step_seconds > 0
    shown = capsys.readouterr().out
    assert "model lattice:2^k  T 128" in shown
    assert "| plain:bf16 | 128 |" in shown


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("training.zero_stage=0", "bf16 needs zero_stage 1, 2 or 3"),
        ("data.sources=[{path: nowhere}]", r"(?s)attention@128 ended with exit code 2\. Its last words:.*nowhere"),
    ],
)
def test_a_part_that_fails_says_why(data: Path, override: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        measure(Part.parse("attention@128"), Setting("tiny", data, steps=2, overrides=(override,)))
