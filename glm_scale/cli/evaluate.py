"""`glm-scale evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from glm_scale.cli.arguments import TrainedModel

if TYPE_CHECKING:
    from rich.console import Console

    from glm_scale.inference import LoadedModel

_LOSS, _TASKS = "Loss", "Tasks (pip install 'glm-scale[eval]')"


def evaluate(
    checkpoint: TrainedModel,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A data set, built with the model's tokenizer (glm-scale data build … --tokenizer RUN). Default: the "
            "data the run was trained on.",
            rich_help_panel=_LOSS,
        ),
    ] = None,
    split: Annotated[
        Literal["train", "validation"], typer.Option(help="Which part of the data.", rich_help_panel=_LOSS)
    ] = "validation",
    sequences: Annotated[
        int | None,
        typer.Option(
            "--sequences",
            "--rows",
            min=1,
            help="Sequences to read. Default: all of them; of train, one epoch.",
            rich_help_panel=_LOSS,
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,…",
            help="Ask tasks in place of measuring the loss: names of lm-eval, YAML files of your own, recall_needle, "
            "recall_pairs.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Questions of each task. Default: all.", rich_help_panel=_TASKS)
    ] = None,
    few_shot: Annotated[
        int | None,
        typer.Option(min=0, help="Examples in front of a question. Default: as the task says.", rich_help_panel=_TASKS),
    ] = None,
    include_path: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder of further tasks, as YAML files.", rich_help_panel=_TASKS),
    ] = None,
    context_lengths: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS,…",
            help="Of the recall tasks. Default: powers of two from 256 up to the sequences of training.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a forward pass. Default: 8192.", rich_help_panel=_TASKS),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A page with recall against context length. Default: plots/tasks.html of a run.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option(
            min=2, max=2**24, help="Tokens of a sequence, the most that is read of a text. Default: as in training."
        ),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
) -> None:
    """Print the loss of a trained model on a data set, per token and per byte, and which tokens it is of; or what tasks
    come to.

    Repeated n-grams tell how well it recalls what it has read: those that have been in the same document before. Of a
    run on its own validation split this is kept in its directory, as tasks are, and `compare` shows it.

    glm-scale evaluate runs/first --tasks arc_easy,lambada_openai --limit 200
    """
    from rich.console import Console

    _check_together(
        tasks,
        {"--data": data, "--sequences": sequences},
        {
            "--limit": limit,
            "--few-shot": few_shot,
            "--include-path": include_path,
            "--context-lengths": context_lengths,
            "--batch-tokens": batch_tokens,
            "--figure": figure,
        },
    )
    from glm_scale.inference import load_model
    from glm_scale.training.distributed import resolve_device

    console = Console()
    if tasks is None:
        loaded = load_model(checkpoint, resolve_device(device))
        _loss(loaded, checkpoint, data, split, sequence_length, sequences, console)
        return
    from glm_scale.cli.task_evaluation import ask_tasks, chosen_tasks

    chosen = chosen_tasks(tasks, limit, few_shot, include_path, context_lengths)
    loaded = load_model(checkpoint, resolve_device(device))
    ask_tasks(loaded, checkpoint, chosen, sequence_length, batch_tokens, figure, console)


def _check_together(tasks: str | None, of_loss: dict[str, object], of_tasks: dict[str, object]) -> None:
    """Raises UserError for options of what is not done."""
    from glm_scale.errors import UserError

    given = [name for name, value in (of_tasks if tasks is None else of_loss).items() if value is not None]
    if given and tasks is None:
        raise UserError(f"{given[0]} is of tasks; name them with --tasks, or leave it out")
    if given:
        raise UserError(f"{given[0]} is of the loss, which --tasks does not measure; leave one of them out")


def _loss(
    loaded: LoadedModel,
    checkpoint: Path,
    data: Path | None,
    split: Literal["train", "validation"],
    sequence_length: int | None,
    sequences: int | None,
    console: Console,
) -> None:
    from rich.console import Console

    from glm_scale.inference.evaluation import evaluate_model
    from glm_scale.inference.keeping import keep_breakdown
    from glm_scale.scaling.breakdown import breakdown_tables

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
