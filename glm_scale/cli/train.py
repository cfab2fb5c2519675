"""`glm-scale train`."""

import shlex
import sys
from typing import Annotated

import typer

from glm_scale.cli.arguments import ConfigPath, Overrides
from glm_scale.output import is_commentary

Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start a new run; one that is in RUN_ROOT/NAME is moved to NAME.1, NAME.2, …")
]


Profile = Annotated[
    bool,
    typer.Option(
        "--profile", help="Look at three steps closely: RUN_ROOT/NAME/profile/report.md, a trace, a memory snapshot."
    ),
]


def train(config: ConfigPath, overrides: Overrides = None, fresh: Fresh = False, profile: Profile = False) -> None:
    """Train one run into RUN_ROOT/NAME; the same command goes on from the newest checkpoint.

    With parallel.tensor=2, parallel.sequence=2 (context parallelism) or parallel.data=2 it runs on so many processes of
    this machine, each with a GPU of its own where there are GPUs. If a launcher has started the processes, each takes
    its part in the run.

    Ctrl-C saves a checkpoint at the next step and stops (exit code 130); a second one stops at once. SIGTERM, SIGHUP,
    SIGUSR1, SIGUSR2 and training.time_limit_minutes do the same with exit code 85: start this command again,
    without --fresh.
    """
    is_commentary()
    from glm_scale.cli.memory import must_find_room
    from glm_scale.config import check_environment, check_layout, layout_of, load_config
    from glm_scale.processes import launched

    run = load_config(config, overrides or ())
    check_environment(run, str(config))
    layout = layout_of(run)
    check_layout(run, layout, str(config))
    must_find_room(run, layout)
    if layout.processes > 1 and launched() is None:
        from glm_scale.processes import launch
        from glm_scale.run.fresh_start import start_anew
        from glm_scale.run_directory import RunDirectory
        from glm_scale.training.signals import REQUEUE_EXIT_CODE

        command = [sys.executable, "-m", "glm_scale.cli.app", "train", str(config), *(overrides or ())]
        command += ["--profile"] if profile else []
        if fresh:
            # Before the ranks write there. Should somebody else be faster now, rank 0 does not get the lock.
            start_anew(RunDirectory(run.run_root / run.name), run)
        logs = run.run_root / run.name / "ranks"
        raise typer.Exit(launch(command, layout.processes, logs=logs, no_failures=[REQUEUE_EXIT_CODE]))

    import psutil

    from glm_scale.run.train import train as train_run

    outcome = train_run(run, fresh=fresh, profile=profile, started=psutil.Process().create_time())
    place = launched()
    first = place is None or place.rank == 0
    if outcome.status == "finished" and first:
        directory, root = shlex.quote(str(run.run_root / run.name)), shlex.quote(str(run.run_root))
        typer.echo(f"next: glm-scale generate {directory}, glm-scale compare {root}")
    if outcome.status == "stopped" and fresh and first:
        typer.echo("next: the same command without --fresh, which would move this run aside too and start anew")
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)
