"""`glm-scale evaluate`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from glm_scale.cli.arguments import TrainedModel


def evaluate(
    checkpoint: TrainedModel,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A data set, built with the model's tokenizer (glm-scale data build … --tokenizer RUN). Default: the "
            "data the run was trained on.",
        ),
    ] = None,
    split: Annotated[Literal["train", "validation"], typer.Option(help="Which part of the data.")] = "validation",
    sequence_length: Annotated[
        int | None, typer.Option(min=2, max=2**24, help="Tokens of a sequence. Default: as in training.")
    ] = None,
    sequences: Annotated[
        int | None,
        typer.Option(
            "--sequences", "--rows", min=1, help="Sequences to read. Default: all of them; of train, one epoch."
        ),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
) -> None:
    """Print the loss of a trained model on a data set, per token and per byte, and which tokens it is of.

    Repeated n-grams tell how well it recalls what it has read: those that have been in the same document before. Of a
    run on its own validation split this is kept in its directory, and `compare` shows it.
    """
    from rich.console import Console

    from glm_scale.inference import load_model
    from glm_scale.inference.evaluation import evaluate_model
    from glm_scale.inference.keeping import keep_breakdown
    from glm_scale.scaling.breakdown import breakdown_tables
    from glm_scale.training.distributed import resolve_device

    console = Console()
    loaded = load_model(checkpoint, resolve_device(device))
    with Console(stderr=True).status("evaluating"):
        result = evaluate_model(loaded, data, split, sequence_length, sequences, checkpoint)
    console.print(
        f"{checkpoint} at step {loaded.step}, {split} split of {data or 'the training data'}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f"  loss            {result.loss:.4f} nats per token")
    console.print(f"  bits per byte   {result.bits_per_byte:.4f}")
    console.print(f"  counted         {result.tokens:,} tokens, {result.bytes:,} bytes")
    assert result.breakdown is not None
    for table in breakdown_tables(result.breakdown):
        console.print()
        console.print(table)
    usual = loaded.config.data.sequence_length
    if data is None and split == "validation" and sequence_length in (None, usual):
        remark = keep_breakdown(checkpoint, loaded.step, result.breakdown)
        if remark:
            Console(stderr=True).print(remark, highlight=False, markup=False, soft_wrap=True)
