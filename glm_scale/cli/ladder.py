"""`glm-scale ladder`."""

from __future__ import annotations

import json as json_format
import sys
import typing
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from glm_scale.cli.arguments import ConfigPath, Overrides
from glm_scale.cli.commands import Commands
from glm_scale.cli.compare import Across, Figures, OfSource, Up
from glm_scale.cli.curves import say_where_curves_are
from glm_scale.cli.gpus import Calibrated, Kind, calibration_of, known_gpu
from glm_scale.output import is_commentary

if typing.TYPE_CHECKING:
    from rich.console import Console

    from glm_scale.ladder import Ladder, Member

__all__ = ["app"]

_WIDTH = 140


class _RunByDefault(TyperGroup):
    """`ladder CONFIG` is `ladder run CONFIG`."""

    default = "run"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = Commands(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Many runs that differ in mixer, size, budget, seed or learning rate, from one file. "
    "`ladder CONFIG` means `ladder run CONFIG`.",
)

Gpus = Annotated[int, typer.Option(min=1, max=2**20, help="How many of them train each run.")]


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    gpu: Kind = "h100",
    gpus: Gpus = 1,
    calibration: Calibrated = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, in bytes and hours.")] = False,
) -> None:
    """Say what the runs are and cost, before any is started; refuse more than `ladder.gpu_hours`.

    GPU hours are predictions where single operators have been measured on that kind of GPU, else the least that its
    data sheet allows (see `glm-scale plan`). A branch counts what it trains itself.
    """
    from glm_scale.ladder import read_ladder
    from glm_scale.ladder.costs import Machine, check_gpu_hours, costs
    from glm_scale.ladder.tables import plan_table, plan_values

    ladder = read_ladder(config, overrides or ())
    machine = Machine(known_gpu(gpu), gpus, calibration_of(gpu, calibration))
    found = list(costs(ladder, machine))
    if json:
        sys.stdout.write(json_format.dumps(plan_values(found), indent=2) + "\n")
    else:
        console = _console()
        console.print(plan_table(found))
        hours = sum(cost.hours or 0.0 for cost in found)
        measured = machine.calibration is not None and ladder.members[0].config.training.precision == "bf16"
        console.print(
            f"{len(found)} runs, {sum(cost.flops for cost in found):.3g} FLOPs, "
            f"{'' if measured else 'at least '}{hours:,.3g} GPU hours on {gpus} × {gpu}"
        )
    check_gpu_hours(ladder, found)


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    only: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Runs whose name matches, as in '*-attention-*'.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=1024, help="How many models train at a time, on the GPUs in turn.")
    ] = 1,
) -> None:
    """Train the runs one after the other, let each write a sample, and compare them.

    Finished runs are left alone, so the same command goes on where an earlier one stopped.

    With --concurrency small models share a GPU or a machine, or each has a GPU of its own while there are enough.
    Where they share one all are done sooner, but each takes longer: the comparison then says that their measured times
    tell nothing of the mixers.
    """
    from glm_scale.cli.memory import must_find_room
    from glm_scale.config import check_environment, layout_of
    from glm_scale.ladder import climb, is_finished, models_at_once, read_ladder

    is_commentary()
    whole = read_ladder(config, overrides or ())
    ladder = _chosen(whole, only)
    at_once = models_at_once(ladder, concurrency)
    for member in ladder.members:
        check_environment(member.config, str(config))
        if not is_finished(member):
            must_find_room(member.config, layout_of(member.config), at_once)
    outcomes = {member.name: outcome for member, outcome in climb(ladder, concurrency)}
    console = _console()
    if "stopped" in outcomes.values():
        console.print("stopped; the same command goes on from here")
        raise typer.Exit(130)
    trained = [member for member in ladder.members if outcomes[member.name] in ("finished", "finished before")]
    if trained:
        if ladder.config.sample_tokens:
            _sample([member for member in trained if member.trunk is None], ladder, console)
        # Also those that --only leaves out: there is one comparison of a ladder.
        finished = [member for member in whole.members if is_finished(member)]
        scaling = len(ladder.config.sizes) > 1 or len(ladder.config.tokens_per_parameter) > 1
        if not _compare(finished, whole, scaling=scaling):
            say_where_curves_are(trained[0].config, console)
    failed = [name for name, outcome in outcomes.items() if outcome == "failed"]
    if failed:
        console.print(f"failed: {', '.join(failed)}; the reason is in train.log in {ladder.run_root}/NAME")
        raise typer.Exit(1)


