"""`glm-scale train`."""

import os
import sys

import typer

from glm_scale.cli.arguments import ConfigPath, Overrides


def train(config: ConfigPath, overrides: Overrides = None) -> None:
    """Train one run into RUN_ROOT/NAME; the same command goes on from the newest checkpoint.

    With parallel.tensor=2, parallel.sequence=2 or parallel.data=2 it runs on so many processes of this machine, each
    with a GPU of its own where there are GPUs. If a launcher has started the processes, each takes its part in the run.

    Ctrl-C or SIGTERM saves a checkpoint at the next step and stops; a second one stops at once.
    """
    from glm_scale.config import check_environment, check_layout, layout_of, load_config

    run = load_config(config, overrides or ())
    check_environment(run, str(config))
    layout = layout_of(run)
    check_layout(run, layout, str(config))
    if layout.processes > 1 and "RANK" not in os.environ:
        from glm_scale.launching import launch

        command = [sys.executable, "-m", "glm_scale.cli.app", "train", str(config), *(overrides or ())]
        raise typer.Exit(launch(command, layout.processes, logs=run.run_root / run.name / "ranks"))

    from glm_scale.training.session import train as train_run

    outcome = train_run(run)
    if outcome.signal is not None:
        raise typer.Exit(128 + outcome.signal)
