"""The copy of configuration and code that a job runs: what is edited afterwards does not reach a job that waits."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

from glm_data.files import write_atomically
from glm_scale.config import RunConfig, resolved_yaml
from glm_scale.errors import UserError
from glm_scale.version import SNAPSHOT, code_version

__all__ = ["PACKAGES", "snapshot_code", "snapshot_config"]

PACKAGES = ("glm_kernels", "glm_data", "glm_scale", "glm_launch")


def snapshot_code(target: Path) -> None:
    """Copy the packages of this project into the folder `target`, with the version that they are of.

    What is compiled already is copied too: hundreds of processes may start from there at once. An earlier copy is
    replaced. Raises UserError where that is not possible.
    """
    fresh = target.with_name(f".{target.name}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        for package in PACKAGES:
            shutil.copytree(_folder_of(package), fresh / package)
        write_atomically(fresh / SNAPSHOT, json.dumps(code_version(), indent=2) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    except OSError as error:
        raise UserError(f"cannot copy the code to {target}: {error.strerror or error}") from error


def snapshot_config(config: RunConfig, target: Path) -> None:
    """Write a configuration with every default and override, as the job reads it."""
    write_atomically(target, resolved_yaml(config.model_copy(update={"ladder": None})))


def _folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent
