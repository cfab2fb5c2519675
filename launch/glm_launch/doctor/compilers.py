"""What compiling at run time needs, which DeepSpeed and Triton do."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

__all__ = ["missing_for_compiling"]


def missing_for_compiling(*programs: str) -> list[str]:
    """Those of `programs` that are neither on PATH nor beside the interpreter, and Python.h if it is not there."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    header = Path(sysconfig.get_path("include"), "Python.h")
    return missing if header.exists() else [*missing, str(header)]
