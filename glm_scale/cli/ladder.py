"""`glm-scale ladder`."""

from __future__ import annotations

import typing

import typer

from glm_scale.cli.arguments import ConfigPath, Overrides
from glm_scale.cli.curves import say_where_curves_are
from glm_scale.output import is_commentary

if typing.TYPE_CHECKING:
    from rich.console import Console

    from glm_scale.config import LadderConfig, RunConfig
    from glm_scale.run.ladder import Rung


def ladder(config: ConfigPath, overrides: Overrides = None) -> None:
    """Train every mixer of `ladder.mixers` at every size, generate a sample from each, and compare them.

    Finished runs are left alone, so the same command goes on where an earlier one stopped.
    """
    from rich.console import Console

    from glm_scale.cli.memory import must_find_room
    from glm_scale.config import check_environment, layout_of, load_config
    from glm_scale.run.ladder import climb, is_finished, plan

    is_commentary()
    base = load_config(config, overrides or ())
    rungs = plan(config, overrides or ())
    for rung in rungs:
        check_environment(rung.config, str(config))
        if not is_finished(rung):
            must_find_room(rung.config, layout_of(rung.config))

    outcomes = climb(config, rungs)
    console = Console()
    if "stopped" in outcomes.values():
        console.print("stopped; the same command goes on from here")
        raise typer.Exit(130)
    trained = [rung for rung in rungs if outcomes[rung.config.name] in ("finished", "finished before")]
    if trained:
        _sample(trained, console)
        _compare(trained, base)
        say_where_curves_are(trained[0].config, console)
    failed = [name for name, outcome in outcomes.items() if outcome == "failed"]
    if failed:
        console.print(f"failed: {', '.join(failed)}; the reason is in train.log in {base.run_root}/NAME")
        raise typer.Exit(1)


def _sample(rungs: list[Rung], console: Console) -> None:
    """Show a continuation of the same prompt by every run, and keep it in the run's folder `samples`."""
    from glm_scale.inference import load_model
    from glm_scale.inference.generation import Generation, Sampling

    for rung in rungs:
        settings: LadderConfig | None = rung.config.ladder
        assert settings is not None
        loaded = load_model(rung.run.path)
        generation = Generation(
            loaded.model, loaded.tokenizer, settings.prompt, max_tokens=settings.sample_tokens, sampling=Sampling()
        )
        text = settings.prompt + "".join(generation)
        (rung.run.samples / f"step-{loaded.step:08d}.txt").write_text(f"{text}\n", encoding="utf-8")
        console.print(
            f"\n{rung.config.name}: {generation.report}", style="bold", highlight=False, markup=False, soft_wrap=True
        )
        console.print(text, highlight=False, markup=False)
    console.print()


def _compare(rungs: list[Rung], base: RunConfig) -> None:
    from glm_scale.cli.compare import present

    assert base.ladder is not None
    present(
        [rung.run for rung in rungs],
        base.run_root / f"{base.name}-comparison",
        scaling=len(base.ladder.sizes) > 1,
        tracking=base.tracking.enabled,
    )
