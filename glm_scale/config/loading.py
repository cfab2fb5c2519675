"""Read a configuration: YAML and `a.b=c` overrides, merged by OmegaConf, checked by pydantic.

Whatever is wrong is reported as one `ConfigError` that lists every problem.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from glm_scale.config.problems import ConfigError, Problem, booleans_for_numbers, problems_of
from glm_scale.config.run import RunConfig
from glm_scale.renamed_keys import present_key, renamed

__all__ = ["load_config", "read_values", "replaced", "resolved_yaml", "validate"]

Config = TypeVar("Config", bound=BaseModel)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run configuration in the YAML file `path`, with `overrides` such as "training.seed=7" applied.

    Values may refer to one another by OmegaConf's interpolation, `${data.sequence_length}`.

    Raises:
        ConfigError: naming every problem, the file and the keys.
    """
    return _with_overrides(_read(path), overrides, str(path))


def read_values(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What the file and the overrides say, merged and not checked: a tree that may lack what a run has to have.

    Raises ConfigError for what is no YAML or no override.
    """
    values: dict[str, Any] = _merge(_renamed(_read(path)), overrides, str(path))
    return values


def replaced(values: dict[str, Any], overrides: Sequence[str], origin: str) -> RunConfig:
    """Like `load_config`, of what was read from `origin` already."""
    return _with_overrides(OmegaConf.create(values), overrides, origin)


def _with_overrides(values: DictConfig, overrides: Sequence[str], origin: str) -> RunConfig:
    keys = [present_key(override.partition("=")[0]) for override in overrides]
    return validate(RunConfig, _merge(_renamed(values), overrides, origin), origin, keys)


def _renamed(values: DictConfig) -> DictConfig:
    """One name for each key, before an override by the one name meets what the file says by the other."""
    tree: Any = OmegaConf.to_container(values)
    present = renamed(tree)
    return values if present is tree else OmegaConf.create(dict(present))


def validate(schema: type[Config], values: Any, origin: str, overridden: Sequence[str] = ()) -> Config:
    """`values` as an instance of `schema`; errors name their source `origin`, and which keys were `overridden`."""
    problems = list(booleans_for_numbers(values, schema))
    try:
        config = schema.model_validate(values)
    except ValidationError as error:
        told = {problem.path for problem in problems}
        problems += [problem for problem in problems_of(error, schema) if problem.path not in told]
    if problems:
        raise ConfigError(origin, problems, overridden)
    return config


def resolved_yaml(config: BaseModel) -> str:
    """A configuration with every default filled in, as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> DictConfig:
    try:
        values = OmegaConf.load(path)
    except FileNotFoundError:
        raise ConfigError(str(path), [Problem("", _missing_file(path))]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [Problem("", f"cannot be read: {error}")]) from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(str(path), [Problem("", f"is not valid YAML: {_one_line(error)}")]) from None
    if not isinstance(values, DictConfig):
        raise ConfigError(
            str(path), [Problem("", "must hold groups of keys (name: …, model: …), not a list or a value")]
        )
    return values


def _merge(values: DictConfig, overrides: Sequence[str], origin: str) -> Any:
    problems: list[Problem] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(Problem("", f"override {override!r} is not of the form key=value, such as training.seed=7"))
            continue
        try:
            # The value is read as YAML; a group is merged into what is there, a list replaces it.
            parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
            value = renamed({key: parsed["value"]})[key]  # type: ignore[call-overload,index]
            OmegaConf.update(values, present_key(key), value, force_add=True)
        except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError) as error:
            problems.append(Problem("", f"override {override!r} cannot be applied: {_one_line(error)}"))
    try:
        merged = OmegaConf.to_container(values, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        problems.append(Problem(str(error.full_key or ""), _one_line(error), show_value=False))
    if problems:
        raise ConfigError(origin, problems)
    return merged


def _missing_file(path: Path) -> str:
    neighbours = sorted(path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    if not neighbours:
        return "no such file"
    return f"no such file; there are {', '.join(str(neighbour) for neighbour in neighbours)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split("full_key:")[0].split())
