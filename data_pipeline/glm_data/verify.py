"""Reading a whole data set to prove that it is intact."""

from collections.abc import Callable
from pathlib import Path

from glm_data.errors import DataError, unreadable
from glm_data.files import sha256_file
from glm_data.index import DatasetIndex
from glm_data.tokenizers.contract import fingerprint


def verify(directory: Path, index: DatasetIndex, advance: Callable[[int], None] = lambda _bytes: None) -> list[str]:
    """Compare every file with the SHA-256 in the index.

    Args:
        directory: of the data set.
        index: its index.
        advance: called with the bytes of each shard when it is done.

    Returns:
        one message for each file that is damaged or missing.
    """
    wanted: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for split in index.splits.values():
        for table in (split.document_table, split.checksum_table):
            wanted[table.name] = table.sha256
        for shard in split.shards:
            wanted[shard.name] = shard.sha256
            sizes[shard.name] = shard.bytes
    problem = tokenizer_problem(directory, index)
    problems = [problem] if problem else []
    for name, sha256 in wanted.items():
        try:
            if sha256_file(directory / name) != sha256:
                problems.append(f"{directory / name}: checksum mismatch")
        except DataError as error:
            problems.append(str(error))
        advance(sizes.get(name, 0))
    return problems


def tokenizer_problem(directory: Path, index: DatasetIndex) -> str:
    """What is wrong with the files of the tokenizer; empty if nothing is."""
    try:
        files = {name: (directory / name).read_bytes() for name in index.tokenizer_files}
    except OSError as error:
        return str(unreadable(error.filename or directory, error)).rstrip(".")
    if (found := fingerprint(files)) == index.tokenizer_sha256:
        return ""
    return (
        f"{', '.join(str(directory / name) for name in files)}: not the tokenizer that this data set was built with "
        f"(SHA-256 {found[:12]}…, recorded {index.tokenizer_sha256[:12]}…)"
    )
