"""How to read in MLflow what is there, in markdown: of an experiment, and of the run of a comparison."""

from __future__ import annotations

from glm_scale.scaling.publication import Publication
from glm_scale.tracking.links import artifact_page, chart_page

__all__ = ["of_comparison", "of_experiment"]

# MLflow breaks a line of markdown where it ends, so that a paragraph is one line.
_EXPERIMENT = """\
Runs of glm-scale. A ladder is one run with its members below it (open the arrow beside its name); that run holds the \
comparison of its members, and its description says what came out and where the figures are.

- **Columns** that tell runs apart: tags `mixer`, `size`, `tokens_per_parameter`, `seed`; metrics `final/loss`, \
`final/bits_per_byte`, `final/non_embedding_parameters`, `final/flops`, `final/seconds`, `final/cache_bytes`.
- **Charts** (the second of the three views above the table): *Add chart → Scatter* with `final/log10_flops` and \
`final/loss` draws scaling curves, *Parallel coordinates* with the metrics `final/…` shows what a loss was paid with. \
A colour is a mixer, once its run has been compared.
- **Curves**: `train/loss` is over optimizer steps, `by_tokens/…` over tokens, `by_gflops/…` over GFLOPs.
"""

_COMPARISON = """\
[Figures and tables]({page}) (artifact `{artifact}`), and [the runs in MLflow's own charts]({charts}), whose table has \
the columns that tell them apart.

{said}

How to read it:

- Artifacts: {artifacts}. `points.csv` and `{data}` have the numbers from which all of it can be drawn again.
- Metrics `law/…` are the law's numbers with the ends of their 90 % intervals, `multiplier/MIXER/…` what a mixer takes \
for the same loss as the mixer of the tag `reference`, as a multiple. If there is no law, the tag `law` says why.
- A later comparison takes the place of this one. A description that you have edited stays.
"""


def of_experiment() -> str:
    """The experiment's."""
    return _EXPERIMENT


def of_comparison(publication: Publication, experiment_id: str, run_id: str, view: str) -> str:
    """That of the run `run_id` of a comparison; `view`: the key of its view of charts."""
    names = [*(path.name for path in publication.files), *publication.texts]
    return _COMPARISON.format(
        said="\n".join(f"- {sentence}" for sentence in publication.said) or "No two mixers have finished.",
        # Within MLflow a link needs no server.
        page=artifact_page("", experiment_id, run_id, publication.page).lstrip("/"),
        charts=chart_page("", experiment_id, view).lstrip("/"),
        artifact=publication.page,
        artifacts=", ".join(f"`{name}`" for name in names),
        data=next(name for name in names if name.endswith(".json")),
    )
