"""`glm-scale train`."""

import typer

from glm_scale.cli.arguments import ConfigPath, Overrides


def train(config: ConfigPath, overrides: Overrides = None) -> None:
    """Train one run into RUN_ROOT/NAME; the same command goes on from the newest checkpoint.

    Ctrl-C or SIGTERM saves a checkpoint at the next step and stops; a second one stops at once.
    """
    from glm_scale.config import check_environment, load_config

    run = load_config(config, overrides or ())
    check_environment(run, str(config))

    from glm_scale.training.session import train as train_run

    outcome = train_run(run)
    if outcome.signal is not None:
        raise typer.Exit(128 + outcome.signal)
