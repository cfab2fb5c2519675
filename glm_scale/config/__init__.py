"""Configuration of runs: a tree of typed groups, read from YAML and command-line overrides."""

from glm_scale.config.environment import check_environment
from glm_scale.config.ladder import LadderConfig
from glm_scale.config.layout import check_layout, layout_of
from glm_scale.config.loading import load_config, read_values, replaced, resolved_yaml, validate
from glm_scale.config.problems import ConfigError, Problem
from glm_scale.config.run import RunConfig

__all__ = [
    "ConfigError",
    "LadderConfig",
    "Problem",
    "RunConfig",
    "check_environment",
    "check_layout",
    "layout_of",
    "load_config",
    "read_values",
    "replaced",
    "resolved_yaml",
    "validate",
]
