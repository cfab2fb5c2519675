"""The configuration that a run was started with, as the present version of this package understands it.

A version may have other keys than the one that wrote the file. What is new there gets its default, and a new key's
default is what was done before there was the key; so it is no change. What is gone is named. It does no harm where it
could have changed no number, or had the value of `GONE`; else the run is that of another version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import ValidationError

from glm_scale import __version__
from glm_scale.config import RunConfig
from glm_scale.config.problems import dotted, problems_of, walk
from glm_scale.errors import UserError
from glm_scale.runs import COMMITTED, RunDirectory
from glm_scale.training.checkpoint.layout import places
from glm_scale.training.resume import is_free

__all__ = ["GONE", "Recorded", "recorded_config"]

GONE: Mapping[str, Any] = MappingProxyType({})
"""Keys of earlier versions, and for each the value with which they did what is always done now."""


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
                read, remarks = _understood(values, path, run)
                return Recorded(read, ((f"{problem}; {path} is taken instead",) if problem else ()) + remarks)
            problem = problem or f"{path} holds no configuration"
    raise UserError(
        f"{problem}, and no checkpoint of {run.path} holds a copy. Put the file back, or start anew with --fresh, "
        "which moves the run aside"
    )


def _copies(run: RunDirectory) -> Iterator[Path]:
    """Configurations beside the tensors of checkpoints, newest first."""
    whole = (place for place in reversed(places(run.checkpoints)) if (place.path / COMMITTED).exists())
    return (place.path / run.config.name for place in whole)


def _understood(values: dict[str, Any], path: Path, run: RunDirectory) -> tuple[dict[str, Any], tuple[str, ...]]:
    remarks: list[str] = []
    while True:
        try:
            return RunConfig.model_validate(values).model_dump(mode="json"), tuple(remarks)
        except ValidationError as error:
            refused = []
            for detail, problem in zip(error.errors(include_url=False), problems_of(error, RunConfig), strict=True):
                location, _ = walk(detail["loc"], RunConfig)
                key, unknown = dotted(location), detail["type"] == "extra_forbidden"
                harmless = is_free(key) or (unknown and key in GONE and GONE[key] == detail["input"])
                if harmless and _remove(values, location):
                    said = "is not known to this version" if unknown else f"is not valid any more ({problem.message})"
                    remarks.append(f"{key} = {detail['input']!r} in {path} {said}, and was left out")
                else:
                    refused.append(
                        f"  {problem.path or 'name'} = {detail['input']!r}" if unknown else f"{problem.render(False)}"
                    )
            if refused:
                written = run.read_version().get("glm_scale")
                by = f"version {written}" if written and written != __version__ else "another version"
                raise UserError(
                    f"{path} was written by {by} of glm-scale, and this one ({__version__}) would train it otherwise, "
                    "because it does not know these values:\n" + "\n".join(refused) + "\n"
                    "Go on with that version, or start a new run (name=…)."
                ) from None


def _remove(values: Any, location: Sequence[str | int]) -> bool:
    """Take a key out of a tree; whether it was there."""
    *parents, last = location
    for part in parents:
        try:
            values = values[part]
        except (LookupError, TypeError):
            return False
    if not isinstance(values, MutableMapping) or last not in values:
        return False
    del values[last]
    return True
