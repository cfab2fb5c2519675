"""Runs are found alone, in folders and in groups."""

from __future__ import annotations

import pytest

from glm_scale.errors import UserError
from glm_scale.run_search import find_runs


def test_runs_are_found_alone_in_folders_and_in_groups_once_each(make_run, tmp_path):
    first, second = make_run("a"), make_run("group/b")
    (tmp_path / "runs" / "notes").mkdir()
    found = find_runs([first.path, tmp_path / "runs"])
    assert [run.path for run in found] == [first.path, second.path]


def test_folders_without_runs_are_errors(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no run in"):
        find_runs([tmp_path])
