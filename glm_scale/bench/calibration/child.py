"""Measurements that need a process of their own: what one prints last is its answer."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from glm_scale.bench.processes import running

__all__ = ["answer_of"]

_SECONDS = 180.0
_WORDS = 300


def answer_of(module: str, *arguments: str) -> Any:
    """What `python -m MODULE` prints as JSON in its last line. Raises RuntimeError with its last words if it fails."""
    with tempfile.TemporaryDirectory(prefix="glm-bench-") as folder:
        with running([sys.executable, "-m", module, *arguments], Path(folder)) as process:
            try:
                code = process.wait(_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise RuntimeError(f"it took more than {_SECONDS:.0f} s") from error
        out, err = (Path(folder, name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    if code:
        raise RuntimeError(f"it ended with exit code {code}: {err.strip()[-_WORDS:]}")
    return json.loads(out.splitlines()[-1])
