"""`glm-scale generate`."""

from typing import Annotated, Literal

import typer

from glm_scale.cli.arguments import TrainedModel


def generate(
    checkpoint: TrainedModel,
    prompt: Annotated[str, typer.Option(help="The text to continue; empty for a new document.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Stop after this many tokens.")] = 200,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token every time.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw among this many likeliest tokens only.")] = None,
    top_p: Annotated[
        float, typer.Option(min=1e-6, max=1, help="Draw among the fewest tokens that reach this probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed draws the same text.")] = 0,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    precision: Annotated[
        Literal["auto", "bf16", "fp32"],
        typer.Option(help="Of weights and caches; auto: on a GPU that of the training, else fp32."),
    ] = "auto",
    graph: Annotated[
        bool | None,
        typer.Option(
            "--graph/--no-graph",
            help="Record a token's work as a CUDA graph and replay it for every token; on a GPU the default.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Stream a continuation of a prompt to stdout; speed and cache size go to stderr.

    The kernels of training read the prompt. Then every token takes one step over the caches, whose size follows from
    the mixers: `glm-scale patterns` shows it. How fast that is, `glm-scale bench decode` measures.
    """
    import torch

    from glm_scale.errors import UserError
    from glm_scale.inference import load_model
    from glm_scale.inference.generation import Generation
    from glm_scale.inference.sampling import Sampling
    from glm_scale.training.distributed import resolve_device

    place = resolve_device(device)
    if graph and place.type != "cuda":
        raise UserError(f"--graph: a CUDA graph needs a GPU, and this is --device {place.type}; leave it out")
    loaded = load_model(checkpoint, place)
    if precision == "auto":
        precision = loaded.config.training.precision if place.type == "cuda" else "fp32"
    loaded.model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    generation = Generation(loaded.model, loaded.tokenizer, prompt, max_tokens=tokens, sampling=sampling, graph=graph)
    typer.echo(prompt, nl=False)
    for piece in generation:
        typer.echo(piece, nl=False)
    typer.echo()
    typer.echo(str(generation.report), err=True)
