"""`glm-scale config`."""

import sys

from glm_scale.cli.arguments import ConfigPath, Overrides


def config(config: ConfigPath, overrides: Overrides = None) -> None:
    """Check a configuration and print it with every default filled in."""
    from glm_scale.config import load_config, resolved_yaml

    sys.stdout.write(resolved_yaml(load_config(config, overrides or ())))
