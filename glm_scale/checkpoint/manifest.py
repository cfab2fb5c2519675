"""What a checkpoint says of itself: manifest.json, and the marker that makes it count.

    manifest.json    format, step, state (counters, random state, …), time, and size and SHA-256 of every file
    COMMITTED        SHA-256 of manifest.json, in the format of sha256sum

The marker is written last, and what has no marker is no checkpoint. It vouches for the manifest as that does for the
files. Until it is put in its place by renaming it is called COMMITTED.pending, which tells a save that was
interrupted from a checkpoint that has lost its marker.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from glm_scale.checkpoint.files import FileRecord
from glm_scale.checkpoint.state import TrainingState
from glm_scale.run_directory import COMMITTED

__all__ = ["FORMAT", "MANIFEST", "MARKER", "PENDING", "FormatError", "Manifest", "marker_of"]

FORMAT = 2
MANIFEST = "manifest.json"
MARKER = COMMITTED
PENDING = f"{MARKER}.pending"

_OWN_NAMES = {MANIFEST, MARKER, PENDING}
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FormatError(Exception):
    """The manifest is of another version; the message says which."""


@dataclass(frozen=True)
class Manifest:
    """`state` is what was saved beside the tensors. `files`: every file but the manifest and the
    marker, by name. `saved`: unix seconds, for people to read; nothing is decided by it.
    """

    step: int
    state: TrainingState
    files: dict[str, FileRecord]
    saved: float

    def encode(self) -> bytes:
        """As the bytes of the file."""
        files = {name: record._asdict() for name, record in sorted(self.files.items())}
        content = {
            "format": FORMAT,
            "step": self.step,
            "saved": self.saved,
            "state": self.state.as_json(),
            "files": files,
        }
        return json.dumps(content, indent=1).encode()

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Raises ValueError saying what is wrong, FormatError if it is right but of another version."""
        tree = json.loads(content)
        if not isinstance(tree, dict) or "format" not in tree:
            raise ValueError("it has no format")
        if tree["format"] != FORMAT:
            raise FormatError(f"its format is {tree['format']!r}, and this version reads format {FORMAT} only")
        try:
            manifest = cls(
                step=int(tree["step"]),
                state=TrainingState.from_json(tree["state"]),
                files={str(name): _record(record) for name, record in tree["files"].items()},
                saved=float(tree["saved"]),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"a field is missing or of the wrong kind ({error})") from error
        check_names(manifest.files)
        return manifest


def marker_of(manifest: bytes) -> bytes:
    """The content of the marker for that of manifest.json."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def check_names(files: Mapping[str, FileRecord]) -> None:
    """Raises ValueError for a name that is not one of a file inside the checkpoint."""
    for name in files:
        if not name or "/" in name or "\0" in name or name in {".", "..", *_OWN_NAMES}:
            raise ValueError(f"{name!r} is no name for a file of a checkpoint")


def _record(record: Mapping[str, Any]) -> FileRecord:
    size, sha256 = int(record["size"]), str(record["sha256"])
    if size < 0 or not _SHA256.fullmatch(sha256):
        raise ValueError(f"{size} bytes, sha256 {sha256!r} describe no file")
    return FileRecord(size, sha256)
