"""What the commands for data sets have in common: their tokenizers, and what they print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from glm_data.index import DatasetIndex

__all__ = ["BosToken", "EosToken", "HeldOut", "print_document", "print_index", "with_tokenizer"]

BosToken = Annotated[
    str | None,
    typer.Option(
        help="With which documents begin, for a tokenizer.json that does not say it.",
        show_default="what its folder says",
        rich_help_panel="Tokenizer",
    ),
]
EosToken = Annotated[
    str | None,
    typer.Option(help="With which they end.", show_default="what its folder says", rich_help_panel="Tokenizer"),
]
HeldOut = Annotated[
    float | None,
    typer.Option(
        help="Share of the documents that is held out, chosen by their hash; 0 for none, to train without a validation "
        "loss.",
        show_default="about 5 MB of text, at most 0.05",
        min=0.0,
        max=0.5,
        rich_help_panel="Documents",
    ),
]


def with_tokenizer(path: Path) -> Path:
    """What holds the tokenizer of `path`: of a run its newest checkpoint, of what was exported for Hugging Face's
    transformers the folder of ours in it, else the path itself."""
    if (path / "config.json").is_file():
        from glm_scale.checkpoint.exported import exported_at, is_for_transformers

        exported = exported_at(path) if is_for_transformers(path) else None
        return exported.described if exported else path
    if not (path / "checkpoints").is_dir():
        return path
    from glm_scale.checkpoint.layout import find_checkpoint

    return find_checkpoint(path, lambda warning: typer.echo(f"warning: {warning}", err=True)).path


def print_index(directory: Path, index: DatasetIndex) -> None:
    """Its splits, where it came from, its tokenizer, and what is odd about it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from glm_data.held_out import remark_on
    from glm_data.input_warnings import passed_over, warnings
    from glm_data.naming import shown

    table = Table(title=Text(shown(directory), style="table.title"), title_justify="left")
    for heading in ("split", "documents", "tokens", "bytes of text", "bytes per token", "shards"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, split in index.splits.items():
        # Beginning and end tokens stand for no text.
        ratio = split.text_bytes / max(split.tokens - 2 * split.documents, 1)
        sizes = (split.documents, split.tokens, split.text_bytes)
        table.add_row(name, *(f"{size:,}" for size in sizes), f"{ratio:.2f}", str(len(split.shards)))
    console = Console()
    console.print(table)
    counts = index.counts
    source = f" ({index.origin})" if index.origin else ""
    lines = [
        f"input      {index.input.files:,} files{source}, {counts.records:,} records: {counts.duplicates:,} duplicate, "
        f"{counts.empty:,} empty, {counts.bad:,} unreadable left out",
        f"tokenizer  {index.vocabulary_size:,} tokens, SHA-256 {index.tokenizer_sha256[:16]}…, stored as {index.dtype}",
    ]
    if index.round_trip is not None:
        lines.append(f"           {index.round_trip}")
    if besides := passed_over(index.remarks):
        lines.insert(1, f"           passed over: {besides}")
    lines += [f"warning    {warning}" for warning in warnings(index.remarks)]
    if remark := remark_on([index.splits["validation"]]):
        lines.append(f"validation {remark}")
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def print_document(directory: Path, index: DatasetIndex, split: str, number: int) -> None:
    """The text of one document."""
    from glm_data.errors import DataError
    from glm_data.shards import SplitReader
    from glm_data.tokenizers import load_tokenizer

    if split not in index.splits:
        raise DataError(f"--split {split}: the splits are {', '.join(index.splits)}.")
    reader = SplitReader(directory, index, split)
    if number >= len(reader):
        raise DataError(f"--sample {number}: the {split} split of {directory} has {len(reader)} documents.")
    tokens = reader.read(number, 0, reader.length(number)).tolist()
    typer.echo(f"{reader.name(number)}: {len(tokens)} tokens", err=True)
    typer.echo(load_tokenizer(directory).decode(tokens))
