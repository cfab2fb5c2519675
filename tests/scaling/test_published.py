"""What the README shows of the quickstart is what its metrics, which are checked in, say."""

from pathlib import Path

import pytest

from glm_scale.run_search import find_runs
from glm_scale.scaling.report import Asked, Report, write_report
from glm_scale.scaling.verdict import verdict

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """As the README's command makes it."""
    folder = tmp_path_factory.mktemp("published")
    runs = find_runs([ROOT / "docs" / "results" / "quickstart"])
    return write_report(runs, folder, scaling=True, asked=Asked(files=(folder / "quickstart.png",)))


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_table_and_the_sentence_are_those_of_the_metrics(report: Report) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for run in report.comparison.runs:
        (line,) = [line for line in readme.splitlines() if line.startswith(f"{run.name} ")]
        assert f"{run.validation_loss:.4f}" in line
        assert f"{run.flops:.2e}" in line
    assert words(verdict(report.comparison.runs)) in words(readme)


def test_the_figure_is_drawn_anew_from_them(report: Report) -> None:
    """Bytes may differ on a machine with other fonts; the size of the picture and what is drawn may not."""
    import matplotlib.image

    drawn, published = (matplotlib.image.imread(path) for path in (report.files[-1], ROOT / "docs" / "quickstart.png"))
    assert drawn.shape == published.shape
    different = (abs(drawn - published).max(axis=-1) > 0.1).mean()
    assert different < 0.001
