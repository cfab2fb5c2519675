"""What doctor says of limits and clocks."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from glm_launch.doctor import Asked, limits
from glm_launch.doctor.clock import clock_of_folder


class TestLimitsAndClock:
    def test_few_open_files_are_a_warning(self, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 8192))
        found = limits.open_files(asked)
        assert (found.state, found.way_out) == ("warning", "ulimit -n 8192")

    def test_locked_memory_counts_with_infiniband_only(
        self, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (65536, 65536))
        monkeypatch.setattr(limits, "_INFINIBAND", tmp_path / "infiniband")
        assert limits.locked_memory(asked).state == "not applicable"
        (tmp_path / "infiniband/mlx5_0").mkdir(parents=True)
        assert limits.locked_memory(asked).state == "warning"

    def test_small_shared_memory_is_a_warning(
        self, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "_SHARED_MEMORY", tmp_path / "none")
        assert limits.shared_memory(asked).state == "warning"
        (tmp_path / "none").mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert limits.shared_memory(asked).state == "problem"

    @pytest.mark.parametrize(("ahead", "state"), [(0.0, "ok"), (10.0, "warning"), (-100.0, "problem")])
    def test_the_clock_of_a_file_server(
        self, asked: Asked, monkeypatch: pytest.MonkeyPatch, ahead: float, state: str
    ) -> None:
        real = Path.stat

        def skewed(path: Path, **options: bool) -> os.stat_result:
            found = real(path, **options)
            return os.stat_result([*found[:8], found.st_mtime + ahead, found[9]])

        monkeypatch.setattr(Path, "stat", skewed)
        assert clock_of_folder(asked).state == state
