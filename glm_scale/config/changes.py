"""What may change in the configuration of a run that goes on, and what would make it another run."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from glm_data.settings import OnResume
from glm_scale.config.problems import group_in
from glm_scale.config.run import RunConfig
from glm_scale.errors import UserError

__all__ = ["Change", "changes", "check_resumable", "is_free", "is_same_run", "names_other_data", "on_resume"]

_BUDGET = "training.tokens"
# The directory of a run is run_root/name: one that holds a run of another name was renamed.
_NAME = "name"
_SOURCE_PATH = re.compile(r"data\.sources\[\d+\]\.path")


@dataclass(frozen=True)
class Change:
    """One key whose value differs from the one the run was started with."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.before!r} → {self.after!r}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The keys in which two resolved configurations differ, in the order of the first."""
    old, new = dict(_flat(before)), dict(_flat(after))
    keys = dict.fromkeys([*old, *new])
    return [Change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def is_same_run(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two resolved configurations compute the same numbers on the same data, rounding aside."""
    return all(is_free(change.key) for change in changes(before, after))


def is_free(key: str) -> bool:
    """Whether a key does not touch which numbers are computed on which data, rounding aside."""
    return on_resume(key) is not OnResume.FIXED


def on_resume(key: str) -> OnResume:
    """What another value of a dotted key means for a run that goes on, as the fields say it; of a key that no field
    has, what the group says that it would be in."""
    schema: type[BaseModel] | None = RunConfig
    found = OnResume.FIXED
    for part in re.findall(r"[^.\[\]]+", key):
        field = schema.model_fields.get(part) if schema else None
        if field is not None:
            found = next((mark for mark in field.metadata if isinstance(mark, OnResume)), found)
        schema = group_in(field.annotation) if field is not None else schema if part.isdecimal() else None
    return found


def names_other_data(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a source of data has another path than before, so that its fingerprint decides."""
    return any(_SOURCE_PATH.fullmatch(change.key) for change in changes(before, after))


def check_resumable(before: Mapping[str, Any], after: Mapping[str, Any], tokens_done: int, where: str) -> list[str]:
    """Remarks for the user about a run that goes on with a changed configuration.

    Data may lie elsewhere than before; that they are the same has to be seen where they can be read.

    Raises:
        UserError: a change would make it another run; names every such key.
    """
    remarks, refused = [], []
    for change in changes(before, after):
        if change.key == _BUDGET and change.after >= tokens_done:
            remarks.append(f"{change}; the learning-rate schedule stretches with the budget from here on")
        elif change.key == _NAME:
            remarks.append(f"{change}; its directory was renamed, and it goes on under the new name")
        elif _SOURCE_PATH.fullmatch(change.key) and None not in (change.before, change.after):
            remarks.append(f"{change}; the data are the same")
        elif not is_free(change.key):
            refused.append(change)
        elif on_resume(change.key) is OnResume.ROUNDING:
            remarks.append(f"{change}; losses may differ from the earlier ones by rounding")
        else:
            remarks.append(str(change))
    if refused:
        listing = "\n".join(f"  {change}" for change in refused)
        raise UserError(
            f"{where} was started with another configuration, and these changes would make it another run:\n"
            f"{listing}\nGo on with the old values, or give this run a new name (name=…)."
        )
    return remarks


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _flat(value, f"{prefix}[{index}]")
    else:
        yield prefix, values
