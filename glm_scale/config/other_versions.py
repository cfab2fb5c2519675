"""Configurations that were written by another version of this package, as the present one understands them.

A version may have other keys than the one that wrote the file. What is new there gets its default, and a new key's
default is what was done before there was the key; so it is no change. What is gone is named. It does no harm where it
could have changed no number, or had the value of `GONE`; else the model is that of another version.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from glm_scale import __version__
from glm_scale.config import RunConfig
from glm_scale.config.changes import is_free
from glm_scale.config.problems import dotted, problems_of, walk
from glm_scale.errors import UserError
from glm_scale.renamed_keys import renamed
from glm_scale.run_directory import RunDirectory

__all__ = ["GONE", "understood"]

GONE: Mapping[str, Any] = MappingProxyType({})
"""Keys of earlier versions, and for each the value with which they did what is always done now."""


def understood(values: dict[str, Any], path: Path, way_out: str) -> tuple[RunConfig, tuple[str, ...]]:
    """The configuration that `path` holds, and what was left out of it, in words. Uses `values` up.

    Raises:
        UserError: it holds what this version does not know and cannot leave out; ends with `way_out`.
    """
    # What is left out is looked for by its present name.
    values = dict(renamed(values))
    remarks: list[str] = []
    while True:
        try:
            return RunConfig.model_validate(values), tuple(remarks)
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
                written = RunDirectory(path.parent).read_version().get("glm_scale")
                by = f"version {written}" if written and written != __version__ else "another version"
                raise UserError(
                    f"{path} was written by {by} of glm-scale, and this one ({__version__}) would make another model "
                    "of it, because it does not know these values:\n" + "\n".join(refused) + f"\n{way_out}"
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
