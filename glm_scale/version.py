"""Which code is running."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import glm_scale


def code_version() -> dict[str, Any]:
    """Versions of this package, Python, torch and DeepSpeed; the git commit if the code lies in a checkout."""
    version: dict[str, Any] = {"glm_scale": glm_scale.__version__, "python": platform.python_version()}
    for package in ("torch", "deepspeed"):
        try:
            version[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version[package] = None
    return version | _git_state(Path(glm_scale.__file__).parent)


def _git_state(folder: Path) -> dict[str, Any]:
    # An installed copy may lie inside a checkout of something else; only tracked files are this code's own.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"git_commit": None, "git_dirty": None}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"git_commit": _git(folder, "rev-parse", "HEAD"), "git_dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
