"""`glm-scale data adopt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from glm_scale.cli.datasets import BosToken, EosToken, HeldOut, print_index, with_tokenizer

__all__ = ["adopt_command"]


def adopt_command(
    inputs: Annotated[
        list[Path],
        typer.Option("--input", "-i", help="A .bin file of token ids; repeat it for more.", show_default=False),
    ],
    tokenizer: Annotated[
        Path,
        typer.Option(
            help="The tokenizer whose ids they are: a tokenizer.json or the folder of a model of Hugging Face, a data "
            "set, a run, or a SentencePiece model.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the data set.", show_default=False)],
    bos_token: BosToken = None,
    eos_token: EosToken = None,
    id_type: Annotated[
        Literal["uint16", "uint32"], typer.Option(help="Of the ids in a file that does not say it, as nanoGPT's.")
    ] = "uint16",
    validation_fraction: HeldOut = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the data set in the output directory.")
    ] = False,
) -> None:
    """Make a data set of token ids that other programs have written, without copying them.

    Reads Megatron's .bin with its .idx beside it, and .bin files of nanoGPT, llm.c and modded-nanogpt, which are cut
    into documents where the end token stands. Each id is read once, for checksums and to hold documents out; the files
    stay where they are and must not change.

    Examples:

      glm-scale data adopt -i openwebtext/train.bin --tokenizer models/gpt2 -o data/openwebtext

      glm-scale data adopt -i megatron/web_text_document.bin --tokenizer models/Llama-3.2-1B -o data/web

    Train on it: glm-scale train CONFIG 'data.sources=[{path: data/web}]'
    """
    from rich.console import Console

    from glm_data.adoption import AdoptConfig, adopt

    config = AdoptConfig(
        inputs=inputs,
        output=output,
        tokenizer=with_tokenizer(tokenizer),
        bos_token=bos_token,
        eos_token=eos_token,
        id_type=id_type,
        validation_fraction=validation_fraction,
        overwrite=overwrite,
    )
    print_index(output, adopt(config, Console(stderr=True)))
