"""Whether two commits train alike, bit for bit on this machine: `python -m tests.earlier.two_commits OLD NEW`.

Both are checked out beside one another; losses of every mixer are computed by each and compared (`curves.py`). Exit
code 1 if any differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.earlier import curves
from tests.earlier.archive import unpacked

PACKAGES = ("", "kernels", "launch", "data_pipeline")
"""Folders of a checkout that packages lie in."""


def losses_at(commit: str, data: Path) -> dict[str, list[str]]:
    """Of every mixer, by the code of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder, "checkout")
        subprocess.run(["git", "worktree", "add", "--detach", str(checkout), commit], check=True, capture_output=True)
        try:
            path = os.pathsep.join(str(checkout / package) for package in PACKAGES)
            command = [sys.executable, curves.__file__, str(data)]
            environment = {**os.environ, "PYTHONPATH": path}
            done = subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, check=True)
            return json.loads(done.stdout)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(checkout)], check=True)


def main() -> int:
    old, new = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        data = unpacked(Path(folder)) / "data"
        before, after = losses_at(old, data), losses_at(new, data)
    changed = [mixer for mixer in before if before[mixer] != after.get(mixer)]
    for mixer in changed:
        print(f"{mixer}: {before[mixer]} became {after.get(mixer)}")
    print(f"{len(before) - len(changed)} of {len(before)} mixers have the same {curves.STEPS} losses, bit for bit")
    return bool(changed)


if __name__ == "__main__":
    sys.exit(main())
