"""`glm-scale ladder`: from a plan to figures, and on after a run that fails."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_scale import ladder as ladders
from glm_scale.cli import compare, memory
from glm_scale.cli.ladder import fit, run
from glm_scale.run_directory import RunDirectory
from glm_scale.run_search import find_runs
from glm_scale.scaling.curves import load_run
from tests.commands import Commands
from tests.ladder.test_members import ladder_file, sized_file

Ladder = Callable[..., str]


@pytest.fixture
def ladder(command: Commands) -> Ladder:
    """`glm-scale ladder ARGUMENTS`, all that it says."""

    def run(*arguments: str | Path, code: int = 0) -> str:
        done = command("ladder", *arguments)
        assert done.code == code, done.output
        return done.stdout + done.stderr

    return run


def test_climbs_samples_compares_and_goes_on_after_a_failure(data: Path, tmp_path: Path, ladder: Ladder) -> None:
    path = ladder_file(tmp_path, data, mixers=["ssm", "attention"])
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "tiny-ssm").write_text("in the way")
    assert "failed: tiny-ssm" in ladder(path, code=1)
    trained = RunDirectory(runs / "tiny-attention")
    assert trained.read_summary().status == "finished"
    assert (trained.samples / "step-00000006.txt").read_text().startswith("The state of the union is")
    figures = {file.suffix for file in (runs / "tiny-comparison").iterdir()}
    assert {".html", ".png"} <= figures

    (runs / "tiny-ssm").unlink()
    before = trained.metrics.stat().st_mtime_ns
    ladder(path)
    assert RunDirectory(runs / "tiny-ssm").read_summary().status == "finished"
    assert trained.metrics.stat().st_mtime_ns == before, "a finished run is left alone"


SIZES, RATIOS, MIXERS = [6e3, 16e3, 26e3], [2, 4], ["attention", "lattice:2^k"]


def test_a_ladder_from_its_plan_to_its_figures(data: Path, tmp_path: Path, ladder: Ladder) -> None:
    path = str(sized_file(tmp_path, data, mixers=MIXERS, sizes=SIZES, tokens_per_parameter=RATIOS, sample_tokens=0))
    small = ["training.batch_tokens=1024", "training.micro_batch=32", "training.optimizer.learning_rate=1e-2"]
    assert "12 missing" in ladder("status", path, *small)
    planned = ladder("plan", path, *small)
    assert "12 runs" in planned
    assert "tiny-0000.01M-lattice-2-pow-k-004.0t" in planned
    said = ladder(path, *small, "--concurrency", "2")
    assert "measured times cannot be compared: others trained on the same GPUs or CPUs" in " ".join(said.split())
    assert "begins as tiny-0000.01M-attention-004.0t was after step 10" in said
    assert "12 finished" in ladder("status", path, *small)
    trunk, branch = (RunDirectory(tmp_path / "runs" / f"tiny-0000.01M-attention-{n}.0t") for n in ("004", "002"))
    assert (trunk.read_summary().step, branch.read_summary().step) == (23, 12)
    again = ladder(path, *small)
    assert "begins as" not in again
    assert "12 other" in ladder("status", path, *small, "training.optimizer.weight_decay=0.2")

    law = tmp_path / "law.pdf"
    fitted = ladder("fit", path, *small, "--figure", str(law), "--x", "tokens,cache")
    assert law.read_bytes().startswith(b"%PDF-")
    folder = tmp_path / "runs" / "tiny-comparison"
    told = json.loads((folder / "scaling.json").read_text())["scaling"]
    for sentence in told["sentences"]:
        assert " ".join(sentence.split()) in " ".join(fitted.split())
    points = {(point["mixer"], point["tokens"], round(point["loss"], 12)) for point in told["points"]}
    assert len(points) == len(SIZES) * len(RATIOS) * len(MIXERS)
    runs = [load_run(found) for found in find_runs([tmp_path / "runs"])]
    assert points == {(one.mixer, one.tokens, round(one.validation_loss or 0.0, 12)) for one in runs}
    page = (folder / "scaling.html").read_text()
    assert all(one.name in page for one in runs)
    other = ladder("fit", path, *small, "training.optimizer.weight_decay=0.2", code=2)
    assert "has finished; see glm-scale ladder status" in other


def test_a_part_of_the_runs_is_compared_with_all_that_have_finished(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(memory, "must_find_room", lambda *_: None)
    monkeypatch.setattr(ladders, "climb", lambda ladder, _: [(member, "finished") for member in ladder.members])
    monkeypatch.setattr(ladders, "is_finished", lambda member: "dense" not in member.name)
    monkeypatch.setattr(compare, "present", lambda runs, *_, **how: asked.extend(run.path.name for run in runs))
    run(ladder_file(tmp_path, data, mixers=["ssm", "dense", "attention"], sample_tokens=0), only="*-ssm")
    assert asked == ["tiny-ssm", "tiny-attention"]


def test_more_gpu_hours_than_allowed_are_refused(data: Path, tmp_path: Path, ladder: Ladder) -> None:
    path = str(sized_file(tmp_path, data, mixers=["attention"], sizes=[1e9], tokens_per_parameter=[20], gpu_hours=3))
    assert "GPU hours, and ladder.gpu_hours allows 3; leave out sizes" in ladder("plan", path, code=2)


@pytest.mark.parametrize("tracked", [True, False])
def test_a_fit_goes_into_the_run_of_the_ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: bool) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ladders, "is_finished", lambda member: True)
    monkeypatch.setattr(compare, "present", lambda *_, **how: asked.update(how))
    path = ladder_file(tmp_path, tmp_path / "data", mixers=["ssm"])
    fit(path, [f"tracking.enabled={str(tracked).lower()}"])
    assert (asked["parent"], asked["tracking"], asked["scaling"]) == ("tiny", tracked, True)
