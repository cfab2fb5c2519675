"""`glm-scale bench`: what becomes of the benchmark's results. Measuring is `python -m glm_kernels.bench`."""

from pathlib import Path
from typing import Annotated

import typer


def plot(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE …", help="Results of `python -m glm_kernels.bench --output FILE`.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="The figure; default: beside the first file, under its name."),
    ] = None,
) -> None:
    """Draw how long operators and their peers take against the length of a sequence."""
    from glm_scale.benchmarks import draw_benchmarks, read_benchmark
    from glm_scale.errors import UserError

    path = output or files[0].with_suffix(".png")
    benchmarks = [read_benchmark(file) for file in files]
    try:
        draw_benchmarks(benchmarks, path)
    except OSError as error:
        raise UserError(
            f"--output {path}: {error.strerror}; name a file in a folder that exists and is writable"
        ) from error
    except ValueError as error:
        raise UserError(f"--output {path}: {error}") from error
    typer.echo(f"wrote {path}")
