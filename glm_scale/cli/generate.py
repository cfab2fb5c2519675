"""`glm-scale generate`: continue a prompt with a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def generate(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run directory (its newest checkpoint) or a checkpoint.")
    ],
    prompt: Annotated[str, typer.Option(help="The text to continue; empty for a new document.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Stop after this many tokens.")] = 200,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token every time.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw among this many likeliest tokens only.")] = None,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Draw among the likeliest tokens that reach this probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same text.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Stream a continuation of the prompt to stdout; speed and cache size go to stderr."""
    import torch

    from glm_scale.errors import UserError
    from glm_scale.generation import Generation, Sampling
    from glm_scale.training.checkpoint import load_model

    if top_p == 0:
        raise UserError("--top-p 0 leaves no token to draw; use --temperature 0 for the likeliest one")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device; use --device cpu or auto")
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: allowed are auto, cpu and cuda")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"

    loaded = load_model(checkpoint, torch.device(device))
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    generation = Generation(loaded.model.eval(), loaded.tokenizer, prompt, max_tokens=tokens, sampling=sampling)
    typer.echo(prompt, nl=False)
    for piece in generation:
        typer.echo(piece, nl=False)
    typer.echo()
    typer.echo(str(generation.report), err=True)
