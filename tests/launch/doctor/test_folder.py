"""What doctor says of a folder for runs: its file system, locks and clock."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from glm_launch.doctor import Asked, mounts
from glm_launch.doctor.clock import clock_of_folder
from glm_launch.doctor.folder import file_system, rename_and_fsync
from glm_launch.doctor.locks import locks
from tests.launch.doctor.programs import program


class TestFolder:
    def test_a_folder_that_does_not_exist_yet_is_not_made(self, tmp_path: Path) -> None:
        asked = Asked(tmp_path / "a/b")
        for check in (rename_and_fsync, locks, clock_of_folder):
            assert check(asked).state == "ok"
        assert list(tmp_path.iterdir()) == []

    def test_one_that_cannot_be_written_is_one_problem(self, tmp_path: Path) -> None:
        asked = Asked(tmp_path)
        tmp_path.chmod(0o555)
        if os.access(tmp_path, os.W_OK):  # root may write everywhere but there
            asked = Asked(Path("/sys/kernel/runs"))
        found = [check(asked) for check in (file_system, rename_and_fsync, locks, clock_of_folder)]
        assert [finding.state for finding in found] == ["problem", *3 * ["not applicable"]]
        assert "--folder" in found[0].way_out

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert file_system(Asked(tmp_path / "file")).state == "problem"

    def test_a_full_disk_is_a_problem(self, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.statvfs(asked.folder)
        monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result([*real[:4], 1, *real[5:]]))
        assert "no space" in file_system(asked).says

    def test_the_mount_nearest_to_the_folder_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        table = tmp_path / "mountinfo"
        table.write_text(
            "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
            f"2 1 0:40 / {tmp_path} rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2,local_lock=all\n"
            f"3 1 0:41 / {tmp_path}/with\\040space rw - lustre mgs:/scratch rw,localflock\n"
        )
        monkeypatch.setattr(mounts, "_MOUNTS", table)
        (tmp_path / "with space").mkdir()
        assert mounts.mount_of(tmp_path / "runs").kind == "nfs4"
        assert mounts.mount_of(tmp_path / "with space/runs").kind == "lustre"
        found = locks(Asked(tmp_path))
        assert (found.state, "local_lock=all" in found.says) == ("warning", True)

    def test_a_disk_of_this_machine_is_told_on_a_cluster(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        table = tmp_path / "mountinfo"
        table.write_text("1 0 8:1 / / rw - ext4 /dev/sda rw\n")
        monkeypatch.setattr(mounts, "_MOUNTS", table)
        program(tmp_path / "bin", "sbatch", "")
        monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
        assert "other nodes" in file_system(Asked(tmp_path)).says

    def test_broken_locks_are_a_problem(self, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        assert locks(asked).state == "ok"
        monkeypatch.setattr(fcntl, "flock", lambda file, kind: None)  # in this process; the second one takes it
        found = locks(asked)
        assert found.state == "problem"
        assert "does not keep a second process out" in found.says

    def test_a_file_system_without_fsync_is_a_problem(self, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(file: int) -> None:
            raise OSError(22, "Invalid argument")

        monkeypatch.setattr(os, "fsync", fail)
        found = rename_and_fsync(asked)
        assert (found.state, "Invalid argument" in found.says) == ("problem", True)
