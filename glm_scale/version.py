"""Which code is running."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import glm_scale

SNAPSHOT = "code-version.json"
"""Beside the packages in a copy of the code: the version of what was copied."""


def code_version() -> dict[str, Any]:
    """Versions of this package, Python, torch and DeepSpeed; the git commit if the code lies in a checkout, or is a
    copy of one.
    """
    version: dict[str, Any] = {"glm_scale": glm_scale.__version__, "python": platform.python_version()}
    for package in ("torch", "deepspeed"):
        try:
            version[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version[package] = None
    return version | (_copied_state() or _git_state(Path(glm_scale.__file__).parent))


def version_text() -> str:
    """What `code_version` knows, for people: two lines that belong into a bug report."""
    version = code_version()
    commit = version["git_commit"]
    state = f" (commit {commit[:12]}{', changed since' if version['git_dirty'] else ''})" if commit else ""
    libraries = ", ".join(f"{name} {version[name] or 'not installed'}" for name in ("torch", "deepspeed"))
    return f"glm-scale {version['glm_scale']}{state}\nPython {version['python']}, {libraries}"


def _copied_state() -> dict[str, Any] | None:
    try:
        copied = json.loads((Path(glm_scale.__file__).parents[1] / SNAPSHOT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return {key: copied.get(key) for key in ("git_commit", "git_dirty")}


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
