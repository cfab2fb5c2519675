"""Turn what pydantic finds wrong with a configuration into one text a user can act on.

Every problem is told as: path of the key, its value, where it was set, what is allowed, the nearest known key.
"""

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from glm_scale.errors import UserError

__all__ = ["ConfigError", "Problem", "booleans_for_numbers", "dotted", "group_in", "problems_of", "walk"]

_PLAIN = {
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
    "list_type": "must be a list, like [a, b]",
    "tuple_type": "must be a list, like [a, b]",
    "model_type": "must be a group of keys",
    "model_attributes_type": "must be a group of keys",
    "dict_type": "must be a group of keys",
    "none_required": "must be null",
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong: `path` of the key ("" for the file as a whole), its value, what to do about it."""

    path: str
    message: str
    value: Any = None
    show_value: bool = True

    def render(self, overridden: bool) -> str:
        """In words: key, value, what is wrong with it."""
        value = f" = {self.value!r}" if self.show_value else ""
        origin = "  (from the command line)" if overridden else ""
        head = f"  {self.path}{value}{origin}\n      " if self.path else "  "
        return head + self.message


class ConfigError(UserError):
    """Everything wrong with one configuration, in one message."""

    def __init__(self, origin: str, problems: Sequence[Problem], overridden: Sequence[str] = ()) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [problem.render(any(_covers(key, problem.path) for key in overridden)) for problem in self.problems]
        super().__init__("\n".join([f"{count} in the configuration {origin}", *lines]))


def problems_of(error: ValidationError, schema: type[BaseModel]) -> list[Problem]:
    """The problems behind a pydantic error, in the order of the keys."""
    return [_problem(detail, schema) for detail in error.errors(include_url=False)]


def booleans_for_numbers(values: Any, schema: type[BaseModel], prefix: str = "") -> Iterator[Problem]:
    """The keys where `true` or `false` stands for a number: Python takes them for 1 and 0, a user did not mean that."""
    for name, field in schema.model_fields.items():
        value = values.get(name) if isinstance(values, Mapping) else None
        path, group = f"{prefix}{name}", group_in(field.annotation)
        if group is not None:
            yield from booleans_for_numbers(value, group, f"{path}.")
        kinds = _plain_types(field.annotation)
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            yield Problem(path, "must be an integer" if int in kinds else "must be a number", value)


def _plain_types(annotation: Any) -> set[Any]:
    arguments = typing.get_args(annotation)
    return set().union(*map(_plain_types, arguments)) if arguments else {annotation}


def _problem(detail: Mapping[str, Any], schema: type[BaseModel]) -> Problem:
    location, parent = walk(detail["loc"], schema)
    path = dotted(location)
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return Problem(path, _unknown_key(location, parent, schema), value)
    if kind == "missing":
        return Problem(path, "is missing and has no default", show_value=False)
    if kind == "value_error":
        # A rule between several keys reports the whole group; the message names the keys and values itself.
        return Problem(path, str(detail["ctx"]["error"]), value, show_value=not isinstance(value, Mapping))
    message = _PLAIN.get(kind) or detail["msg"].replace("Input should be", "must be")
    return Problem(path, message[0].lower() + message[1:], value)


def _unknown_key(location: tuple[str | int, ...], parent: type[BaseModel], schema: type[BaseModel]) -> str:
    key, siblings = str(location[-1]), list(parent.model_fields)
    prefix = dotted(location[:-1])
    near = difflib.get_close_matches(key, siblings, n=1) or [name for name in siblings if _initials(name) == key]
    if near:
        suggestion = f"{prefix}.{near[0]}" if prefix else near[0]
    else:
        leaves = {path.rsplit(".", 1)[-1]: path for path in _paths(schema)}
        close = difflib.get_close_matches(key, leaves, n=1) or [n for n in leaves if _initials(n) == key]
        suggestion = leaves[close[0]] if close else ""
    hint = f"did you mean {suggestion}? " if suggestion else ""
    return f"is not a known key; {hint}Known here: {', '.join(sorted(siblings))}"


def walk(loc: Sequence[str | int], schema: type[BaseModel]) -> tuple[tuple[str | int, ...], type[BaseModel]]:
    """The path of keys within pydantic's location (which mixes in names of union members), and the last group."""
    location: list[str | int] = []
    group: type[BaseModel] | None = schema
    parent = schema
    for part in loc:
        if isinstance(part, int):
            location.append(part)
        elif group is not None:
            location.append(part)
            parent = group
            field = group.model_fields.get(part)
            group = group_in(field.annotation) if field else None
    return tuple(location), parent


def group_in(annotation: Any) -> type[BaseModel] | None:
    """The configuration group that an annotation holds: itself, or in an option, a list or a tuple."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((group for arg in typing.get_args(annotation) if (group := group_in(arg))), None)


def _paths(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in schema.model_fields.items():
        group = group_in(field.annotation)
        yield f"{prefix}{name}"
        if group is not None:
            yield from _paths(group, f"{prefix}{name}.")


def dotted(location: Sequence[str | int]) -> str:
    """Keys and positions in lists as a user writes them: data.sources[0].path."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))


def _covers(key: str, path: str) -> bool:
    return path == key or path.startswith((f"{key}.", f"{key}["))
