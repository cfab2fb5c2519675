"""Which runs a comparison shows: `--finished`, and `--filter KEY=VALUE` by columns or configuration."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import yaml

from glm_scale.errors import UserError
from glm_scale.renamed_keys import present_key
from glm_scale.scaling.curves import TrainedRun

_FORM = re.compile(r"\s*([A-Za-z_][\w.\[\]]*)\s*(!=|<=|>=|==?|<|>)\s*(.*?)\s*", re.S)
_ORDER: Mapping[str, Callable[[Any, Any], bool]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)
COLUMNS: Mapping[str, Callable[[TrainedRun], Any]] = MappingProxyType(
    {
        "run": lambda run: run.name,
        "mixer": lambda run: run.mixer,
        "parameters": lambda run: run.summary.parameters,
        "tokens": lambda run: run.tokens,
        "flops": lambda run: run.flops,
        "train_loss": lambda run: run.train_loss,
        "validation_loss": lambda run: run.validation_loss,
        "bits_per_byte": lambda run: run.bits_per_byte,
        "tokens_per_second": lambda run: run.tokens_per_second,
        "status": lambda run: run.status,
    }
)
_SHOWN = 8


@dataclass(frozen=True)
class Filter:
    """A condition on runs, such as `mixer=lattice:*`, `model.width=512` or `parameters>=1e6`.

    Texts are equal if they match as a pattern of the shell, numbers by value; what a run does not have equals nothing.
    """

    key: str
    comparison: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Raises UserError for what is no condition."""
        if (found := _FORM.fullmatch(text)) is None or not found[3]:
            raise UserError(
                f"--filter {text!r} is not of the form KEY=VALUE, such as mixer=lattice:2^k, model.width=512 or "
                "'parameters>=1e6'; != < <= > >= compare as well"
            )
        given = cls(present_key(found[1]), found[2].replace("==", "="), found[3])
        if given.comparison in _ORDER and not isinstance(given.parsed, int | float):
            raise UserError(f"--filter {text!r}: {given.comparison} compares numbers, and {given.value!r} is none")
        return given

    @property
    def parsed(self) -> Any:
        """The value as YAML reads it, and numbers as people write them (1e6)."""
        try:
            return float(self.value) if re.fullmatch(r"[-+]?[\d._]+e[-+]?\d+", self.value, re.I) else _yaml(self.value)
        except ValueError:
            return self.value

    def __str__(self) -> str:
        return f"{self.key}{self.comparison}{self.value}"

    def holds(self, value: Any) -> bool:
        """Whether the condition holds for a value of the key; None: there is none."""
        if self.comparison in _ORDER:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and _ORDER[self.comparison](value, self.parsed)
        equal = value is not None and (value == self.parsed or fnmatchcase(_text(value), self.value))
        return equal == (self.comparison == "=")


def select(runs: Sequence[TrainedRun], filters: Iterable[Filter] = (), finished: bool = False) -> list[TrainedRun]:
    """The runs for which all of this holds, in their order.

    Raises UserError for a key that neither the table nor the configuration of a run has, naming the nearest, and if no
    run is left.
    """
    configs = [dict(_flat(run.config)) for run in runs]
    known = [*COLUMNS, *dict.fromkeys(key for config in configs for key in config)]
    left = list(zip(runs, configs, strict=True))
    for condition in filters:
        if condition.key not in known:
            raise UserError(f"--filter {condition}: {_unknown(condition.key, known)}")
        values = {id(run): _value(run, config, condition.key) for run, config in left}
        kept = [(run, config) for run, config in left if condition.holds(values[id(run)])]
        if not kept:
            there = sorted({_text(value) for value in values.values() if value is not None})
            said = ", ".join(there[:_SHOWN]) + (" …" if len(there) > _SHOWN else "")
            raise UserError(
                f"--filter {condition} leaves none of {len(left)} runs; {condition.key} is {said or 'unset'}"
            )
        left = kept
    chosen = [run for run, _ in left if run.status == "finished" or not finished]
    if finished and not chosen:
        raise UserError(f"none of {len(left)} runs has finished; leave --finished out to see how far they have come")
    return chosen


def _value(run: TrainedRun, config: Mapping[str, Any], key: str) -> Any:
    return COLUMNS[key](run) if key in COLUMNS else config.get(key)


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a configuration; lists of plain values are values."""
    if isinstance(tree, Mapping) and (tree or not prefix):
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        for index, value in enumerate(tree):
            yield from _flat(value, f"{prefix}[{index}]")
    else:
        yield prefix, tree


def _unknown(key: str, known: Sequence[str]) -> str:
    ends = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    near = difflib.get_close_matches(key, known, n=1)
    near = near or [ends[end] for end in difflib.get_close_matches(key.rsplit(".", 1)[-1], ends, n=1)]
    hint = f"did you mean {near[0]}? " if near else ""
    return (
        f"neither the table nor the configuration of these runs has {key!r}; {hint}Columns: {', '.join(COLUMNS)}; keys "
        "of the configuration are those of config.yaml, such as model.width"
    )


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _text(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
