"""Whether this machine holds what a configuration asks for: data, a place to write, a device."""

import os
from collections.abc import Iterator
from pathlib import Path

from glm_data import DataError, load_index
from glm_scale.config.problems import ConfigError, Problem
from glm_scale.config.run import RunConfig
from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking.where import where_tracked

__all__ = ["check_environment"]


def check_environment(config: RunConfig, origin: str) -> None:
    """Raise a ConfigError naming everything that is missing here; done before anything heavy is loaded."""
    problems = [*_data_problems(config), *_folder_problems(config.run_root), *_tracking_problems(config)]
    if problems:
        raise ConfigError(origin, problems)


def _data_problems(config: RunConfig) -> Iterator[Problem]:
    for number, source in enumerate(config.data.sources):
        key = f"data.sources[{number}].path"
        try:
            index = load_index(source.path)
        except DataError as error:
            yield Problem(key, str(error), str(source.path))
            continue
        if index.vocabulary_size > config.model.vocab_size:
            yield Problem(
                "model.vocab_size",
                f"is too small for the {index.vocabulary_size} tokens of {source.path}; "
                f"set model.vocab_size={index.vocabulary_size}",
                config.model.vocab_size,
            )


def _folder_problems(folder: Path) -> Iterator[Problem]:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        yield Problem("run_root", f"cannot be a folder: {existing} is a file", str(folder))
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Problem("run_root", f"cannot be written: no permission in {existing}; set a folder of yours", str(folder))


def _tracking_problems(config: RunConfig) -> Iterator[Problem]:
    if config.tracking.enabled:
        try:
            where_tracked(RunDirectory(config.run_root / config.name), config.tracking)
        except UserError as error:
            yield Problem("tracking.uri", str(error), show_value=False)
