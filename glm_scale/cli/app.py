"""`glm-scale`: assembles the commands, and turns errors that a user can mend into one message.

Commands import what is heavy (torch, DeepSpeed, MLflow) when they run, so that help is there at once.
"""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from glm_scale.cli import bench, checkpoint, data, ladder, tasks, track
from glm_scale.cli.commands import Commands
from glm_scale.cli.compare import compare
from glm_scale.cli.config import config
from glm_scale.cli.evaluate import evaluate
from glm_scale.cli.generate import generate
from glm_scale.cli.patterns import patterns
from glm_scale.cli.plan import plan
from glm_scale.cli.train import train
from glm_scale.errors import UserError
from glm_scale.output import lost_output
from glm_scale.startup import prepare

__all__ = ["assemble", "run"]

# Errors of the layers below, which know nothing of this package: module and name.
_ERRORS_BELOW = (("glm_data", "DataError"), ("glm_kernels", "PatternError"))

# What no command can do anything about: disks that are full or read-only, limits, permissions.
_MACHINE = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE,
        errno.EACCES, errno.EPERM, errno.ENAMETOOLONG,
    }
)  # fmt: skip


def assemble() -> Commands:
    """The command line, to which a package above this one may add commands of its own."""
    app = Commands(
        name="glm-scale",
        help="Pretrain language models whose token mixers are structured generalized linear recurrences, and compare "
        "them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    app.add_typer(data.app, name="data", rich_help_panel="Prepare")
    panels: dict[str, tuple[Callable[..., None], ...]] = {
        "Prepare": (config, patterns, plan),
        "Train": (train,),
        "Look at runs": (compare, evaluate, generate),
    }
    for panel, commands in panels.items():
        for command in commands:
            app.command(rich_help_panel=panel)(command)
    app.add_typer(ladder.app, name="ladder", rich_help_panel="Train")
    app.add_typer(checkpoint.app, name="checkpoint", rich_help_panel="Look at runs")
    tracking = Commands(no_args_is_help=True, help="The MLflow side of runs.")
    tracking.command()(track.sync)
    app.add_typer(tracking, name="track", rich_help_panel="Look at runs")
    benchmarks = Commands(
        no_args_is_help=True,
        help="The speed of training, of its pieces and of decoding, and figures of that of operators.",
    )
    benchmarks.command()(bench.train)
    benchmarks.command()(bench.decode)
    benchmarks.command()(bench.parallel)
    benchmarks.command()(bench.calibrate)
    benchmarks.command()(bench.plot)
    app.add_typer(benchmarks, name="bench", rich_help_panel="Prepare")
    synthetic = Commands(no_args_is_help=True, help="What structures learn of tasks whose answers are known.")
    synthetic.command()(tasks.run)
    synthetic.command()(tasks.report)
    app.add_typer(synthetic, name="tasks", rich_help_panel="Train")
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        from glm_scale.version import version_text

        typer.echo(version_text())
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the versions of glm-scale, Python, torch and DeepSpeed, and the git commit, and exit.",
        ),
    ] = False,
) -> None:
    pass


def run(app: Commands) -> None:
    """Run a command line; exit code 2 for what the user can mend, 130 for Ctrl-C.

    A command that is run for its output ends with 1 if that could not be written, and with 141 (as after SIGPIPE) if
    its reader has gone.
    """
    prepare()
    if not _directory_exists():
        _end(2, "the working directory has been removed; change to another one (cd)")
    try:
        app(prog_name="glm-scale")
    except SystemExit as end:
        if not end.code:
            _end(*lost_output())
        raise
    except Exception as error:
        if not _is_for_the_user(error):
            raise
        sys.stdout.flush()
        message = _about_the_machine(error) if isinstance(error, OSError) else str(error)
        _end(getattr(error, "exit_code", 2), message)


def _end(code: int, message: str = "") -> NoReturn:
    if message:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _directory_exists() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _about_the_machine(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror}. Mend that and start the same command again"


def _is_for_the_user(error: Exception) -> bool:
    if isinstance(error, UserError):
        return True
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return True
    # An error of a module that was never imported cannot have been raised; importing it here to ask would be slow.
    classes = (getattr(sys.modules.get(module), name, None) for module, name in _ERRORS_BELOW)
    return any(cls is not None and isinstance(error, cls) for cls in classes)


if __name__ == "__main__":
    run(assemble())
