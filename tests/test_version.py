"""What code a run was made by."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from glm_scale.version import code_version


def test_version_tells_the_commit_of_this_checkout():
    version = code_version()
    head = subprocess.run(
        ["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    assert version["git_commit"] == (head.stdout.strip() or None)
    assert version["torch"]
    assert version["python"] == ".".join(map(str, sys.version_info[:3]))
