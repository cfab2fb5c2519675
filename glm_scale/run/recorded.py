"""The configuration that a run was started with: from its directory, or from what its checkpoints hold of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from glm_scale.checkpoint.layout import places
from glm_scale.config.other_versions import understood
from glm_scale.errors import UserError
from glm_scale.run_directory import COMMITTED, RunDirectory

__all__ = ["Recorded", "recorded_config"]


@dataclass(frozen=True)
class Recorded:
    """A resolved configuration as a tree of plain values, and what the user should know of how it was read."""

    values: dict[str, Any]
    remarks: tuple[str, ...] = ()


def recorded_config(run: RunDirectory, first: Path | None = None) -> Recorded:
    """What is in the run's config.yaml, or if that is missing or damaged in the copy of its newest checkpoint.

    first: a file to look at before these.

    Raises:
        UserError: there is no copy that can be read, or it holds what this version does not know and cannot leave out.
    """
    problem = ""
    for path in (*([first] if first else []), run.config, *_copies(run)):
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            problem = problem or f"{path} is missing"
        except (OSError, ValueError, yaml.YAMLError) as error:
            problem = problem or f"{path} cannot be read ({' '.join(str(error).split())})"
        else:
            if isinstance(values, dict) and values:
                config, remarks = understood(values, path, "Go on with that version, or start a new run (name=…).")
                taken = (f"{problem}; {path} is taken instead",) if problem else ()
                return Recorded(config.model_dump(mode="json"), taken + remarks)
            problem = problem or f"{path} holds no configuration"
    raise UserError(
        f"{problem}, and no checkpoint of {run.path} holds a copy. Put the file back, or start anew with --fresh, "
        "which moves the run aside"
    )


def _copies(run: RunDirectory) -> Iterator[Path]:
    """Configurations beside the tensors of checkpoints, newest first."""
    whole = (place for place in reversed(places(run.checkpoints)) if (place.path / COMMITTED).exists())
    return (place.path / run.config.name for place in whole)
