"""What may change in the configuration of a run that goes on, and what would make it another run."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from glm_scale.errors import UserError

__all__ = ["Change", "changes", "check_resumable", "is_free", "is_same_run", "names_other_data"]

# What does not touch which numbers are computed on which data: where, how fast, how often looked at.
_FREE = (
    "run_root",
    "ladder",
    "tracking",
    "evaluation",
    "checkpoint",
    "data.workers",
    "data.prefetch",
    "training.micro_batch",
    "training.zero_stage",
    "training.activation_checkpointing",
    "training.compile",
    "training.deterministic",
    "training.device",
    "training.bad_step_limit",
    "training.spikes",
    "training.time_limit_minutes",
    "training.check_memory",
    "parallel",
)
# Of the free keys, those that change the order of floating-point sums.
_ROUNDING = (
    "training.micro_batch",
    "training.zero_stage",
    "training.activation_checkpointing",
    "training.compile",
    "training.device",
    "parallel.tensor",
    "parallel.sequence",
    "parallel.data",
    "parallel.strategy",
    "parallel.shard_activations",
)
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
    return _is_any(key, _FREE)


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
        elif _is_any(change.key, _ROUNDING):
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


def _is_any(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith((f"{prefix}.", f"{prefix}[")) for prefix in prefixes)


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _flat(value, f"{prefix}[{index}]")
    else:
        yield prefix, values
