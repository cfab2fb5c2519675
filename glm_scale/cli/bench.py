"""`glm-scale bench`: how fast training and decoding are, what pieces of training take, and figures of the operators'
speed (python -m glm_kernels.bench)."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from glm_scale.output import is_commentary

DEFAULT_PARTS = [
    f"{model}@{length}"
    for length in (8192, 32768)
    for model in (
        "plain:fp32",
        "attention",
        "lattice:2^k",
        "lattice:k^2+1",
        "lattice:2^k+lattice:2^k+lattice:2^k+attention",
    )
]


def train(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL@LENGTH …]",
            help="What to measure, as in lattice:2^k@8192; MODEL is a mixer, several joined by +, or plain:fp32. "
            "Default: plain:fp32, attention, both lattices and a hybrid at 8192 and 32768.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="A built data set with no more tokens than the size's vocabulary.")
    ] = Path("data/demo"),
    size: Annotated[str, typer.Option(metavar="SIZE", help="1.3b, 160m, or tiny.")] = "1.3b",
    steps: Annotated[int, typer.Option(min=2, help="Steps that count, after 5 that do not.")] = 15,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Of the configuration of our runs, as in training.zero_stage=2; repeat it.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Compare the losses of two layers with those in fp32, uncompiled, before measuring.")
    ] = True,
    seconds: Annotated[float, typer.Option(min=1, help="No part takes longer.")] = 600,
    output: Annotated[
        Path, typer.Option(metavar="FILE.json", help="Results are added to those that it holds already.")
    ] = Path("bench-train.json"),
) -> None:
    """Measure training beside a plain, compiled PyTorch transformer of the same size.

    Each part is `glm-scale train` itself in a process of its own; the plain transformer (bf16 weights and moments, no
    documents) runs first, in the same call, at every length. Speeds and memory are given beside its own. Results are
    printed and kept as they come.
    """
    is_commentary()
    from glm_scale.bench.measuring import Setting
    from glm_scale.bench.run import run_table

    setting = Setting(size, data, steps, overrides=tuple(override or ()), seconds=seconds)
    run_table(parts or DEFAULT_PARTS, setting, output, check)


def calibrate(
    operators: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OPERATOR …]",
            help="Token mixings, as in attention, local:128, ssm or lattice:2^k. Default: one or two of every family.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cuda, or cpu: tiny sizes, to try it. Default: cuda where there is one.", show_default=False),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="GPUs between which exchanges are measured; default: all of this machine."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.001, max=10, help="That every measurement takes at least.")] = 0.1,
    output: Annotated[Path, typer.Option(metavar="FILE.json", help="Written anew.")] = Path("calibration.json"),
) -> None:
    """Measure what training consists of, piece by piece, on the GPU of this machine, so that `plan` can predict runs.

    Matrix products of the shapes that models have, the output head with its loss, copies, compiled elementwise work,
    AdamW, token mixings at several lengths, the host's part of a step, and with several GPUs their exchanges. No run is
    measured, so what is said of one from it is a prediction. A few minutes. Then:

    glm-scale plan CONFIG --gpu h200 --calibration calibration.json
    """
    is_commentary()
    import torch

    from glm_scale.bench.calibration.run import Asked, calibrate
    from glm_scale.bench.calibration.sizes import OPERATORS

    gpus = torch.cuda.device_count()
    device = _device(device, ranks)
    ranks = ranks or (gpus if device == "cuda" else 1)
    # Without --output: where a file was written first says nothing about what is in it.
    options = ["--device", device, "--ranks", str(ranks), "--seconds", f"{seconds:g}"]
    command = shlex.join(["glm-scale", "bench", "calibrate", *(operators or ()), *options])
    asked = Asked(operators or OPERATORS, device, ranks, seconds, output, command)
    found = calibrate(asked)
    typer.echo(f"wrote {output}" + (f"; {len(found.failed)} pieces could not be measured" if found.failed else ""))


def decode(
    mixers: Annotated[
        str, typer.Option(metavar="MIXER,…", help="What to measure; several mixers of one model are joined by +.")
    ] = "attention,lattice:2^k,lattice:k^2+1,ssm",
    batch: Annotated[str, typer.Option(metavar="N,…", help="Documents that are decoded at once.")] = "1,64",
    contexts: Annotated[
        str, typer.Option(metavar="N,…", help="Tokens of a document, of which the last few are decoded and timed.")
    ] = "1024,32768,1048576",
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="1.3b, 160m, or tiny; default: 1.3b on a GPU, tiny without.")
    ] = None,
    precision: Annotated[Literal["bf16", "fp32"], typer.Option(help="Of weights and of attention's caches.")] = "bf16",
    steps: Annotated[int, typer.Option(min=1, help="Tokens of a round; the median of 5 rounds counts.")] = 32,
    fill: Annotated[
        Literal["read", "random"],
        typer.Option(
            help="How a document comes to its context: training's kernels read random tokens, one document for all, or "
            "its caches are filled with random numbers, which is quick and as fast to decode."
        ),
    ] = "read",
    check: Annotated[
        bool,
        typer.Option(
            help="Before measuring, compare the logits of a graph with those of eager steps, and these with those of "
            "training."
        ),
    ] = True,
    graph: Annotated[
        bool | None,
        typer.Option("--graph/--no-graph", help="Replay CUDA graphs; on a GPU the default.", show_default=False),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="No case takes longer.")] = 600,
    output: Annotated[
        Path, typer.Option(metavar="FILE.json", help="Results are added to those that it holds already.")
    ] = Path("bench-decode.json"),
) -> None:
    """Measure decoding: time per token by mixer, number of documents and context.

    Models have random weights. The bytes of the weights that a token reads, alone and with the rows of the caches, are
    given as a share of what a large copy moves per second (bytes read and written), measured in the same process. A
    context whose caches the device cannot hold is refused with the bytes that it needs. Results are printed and kept
    as they come.
    """
    is_commentary()
    from glm_scale.bench.calls import machine
    from glm_scale.bench.decode.cases import Setting
    from glm_scale.bench.decode.run import run_table

    size = size or ("tiny" if machine().startswith("CPU") else "1.3b")
    setting = Setting(size, precision, steps, fill=fill, checked=check, graph=graph)
    wanted = [mixer.strip() for mixer in mixers.split(",") if mixer.strip()]
    cases = setting.cases(wanted, _numbers("--batch", batch), _numbers("--contexts", contexts))
    run_table(cases, setting, output, seconds)


def parallel(
    mixers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MIXER …]",
            help="What to measure. Default: lattice:2^k, lattice:k^2+1, ssm and attention.",
            show_default=False,
        ),
    ] = None,
    length: Annotated[int, typer.Option(min=1, max=2**30, help="Tokens of the sequence that ranks share.")] = 131_072,
    ranks: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            help="Over how many GPUs of this machine; default: 1, 2, 4 … as far as they go.",
            show_default=False,
        ),
    ] = None,
    strategies: Annotated[
        str, typer.Option(metavar="NAME,…", help="auto (what training takes), scan, ring, a2a.")
    ] = "auto,a2a",
    heads: Annotated[int, typer.Option(min=1, max=1024, help="Heads; the model is as wide as all of them.")] = 16,
    head_dim: Annotated[int, typer.Option(min=1, max=1024, help="Numbers of a head.")] = 128,
    precision: Annotated[Literal["bf16", "fp32"], typer.Option(help="Of weights and tokens.")] = "bf16",
    repeats: Annotated[int, typer.Option(min=1, help="Passes of a row; the median of 5 rows counts.")] = 5,
    device: Annotated[
        str | None,
        typer.Option(help="cuda, or cpu, to try it. Default: cuda where there is one.", show_default=False),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="No case takes longer.")] = 300,
    output: Annotated[
        Path, typer.Option(metavar="FILE.json", help="Results are added to those that it holds already.")
    ] = Path("bench-parallel.json"),
) -> None:
    """Measure one layer with the tokens of a sequence spread over GPUs: forward and backward, compiled.

    Before it is measured a layer is compared with itself on one rank. Printed are its time as a share of the ideal (one
    rank's, divided by the ranks), the bytes that a rank sends and what part of an all-to-all's that is, the time in
    which ranks exchange and how much of it other work hides. Results are printed and kept as they come.

    glm-scale bench parallel 'lattice:2^k' attention --length 1048576 --ranks 1,4
    """
    is_commentary()
    import torch

    from glm_scale.bench.parallel.cases import Setting
    from glm_scale.bench.parallel.run import run_table

    counts = _numbers("--ranks", ranks) if ranks else None
    on = _device(device, max(counts) if counts else None)
    if counts is None:
        there = torch.cuda.device_count() if on == "cuda" else 2
        counts = [2**n for n in range(there.bit_length())]
    setting = Setting(length, heads, head_dim, precision, repeats, on)
    asked = [name.strip() for name in strategies.split(",") if name.strip()]
    cases = setting.cases(mixers or ["lattice:2^k", "lattice:k^2+1", "ssm", "attention"], asked, counts)
    run_table(cases, setting, output, seconds)


def _device(asked: str | None, ranks: int | None) -> Literal["cuda", "cpu"]:
    """The one that was asked for, or cuda where there is one. Raises UserError if it has no GPU for each rank."""
    import torch

    from glm_scale.errors import UserError

    gpus = torch.cuda.device_count()
    device = asked or ("cuda" if gpus else "cpu")
    if device not in ("cuda", "cpu"):
        raise UserError(f"--device {device}: give cuda or cpu")
    if device == "cuda" and gpus < (ranks or 1):
        what = f"--ranks {ranks}" if ranks else "--device cuda"
        raise UserError(f"{what}, but this machine shows {gpus} CUDA devices; give less, or --device cpu to try it")
    return "cuda" if device == "cuda" else "cpu"


_DIGITS = 15
"""Of a number that can be meant."""


def _numbers(option: str, text: str) -> list[int]:
    from glm_scale.errors import UserError

    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    wrong = [piece for piece in pieces if not piece.isdecimal() or len(piece) > _DIGITS]
    if wrong or not pieces:
        raise UserError(
            f"{option} {text}: {wrong[0] if wrong else 'nothing'!r} is no number of them; give some, as in 1,64"
        )
    return [int(piece) for piece in pieces]


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
    from glm_scale.bench.kernels import draw_benchmarks, read_benchmark
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
