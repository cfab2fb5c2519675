"""`glm-scale checkpoint`: look at checkpoints, check them, take weights out of them and into them."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from glm_scale.cli.commands import Commands
from glm_scale.cli.importing import import_model
from glm_scale.cli.showing import byte_progress, error_console, in_bytes, wide_console

if TYPE_CHECKING:
    from rich.console import Console

    from glm_scale.checkpoint.difference import ParameterDifference
    from glm_scale.checkpoint.reading import Checkpoint
    from glm_scale.checkpoint.retention import Reason

app = Commands(no_args_is_help=True, help="Look at the checkpoints of runs, check them, take weights out of them.")

app.command("import")(import_model)

RunOrCheckpoint = Annotated[
    Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run directory (its newest checkpoint) or a checkpoint.")
]

# Longer values of a state (generators of random numbers) mean nothing to a reader.
_LONGEST_VALUE = 60


@app.command("ls")
def list_checkpoints(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]) -> None:
    """List the checkpoints of a run, with why each is kept and whether its files are there in their sizes."""
    from rich.table import Table

    from glm_scale.checkpoint.layout import leftovers, places, set_aside
    from glm_scale.checkpoint.retention import validation_loss

    folder = _folder_of(run)
    table = Table(title=str(folder), title_justify="left")
    for heading in ("step", "tokens", "validation loss", "size", "age", "kept because", "state"):
        table.add_column(heading, justify="left" if heading in ("kept because", "state") else "right")
    found = [(place.path, *_look(place.path)) for place in places(folder)]
    reasons = _reasons(folder.parent, [checkpoint for _, checkpoint, _ in found if checkpoint])
    for path, checkpoint, state in found:
        if checkpoint is None:
            table.add_row(_step(path), "", "", "", "", "", state)
            continue
        loss = validation_loss(checkpoint)
        table.add_row(
            _step(path),
            f"{checkpoint.state.counters.tokens:,}",
            "" if loss is None else f"{loss:.4f}",
            in_bytes(checkpoint.size),
            _age(time.time() - checkpoint.manifest.saved),
            ", ".join(reasons.get(path, [])),
            state,
        )
    for path in leftovers(folder):
        if path not in [place for place, *_ in found]:
            table.add_row(_step(path), "", "", "", "", "", f"unfinished: {path.name}")
    for path in set_aside(folder):
        why = "damaged" if path.match("*.damaged*") else "diverged"
        table.add_row(_step(path), "", "", "", "", "", f"{why}, set aside: {path.name}")
    wide_console().print(table)


@app.command()
def verify(
    path: Annotated[
        Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run directory (all its checkpoints) or a checkpoint.")
    ],
) -> None:
    """Read whole checkpoints and compare every file with its SHA-256; exit code 1 if one is damaged."""
    from glm_scale.checkpoint.layout import is_checkpoint, places
    from glm_scale.checkpoint.reading import Checkpoint, DamagedError, GoneError, UnfinishedError

    console, damaged = wide_console(), False
    paths = [path] if is_checkpoint(path) else [place.path for place in places(_folder_of(path))]
    for each in paths:
        try:
            checkpoint = Checkpoint.at(each)
            _verify(checkpoint)
            console.print(f"whole     {each}: {len(checkpoint.files)} files, {in_bytes(checkpoint.size)}", markup=False)
        except DamagedError as error:
            damaged = True
            console.print(f"damaged   {each}: {error.problem}", markup=False, style="red")
        except (UnfinishedError, GoneError) as error:
            console.print(f"passed    {error}", markup=False, style="yellow")
    if damaged:
        raise typer.Exit(1)


@app.command()
def export(
    path: RunOrCheckpoint,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.", show_default=False)],
    dtype: Annotated[Literal["fp32", "bf16"], typer.Option(help="Type of the weights.")] = "fp32",
    form: Annotated[
        Literal["glm-scale", "hf"],
        typer.Option("--format", help="hf: a folder that Hugging Face's transformers loads without glm-scale."),
    ] = "glm-scale",
) -> None:
    """Write the weights as safetensors, with the configuration and the tokenizer beside them.

    The checkpoint is verified first. One parameter at a time is in memory.
    """
    import torch

    from glm_scale.checkpoint.layout import find_checkpoint
    from glm_scale.checkpoint.shards import read_tensors
    from glm_scale.inference.export import export_weights
    from glm_scale.inference.hugging_face.export import export_hugging_face

    checkpoint = find_checkpoint(path, _warn)
    write = export_hugging_face if form == "hf" else export_weights
    with checkpoint.reading():
        _verify(checkpoint)
        with byte_progress("writing") as advance:
            tensors = read_tensors(checkpoint, ("weight",))
            write(checkpoint, tensors, output, torch.float32 if dtype == "fp32" else torch.bfloat16, advance)
    files = sorted(output.glob("*.safetensors"))
    size = in_bytes(sum(file.stat().st_size for file in files))
    what = files[0] if len(files) == 1 else f"{len(files)} files of weights in {output}"
    wide_console().print(f"wrote {what}: {size}, {dtype}, step {checkpoint.step}", markup=False)


@app.command()
def diff(first: RunOrCheckpoint, second: RunOrCheckpoint) -> None:
    """Print in what two checkpoints differ: configuration, counters, and tensors with how far they are apart.

    max is the largest absolute difference, relative the norm of the difference over the norm of the first.
    """
    import yaml
    from rich.progress import track

    from glm_scale.checkpoint.difference import tensor_differences
    from glm_scale.checkpoint.layout import find_checkpoint
    from glm_scale.checkpoint.shards import KINDS, read_tensors
    from glm_scale.config.changes import changes
    from glm_scale.inference.loading import CONFIG_NAME

    console = wide_console()
    pair = [find_checkpoint(path, _warn) for path in (first, second)]
    with pair[0].reading(), pair[1].reading():
        configs = [yaml.safe_load((checkpoint.path / CONFIG_NAME).read_text(encoding="utf-8")) for checkpoint in pair]
        streams = [read_tensors(checkpoint, KINDS) for checkpoint in pair]
        console.print(f"{pair[0].path} → {pair[1].path}", markup=False)
        for title, trees in (("config", configs), ("state", [checkpoint.state.as_json() for checkpoint in pair])):
            found = changes(*trees)
            console.print(f"{title}: {'differs' if found else 'the same'}")
            for change in found:
                long = max(len(repr(change.before)), len(repr(change.after))) > _LONGEST_VALUE
                console.print(f"  {change.key} differs" if long else f"  {change}", markup=False)
        differences = list(track(tensor_differences(*streams), "comparing", console=error_console(), transient=True))
    _show_differences(differences, console)


def _show_differences(differences: list[ParameterDifference], console: Console) -> None:
    from rich.table import Table

    different = [difference for difference in differences if not difference.equal]
    if not different:
        console.print(f"tensors: the same, bit for bit ({len(differences)} parameters with their moments)")
        return
    console.print(f"tensors: {len(different)} of {len(differences)} parameters differ")
    kinds = list(dict.fromkeys(kind for difference in different for kind in difference.distances))
    table = Table()
    table.add_column("parameter")
    for kind in kinds:
        table.add_column(f"{kind}: max", justify="right")
        table.add_column("relative", justify="right")
    for difference in different:
        cells = [
            f"{value:.2e}" if distance else "="
            for kind in kinds
            for distance in [difference.distances.get(kind)]
            for value in distance or (0.0, 0.0)
        ]
        if difference.remark:
            table.add_row(f"{difference.name} ({difference.remark})")
        else:
            table.add_row(difference.name, *cells)
    console.print(table)


def _look(path: Path) -> tuple[Checkpoint | None, str]:
    """The checkpoint, if its files are there, and how it stands."""
    from glm_scale.checkpoint.reading import Checkpoint, DamagedError, UnfinishedError
    from glm_scale.errors import UserError

    try:
        return Checkpoint.at(path), "ok"
    except DamagedError as error:
        return None, f"damaged: {error.problem}"
    except UnfinishedError:
        return None, "unfinished"
    except UserError as error:
        return None, str(error)


def _reasons(run: Path, checkpoints: list[Checkpoint]) -> dict[Path, list[Reason]]:
    """Why each is kept, as far as the run's configuration is there to tell."""
    from glm_scale.checkpoint.retention import Retention
    from glm_scale.inference.loading import CONFIG_NAME, read_config

    if not (run / CONFIG_NAME).is_file():
        return {}
    config = read_config(run / CONFIG_NAME).checkpoint
    return Retention(config.keep, config.keep_every, config.keep_best, config.at).reasons(checkpoints)


