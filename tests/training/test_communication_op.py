"""DeepSpeed's ops, compiled once for all processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glm_scale.training.communication_op import extensions_folder, remove_orphan


def test_a_guard_of_a_compilation_is_removed_when_its_process_is_gone(tmp_path: Path) -> None:
    guard = tmp_path / "lock"
    assert not remove_orphan(guard)
    compiling = subprocess.Popen(
        [sys.executable, "-c", "import os, sys; os.open(sys.argv[1], os.O_CREAT | os.O_EXCL); print(); input()", guard],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert compiling.stdout is not None
    compiling.stdout.readline()
    assert not remove_orphan(guard)
    compiling.kill()
    compiling.communicate()
    assert guard.exists()
    assert remove_orphan(guard)
    assert not guard.exists()


def test_environments_do_not_compile_over_one_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = set()
    for prefix in ("/one/.venv", "/other/.venv", "/one/.venv"):
        monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
        monkeypatch.setattr("sys.prefix", prefix)
        found.add(extensions_folder())
        assert os.environ["TORCH_EXTENSIONS_DIR"] == str(extensions_folder())
    assert len(found) == 2
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert extensions_folder() == tmp_path