@app.command()
def status(config: ConfigPath, overrides: Overrides = None) -> None:
    """Say which of the runs are finished, running, failed or missing, and how far they have come."""
    from glm_scale.ladder import read_ladder
    from glm_scale.ladder.standing import in_words, standings
    from glm_scale.ladder.tables import status_table

    found = standings(read_ladder(config, overrides or ()))
    console = _console()
    console.print(status_table(found))
    console.print(in_words(found))


@app.command()
def fit(
    config: ConfigPath,
    overrides: Overrides = None,
    reference: Annotated[
        str | None, typer.Option(metavar="MIXER", help="With which the others are compared. Default: attention.")
    ] = None,
    figure: Figures = None,
    x: Across = "tokens,flops",
    y: Up = "loss",
    source: OfSource = None,
) -> None:
    """Say what the finished runs tell of their mixers: how much more one needs than another for the same loss.

    One law L = E + A/N^α + B/D^β of all mixers, with what a parameter and a token of each are worth; intervals are of
    90 %. What the runs do not determine is not fitted, and the reason is given. Figures, tables and numbers are in
    RUN_ROOT/NAME-comparison/scaling.{html,png,json}, of one data set in RUN_ROOT/NAME-comparison-SOURCE.
    """
    from glm_scale.cli.compare import asked_for
    from glm_scale.errors import UserError
    from glm_scale.ladder import is_finished, read_ladder

    asked = asked_for(figure, x, y)
    ladder = read_ladder(config, overrides or ())
    if not (finished := [member for member in ladder.members if is_finished(member)]):
        raise UserError(
            f"no run of {ladder.path} has finished; see glm-scale ladder status {ladder.path}, and glm-scale ladder run"
        )
    _compare(finished, ladder, scaling=True, reference=reference, asked=asked, source=source)


def _chosen(ladder: Ladder, only: str | None) -> Ladder:
    """Those that match, with what they begin from."""
    from dataclasses import replace

    from glm_scale.errors import UserError

    if only is None:
        return ladder
    names = {member.name for member in ladder.members if fnmatchcase(member.name, only)}
    if not names:
        raise UserError(f"--only {only!r} matches none of {', '.join(member.name for member in ladder.members)}")
    names |= {member.trunk for member in ladder.members if member.name in names and member.trunk}
    return replace(ladder, members=tuple(member for member in ladder.members if member.name in names))


def _console() -> Console:
    from rich.console import Console

    known = sys.stdout.isatty()
    return Console(width=None if known else _WIDTH, highlight=False)


def _sample(members: list[Member], ladder: Ladder, console: Console) -> None:
    """Show a continuation of the same prompt by every run, and keep it in the run's folder `samples`."""
    from glm_scale.inference import load_model
    from glm_scale.inference.generation import Generation, Sampling

    for member in members:
        loaded = load_model(member.run.path)
        generation = Generation(
            loaded.model, loaded.tokenizer, ladder.config.prompt, max_tokens=ladder.config.sample_tokens,
            sampling=Sampling(),
        )  # fmt: skip
        text = ladder.config.prompt + "".join(generation)
        (member.run.samples / f"step-{loaded.step:08d}.txt").write_text(f"{text}\n", encoding="utf-8")
        console.print(f"\n{member.name}: {generation.report}", style="bold", markup=False, soft_wrap=True)
        console.print(text, markup=False)
    console.print()


def _compare(members: list[Member], ladder: Ladder, source: str | None = None, **how: Any) -> bool:
    """The report of all these runs, at the one place that a ladder has for it and in its MLflow run; whether that has
    it. `how`: see `present`. That of a single data set has a place and a run of its own."""
    from glm_scale.cli.compare import present
    from glm_scale.scaling.report import default_folder

    return present(
        [member.run for member in members],
        Path(f"{ladder.run_root}/{ladder.name}-{default_folder(source)}"),
        parent=ladder.name if source is None else None,
        tracking=members[0].config.tracking.enabled,
        source=source,
        **how,
    )
