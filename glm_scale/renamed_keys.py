"""Keys of the configuration that earlier versions called otherwise. Imports nothing: comparisons of runs start fast."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["present_key", "renamed"]

_RENAMED: Mapping[str, Mapping[str, str]] = MappingProxyType({"evaluation": {"rows": "sequences"}})
"""By group: keys of earlier versions, and what they are called now."""


def present_key(key: str) -> str:
    """A dotted key as it is called now."""
    group, _, name = key.partition(".")
    present = _RENAMED.get(group, {}).get(name)
    return f"{group}.{present}" if present else key


def renamed(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A configuration as a tree, with its keys as they are called now; the very same tree if they are.

    A key that stands there under both names keeps both, so that the earlier one is refused as unknown.
    """
    for group, names in _RENAMED.items():
        keys = values.get(group)
        if not isinstance(keys, Mapping):
            continue
        present = {name: names[name] for name in keys if name in names and names[name] not in keys}
        if present:
            values = {**values, group: {present.get(name, name): value for name, value in keys.items()}}
    return values
