"""The runs of a ladder, from its file. Names are made by `glm_scale.naming`.

What the file leaves out follows from a size and its budgets (`shapes`, `hyperparameters`); what it has stands. A run
that is there under the name of an earlier version keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from glm_data.settings import Settings
from glm_scale.config import ConfigError, LadderConfig, Problem, RunConfig, load_config, read_values, validate
from glm_scale.config.changes import is_same_run
from glm_scale.config.ladder import LadderMixer, LadderSize
from glm_scale.ladder.budgets import Budget, budgets, shared_settings
from glm_scale.ladder.shapes import Shape, shape_for
from glm_scale.naming import former_slug, name_in_use, setting, slug
from glm_scale.run.recorded import recorded_config
from glm_scale.run_directory import RunDirectory

__all__ = ["Ladder", "Member", "is_finished", "read_ladder"]


@dataclass(frozen=True)
class Member:
    """One run of a ladder: its configuration, and the overrides that make it from the ladder's file.

    `parameters`: outside the embeddings, as the size asks for; None if it does not say. `shape`: that follows from it.
    `budget`: None for that of `training.tokens`.
    """

    config: RunConfig
    overrides: tuple[str, ...]
    parameters: float | None = None
    shape: Shape | None = None
    budget: Budget | None = None

    @property
    def name(self) -> str:
        """Of the run."""
        return self.config.name

    @property
    def run(self) -> RunDirectory:
        """Its directory."""
        return RunDirectory(self.config.run_root / self.config.name)

    @property
    def trunk(self) -> str | None:
        """The run that it begins from, if it is a branch."""
        return self.config.branch.run if self.config.branch else None

    @property
    def own_steps(self) -> int:
        """Optimizer steps that it makes itself."""
        return self.config.training.steps - (self.config.branch.step if self.config.branch else 0)


@dataclass(frozen=True)
class Ladder:
    """The runs of a file with `overrides`, those first that others begin from."""

    path: Path
    overrides: tuple[str, ...]
    name: str
    config: LadderConfig
    members: tuple[Member, ...]

    @property
    def run_root(self) -> Path:
        """The folder of the runs."""
        return self.members[0].config.run_root


class _File(Settings, extra="ignore"):
    """What is read of the file before anything is derived."""

    name: str
    run_root: Path = Path("runs")
    ladder: LadderConfig


def read_ladder(path: Path, overrides: Sequence[str] = ()) -> Ladder:
    """The ladder in the configuration `path`; nothing is started.

    Raises:
        ConfigError: there is no ladder, a run's configuration is not valid, or two runs would have one name.
        UserError: a size or a budget is impossible.
    """
    values = read_values(path, overrides)
    if values.get("ladder") is None:
        load_config(path, overrides)  # what else is wrong is told first
        raise ConfigError(
            str(path), [Problem("ladder", "is missing: list the mixers to train in ladder.mixers", show_value=False)]
        )
    keys = [override.partition("=")[0] for override in overrides]
    file = validate(_File, values, str(path), keys)
    members = tuple(
        member
        for size in file.ladder.sizes
        for mixer in file.ladder.mixers
        if not mixer.sizes or size.parameters in mixer.sizes
        for member in _Rung(path, tuple(overrides), values, file, mixer, size).members()
    )
    names = [member.name for member in members]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(str(path), [Problem("ladder", f"has two runs named {name}; each mixer and size once")])
    return Ladder(path, tuple(overrides), file.name, file.ladder, members)


def is_finished(member: Member) -> bool:
    """Whether the run is there, finished, and of this very configuration; if not, `train` finds out what to do."""
    run = member.run
    if not run.exists() or run.status() != "finished":
        return False
    return is_same_run(recorded_config(run).values, member.config.model_dump(mode="json"))


@dataclass(frozen=True)
class _Rung:
    """All runs of one mixer at one size."""

    path: Path
    overrides: tuple[str, ...]
    values: Mapping[str, Any]
    file: _File
    mixer: LadderMixer
    size: LadderSize

    def members(self) -> Iterator[Member]:
        ladder, size, none = self.file.ladder, self.size, (None,)
        seeds = ladder.seeds if size.seeds is None else size.seeds
        rates = ladder.learning_rates if size.learning_rates is None else size.learning_rates
        for seed, rate in product(seeds or none, rates or none):
            trunk: str | None = None
            for budget in self._budgets or none:
                member = self._member(seed, rate, budget, trunk)
                trunk = trunk or member.name
                yield member

    def _member(self, seed: int | None, rate: float | None, budget: Budget | None, trunk: str | None) -> Member:
        own: dict[str, Any] = {"name": self._name(seed, rate, budget), "model.mixers": self.mixer.mixers}
        own |= self._derived
        own["tracking.parent"] = self.file.name
        if size := self._size_tag:
            own["tracking.tags.size"] = size
        if seed is not None:
            own |= {"training.seed": seed, "data.seed": seed}
        if rate is not None:
            own["training.optimizer.learning_rate"] = rate * self._setting("training.optimizer.learning_rate", 3e-4)
        if budget is not None:
            own |= self._of_budget(budget, trunk)
        changed = (*self.overrides, *(f"{key}={json.dumps(value)}" for key, value in own.items()))
        config = load_config(self.path, changed)
        return Member(config, changed, self.size.parameters, self._shape, budget)

    def _of_budget(self, budget: Budget, trunk: str | None) -> dict[str, Any]:
        batch = self._setting("training.batch_tokens", 1)
        of_budget = {
            "training.tokens": budget.steps * batch,
            "training.schedule.decay_tokens": budget.decay * batch,
        }
        if trunk is not None:
            return of_budget | {"branch.run": trunk, "branch.step": budget.begins}
        assert self._budgets is not None
        return of_budget | {"checkpoint.at": [branch.begins for branch in self._budgets[1:]]}

    @property
    def _size_tag(self) -> str:
        """The same for all mixers, whose numbers of parameters differ a little; empty where there is one size."""
        if self.size.parameters is not None:
            return _in_millions(self.size.parameters)
        return _size_name(self.size.settings) if len(self.file.ladder.sizes) > 1 else ""

    @cached_property
    def _own(self) -> dict[str, Any]:
        """Settings of the size and of the mixer; where both have one, the mixer's."""
        return self.size.settings | self.mixer.settings

    @cached_property
    def _given(self) -> dict[str, Any]:
        """Keys that the file, the overrides, the size or the mixer have."""
        return dict(_flat(self.values)) | self._own

    @cached_property
    def _shape(self) -> Shape | None:
        if self.size.parameters is None:
            return None
        model = {key.removeprefix("model."): v for key, v in self._given.items() if key.startswith("model.")}
        return shape_for(self.size.parameters, self.mixer.mixers, model)

    @cached_property
    def _derived(self) -> dict[str, Any]:
        """Keys of all runs of this mixer and size, besides those that the file has."""
        parameters, own = self.size.parameters, self._own
        if parameters is None or self._shape is None:
            return own
        shape = {key: value for key, value in self._shape.overrides().items() if key not in self._given}
        tokens = [ratio * parameters for ratio in self.file.ladder.tokens_per_parameter]
        if not tokens and "training.tokens" in self._given:
            tokens = [self._given["training.tokens"]]
        if "data.sequence_length" not in self._given or not tokens:
            return own | shape  # what is missing is told when the run's configuration is checked
        return own | shape | shared_settings(parameters, tokens, self._given | shape)

    @cached_property
    def _budgets(self) -> list[Budget] | None:
        """None for that of the file."""
        ladder = self.file.ladder
        if not ladder.tokens_per_parameter or self.size.parameters is None:
            return None
        batch, warmup = self._setting("training.batch_tokens", 1), self._setting("training.schedule.warmup_tokens", 0)
        return budgets(self.size.parameters, ladder.tokens_per_parameter, ladder.decay, batch, warmup)

    def _setting(self, key: str, otherwise: Any) -> Any:
        return self._derived.get(key, self._given.get(key, otherwise))

    def _name(self, seed: int | None, rate: float | None, budget: Budget | None) -> str:
        base, root, mixer = self.file.name, self.file.run_root, "+".join(self.mixer.mixers)
        more = [
            *([f"{budget.ratio:05.1f}t"] if budget else []),
            *([f"s{seed}"] if seed is not None else []),
            *([f"lr{rate:g}"] if rate is not None else []),
        ]
        if self.size.parameters is not None:
            # In the order in which people want to see them sorted.
            return "-".join([base, _in_millions(self.size.parameters), slug(mixer), *more])
        sizes = [self.size.settings] if len(self.file.ladder.sizes) > 1 else []
        former = "-".join([base, former_slug(mixer), *map(_former_size, sizes), *more])
        return name_in_use(root, "-".join([base, slug(mixer), *map(_size_name, sizes), *more]), former)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of groups; a list is a value."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _in_millions(parameters: float) -> str:
    """With zeros in front: texts sort as the numbers do."""
    return f"{parameters / 1e6:07.2f}M"


def _size_name(size: dict[str, Any]) -> str:
    return "-".join(setting(key, value) for key, value in size.items()) or "base"


def _former_size(size: dict[str, Any]) -> str:
    return "-".join(f"{key.rsplit('.', 1)[-1]}{former_slug(str(value))}" for key, value in size.items()) or "base"
