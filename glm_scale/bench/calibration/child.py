"""Measurements that need a process of their own: what one prints last is its answer."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

__all__ = ["answer_of"]

_SECONDS = 180.0
_WORDS = 300


def answer_of(module: str, *arguments: str) -> Any:
    """What `python -m MODULE` prints as JSON in its last line. Raises RuntimeError with its last words if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"it took more than {_SECONDS:.0f} s") from error
    if done.returncode:
        raise RuntimeError(f"it ended with exit code {done.returncode}: {done.stderr.strip()[-_WORDS:]}")
    return json.loads(done.stdout.splitlines()[-1])