def _verify(checkpoint: Checkpoint) -> None:
    """Raises DamagedError."""
    from glm_scale.checkpoint.reading import DamagedError

    with checkpoint.reading(), byte_progress("verifying", checkpoint.size) as advance:
        if problem := checkpoint.wrong_content(checkpoint.files, advance):
            raise DamagedError(checkpoint.path, problem)


def _folder_of(path: Path) -> Path:
    """The folder of checkpoints of a run, or `path` if it is one itself."""
    from glm_scale.checkpoint.layout import places
    from glm_scale.errors import UserError

    if (path / "checkpoints").is_dir():
        return path / "checkpoints"
    if path.is_dir() and places(path):
        return path
    raise UserError(f"{path} holds no checkpoints; give a run directory (runs/NAME)")


def _warn(message: str) -> None:
    typer.echo(f"note: {message}", err=True)


def _step(path: Path) -> str:
    digits = re.search(r"\d+", path.name)
    return str(int(digits[0])) if digits else path.name


def _age(seconds: float) -> str:
    """Empty for a time that has not come yet: some clock was wrong."""
    for limit, unit in ((86400, "d"), (3600, "h"), (60, "min"), (0, "s")):
        if seconds >= limit:
            return f"{seconds / (limit or 1):.0f} {unit}"
    return ""
