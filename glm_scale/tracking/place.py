"""Whether a run directory is the one that its MLflow run belongs to, or a copy of it.

tracking.json goes along when a run directory is copied (`cp -a`, rsync), and with it the name of the original's MLflow
run. So it also says where the directory lay when it was mirrored last: machine, path, device and inode. The MLflow run
has a tag that says the same. From both follows whose the MLflow run is:

- The tag names another place than tracking.json and than this one: another directory has gone on in it since. This
  directory becomes a run of its own.
- Same inode and device, or same path, on the same machine: it is the directory itself, moved, renamed or restored.
- Another path on the same machine: a copy if the original still lies where it was, else the directory was moved, and
  keeps its MLflow run.
- Another machine: the same directory on a file system that both see if the inode is the same, and the path or the
  device too (a container); else a copy. Whether the original is still there cannot be seen from here, and a second
  MLflow run does less harm than two runs in one.

A copy gets an MLflow run of its own, with the whole history and a tag that names the original's, where the rule of
`glm_scale.tracking.uris` says. If both are trained on, each has its own; nothing ever has to be taken apart.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from glm_scale.run_directory import RunDirectory


class Place(BaseModel):
    """Where a run directory lies: machine, path without symbolic links, device and inode."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str
    path: Path
    device: int
    inode: int

    @classmethod
    def of(cls, run: RunDirectory) -> Self:
        """Where the run lies now."""
        path = run.path.resolve()
        status = path.stat()
        return cls(host=socket.gethostname(), path=path, device=status.st_dev, inode=status.st_ino)

    @classmethod
    def from_tag(cls, text: str | None) -> Self | None:
        """The place that a tag of an MLflow run names; None if there is none."""
        try:
            return None if text is None else cls.model_validate_json(text)
        except ValueError:
            return None

    @property
    def tag(self) -> str:
        """As the text of a tag."""
        return self.model_dump_json()

    def is_directory_of(self, other: Place) -> bool:
        """Whether both name one directory, which may have been renamed in between."""
        inode = self.inode == other.inode
        device, path = self.device == other.device, self.path == other.path
        return (path or (inode and device)) if self.host == other.host else inode and (path or device)


def is_copy(here: Place, recorded: Place, uid: str) -> bool:
    """Whether the directory `here`, whose tracking.json says `recorded` and `uid`, is a copy of what lies there."""
    if here.is_directory_of(recorded):
        return False
    return here.host != recorded.host or lies_at(recorded.path, uid)


def lies_at(path: Path, uid: str) -> bool:
    """Whether there is a run at `path` whose tracking.json says `uid`. What may not be read counts as being there."""
    try:
        content = json.loads(RunDirectory(path).tracking.read_bytes())
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("uid") == uid
