"""`glm-scale checkpoint import`: models of Hugging Face."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from glm_scale.cli.arguments import Overrides
from glm_scale.cli.showing import byte_progress, in_bytes, wide_console

__all__ = ["import_model"]


def import_model(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder as Hugging Face's transformers saves models.")
    ],
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="Of the run to make, as for `train`.", show_default=False)
    ] = None,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Make an exported folder instead of a run.", show_default=False),
    ] = None,
) -> None:
    """Make a run that begins with the weights of a model of Hugging Face: one of ours, or one shaped as Llama.

    `glm-scale train CONFIG` then goes on from there. Where the configuration has other mixers than the model, these
    take what parameters of theirs have the same shape, and the rest is drawn: norms, MLPs and values are kept. With
    --output what `checkpoint export --format hf` has written becomes an exported folder of ours again, bit for bit.
    """
    from glm_scale.errors import UserError

    if (config is None) == (output is None):
        raise UserError(
            "give either CONFIG, of a run that begins with these weights, or --output, for a folder as `checkpoint "
            "export` makes it"
        )
    if output is not None:
        _import_exported(folder, output)
        return
    from glm_scale.config import load_config
    from glm_scale.run.importing import import_run

    assert config is not None
    made = import_run(folder, load_config(config, overrides or ()))
    console = wide_console()
    console.print(f"made {made.path}: {made.taken} parameters from {folder}, {len(made.drawn)} drawn", markup=False)
    for name in made.drawn:
        console.print(f"  drawn: {name}", markup=False)
    if made.shared > 1:
        console.print(
            f"note: {made.shared} heads shared a key and a value there; here each has its own, unless model.kv_heads "
            "says otherwise",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    words = " ".join(shlex.quote(word) for word in (str(config), *(overrides or ())))
    console.print(f"next: glm-scale train {words}", markup=False)


def _import_exported(folder: Path, output: Path) -> None:
    from glm_scale.checkpoint.exported import exported_at, is_for_transformers
    from glm_scale.errors import UserError
    from glm_scale.inference.export import WEIGHTS_NAME, export_again

    exported = exported_at(folder) if is_for_transformers(folder) else None
    if exported is None:
        raise UserError(
            f"{folder} was not written by `glm-scale checkpoint export --format hf`; of another model a run can be "
            "made, which needs its configuration: glm-scale checkpoint import FOLDER CONFIG"
        )
    with byte_progress("writing") as advance:
        export_again(exported, output, advance)
    wide_console().print(
        f"wrote {output / WEIGHTS_NAME}: {in_bytes((output / WEIGHTS_NAME).stat().st_size)}", markup=False
    )
