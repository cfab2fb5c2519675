"""Run a build again and again, dying at its first, second, … touch of the disk, until it comes through.

Every rename and every flush is a point of its own: the child process exits there without any clean-up, as if killed.
Usage: crash_build.py INPUT OUTPUT. Prints the number of deaths.
"""

import os
import sys
from pathlib import Path

from glm_data import BuildConfig, DataError, build, load_index


def attempt(source: Path, output: Path, steps: int) -> int:
    """Build in a child process that dies after `steps` renames and flushes; its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = steps
    fsync, replace = os.fsync, Path.replace

    def count() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os._exit(9)

    def counted_fsync(descriptor: int) -> None:
        count()
        fsync(descriptor)

    def counted_replace(path: Path, target: Path) -> Path:
        count()
        return replace(path, target)

    os.fsync, Path.replace = counted_fsync, counted_replace  # type: ignore[method-assign, assignment]
    build(BuildConfig(inputs=[source], output=output, vocabulary_size=400, shard_bytes=3000, workers=1))
    os._exit(0)


def looks_whole(output: Path) -> bool:
    """Whether the output passes for a data set."""
    try:
        load_index(output)
    except DataError:
        return False
    return True


def main() -> None:
    source, output = Path(sys.argv[1]), Path(sys.argv[2])
    deaths = 0
    for steps in range(1000):
        # Half of the deaths hit a build that resumes, half one that starts afresh.
        if steps % 2 == 0 and output.exists():
            output.rename(f"{output}-{steps}")
        status = attempt(source, output, steps)
        if status == 0:
            break
        assert status == 9, status
        deaths += 1
        for shard in output.glob("*.tar"):
            assert shard.stat().st_size % 10240 == 0, shard  # tar files are padded when they are closed
        if looks_whole(output):
            assert not list(output.glob("*.tmp"))
    else:
        raise AssertionError("the build never came through")
    print(deaths)


if __name__ == "__main__":
    main()
