"""The view of MLflow's charts in which the runs of a comparison draw their scaling curves.

MLflow's user interface keeps a view that is shared as JSON in a tag of the experiment, and opens it by the key in an
address (`glm_scale.tracking.links.chart_page`). The names are those of its own code, the same from 3.10 to 3.17; one
that does not know them opens its usual charts instead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

__all__ = ["chart_view"]

_SECTION = "scaling"
_MOST_RUNS = 100
_LONGEST = 5000
"""Characters of an experiment's tag."""
_ALL = "metrics.`final/loss` > 0"
_SCATTERS = ("final/log10_flops", "final/log10_seconds")
_PARALLEL = ("final/non_embedding_parameters", "final/tokens", *_SCATTERS, "final/loss")
_COLUMNS = (
    "tags.`mixer`",
    "tags.`size`",
    "tags.`tokens_per_parameter`",
    "tags.`seed`",
    "metrics.`final/loss`",
    "metrics.`final/bits_per_byte`",
    "metrics.`final/non_embedding_parameters`",
    "metrics.`final/tokens`",
    "metrics.`final/flops`",
    "metrics.`final/seconds`",
    "metrics.`final/cache_bytes`",
)


def chart_view(parent: str | None, runs: Sequence[str]) -> str:
    """The text of the tag: scatter plots of final losses, parallel coordinates, and the columns of the table.

    Shown are the runs under the run `parent`, else those of the ids `runs`; all that have finished
    if these are none, or too many for a tag.
    """
    if parent:
        return _view(f"tags.`mlflow.parentRunId` = '{parent}'")
    listed = ", ".join(f"'{run}'" for run in runs)
    text = _view(f"attributes.run_id IN ({listed})")
    return text if runs and len(text) <= _LONGEST else _view(_ALL)


def _view(chosen: str) -> str:
    view = {
        "searchFilter": chosen,
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "selectedColumns": _COLUMNS,
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        # Else sections are put in the order of their names.
        "isAccordionReordered": True,
        "compareRunSections": [
            {
                "uuid": _SECTION,
                "name": "Scaling",
                "display": True,
                "isReordered": True,
                "deleted": False,
                "isGenerated": False,
                "columns": 2,
                "cardHeight": 420,
            }
        ],
        "compareRunCharts": [
            *(_chart("SCATTER", cost, xaxis=_axis(cost), yaxis=_axis("final/loss")) for cost in _SCATTERS),
            _chart("PARALLEL", "parallel", selectedParams=[], selectedMetrics=_PARALLEL, showAllRuns=False),
        ],
    }
    return json.dumps(view, separators=(",", ":"))


def _chart(kind: str, name: str, **settings: Any) -> dict[str, Any]:
    common = {"deleted": False, "isGenerated": False, "metricSectionId": _SECTION, "runsCountToCompare": _MOST_RUNS}
    return {"type": kind, "uuid": f"{_SECTION}/{name}", **common, **settings}


def _axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}
