"""`glm-scale bench`: the figure of measured speeds, and what of decoding cannot be measured."""

import json
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from glm_kernels.bench import main as measure
from glm_launch.cli.app import app, main
from glm_scale.errors import UserError

Captured = pytest.CaptureFixture[str]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["glm-scale", "bench", "plot", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the benchmark itself writes."""
    path = tmp_path_factory.mktemp("bench") / "cpu.json"
    sizes = ["--lengths", "32", "64", "--heads", "1", "--width", "8", "--rounds", "1"]
    assert measure(["lattice:2^k", "window:4", *sizes, "--packed", "16", "--output", str(path)]) == 0
    return path


def test_the_benchmarks_own_results_become_a_figure_beside_them(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, results: Path
) -> None:
    assert run(monkeypatch, results) == 0
    figure = results.with_suffix(".png")
    assert str(figure) in capsys.readouterr().out
    pixels = imread(figure)
    assert pixels.shape[1] > 1000
    # Attention's blue and the lattices' vermilion are in it.
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        close = abs(pixels[..., :3] * 255 - colour).max(2) < 2
        assert close.sum() > 100


def test_files_of_several_machines_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, results: Path, tmp_path: Path
) -> None:
    from glm_scale.bench.kernels import curves_of, read_benchmark

    other = json.loads(results.read_text())
    other["machine"] = "NVIDIA H100, torch 9"
    other["timings"] = other["timings"][:1]
    (tmp_path / "h100.json").write_text(json.dumps(other))
    assert run(monkeypatch, results, tmp_path / "h100.json", "--output", tmp_path / "both.png") == 0
    assert (tmp_path / "both.png").stat().st_size > 10_000
    curves = curves_of([read_benchmark(results), read_benchmark(tmp_path / "h100.json")])
    assert "attention (NVIDIA H100)" in [curve.label for curve in curves]
    assert {len(curve.points) for curve in curves if "H100" not in curve.label} == {2}


@pytest.mark.parametrize("text", ["", "[]", '{"machine": "CPU", "settings": {}, "timings": [{"operator": "x"}]}'])
def test_another_file_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path, text: str
) -> None:
    (tmp_path / "other.json").write_text(text)
    assert run(monkeypatch, tmp_path / "other.json") == 2
    told = capsys.readouterr().err
    assert "other.json holds no results" in told
    assert "python -m glm_kernels.bench --output" in told


def test_an_unwritable_figure_names_the_option(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, results: Path, tmp_path: Path
) -> None:
    assert run(monkeypatch, results, "--output", tmp_path / "none" / "a.png") == 2
    assert "--output" in capsys.readouterr().err
    assert run(monkeypatch, results, "--output", tmp_path / "a.nothing") == 2
    assert "a.nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "1,x"], "--batch 1,x: 'x' is no number of them; give some, as in 1,64"),
        (["--contexts", ","], "--contexts ,: 'nothing' is no number of them"),
        (["--contexts", "100"], "--contexts 100: 164 tokens of each context are decoded"),
        (["--mixers", "latice:2^k"], "--mixers: unknown mixer 'latice' in 'latice:2^k' (did you mean 'lattice:f'?)"),
        (["--size", "2b"], "--size 2b: known are 1.3b, 160m, tiny"),
    ],
)
def test_a_case_of_decoding_that_there_is_not_is_refused(options: list[str], message: str) -> None:
    found = CliRunner().invoke(app, ["bench", "decode", *options])
    assert isinstance(found.exception, UserError)
    assert message in str(found.exception)
