"""`--version` says what a bug report needs."""

import sys
from importlib.metadata import version

import glm_scale
from glm_scale import version as versions


def test_the_version_names_the_package_its_commit_python_and_torch(command):
    shown = command("--version")
    assert (shown.code, shown.stderr) == (0, ""), shown.output
    first, second = shown.stdout.splitlines()
    assert first.startswith(f"glm-scale {glm_scale.__version__}")
    commit = versions.code_version()["git_commit"]
    assert commit is None or f"(commit {commit[:12]}" in first
    assert f"Python {sys.version.split()[0]}, torch {version('torch')}" in second


def test_code_outside_of_a_checkout_and_a_missing_library_are_no_errors(monkeypatch):
    known = {"glm_scale": "1.2", "python": "3.11.0", "torch": None, "deepspeed": "0.19"}
    monkeypatch.setattr(versions, "code_version", lambda: {**known, "git_commit": None, "git_dirty": None})
    assert versions.version_text() == "glm-scale 1.2\nPython 3.11.0, torch not installed, deepspeed 0.19"


def test_the_version_is_shown_before_anything_else_is_done(command, tmp_path):
    asked = command("--version", "train", tmp_path / "nowhere.yaml")
    assert asked.code == 0, asked.output
