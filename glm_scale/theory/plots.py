"""Pictures of structures: where A and B are not zero, and how (I − B)^-1 carries an output to later ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from glm_scale.mixers.structure import Structure

_FAINTEST = 1e-3
_COLUMNS = 9


def uniform_weights(structure: Structure, rows: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A and B, float64 `[rows, rows]`, with equal weights on all that a row may see; rows of [A | B] sum to one.

    An input mixing in front of a recurrence averages the inputs of its band, and the recurrence sees that average as
    the row's own input.
    """
    lag = np.subtract.outer(np.arange(rows), np.arange(rows))
    mixing = ((lag >= 0) & (lag < structure.band(rows))).astype(np.float64)
    mixing /= mixing.sum(axis=1, keepdims=True)
    if structure.pattern is None:
        return mixing, np.zeros((rows, rows))
    read = structure.pattern.read_matrix(rows).numpy()
    share = 1.0 / (1.0 + read.sum(axis=1, keepdims=True))
    return share * mixing, share * read


def plot_structures(structures: Sequence[Structure], path: Path, rows: int = 64) -> None:
    """Draws A, B and (I − B)^-1 of each structure for the first `rows` rows, as a picture in the format of `path`.

    Colour is the magnitude of an entry under `uniform_weights` on a logarithmic scale; zeros and everything below 10^-3
    stay white. Raises OSError where the file cannot be written, ValueError for an unknown format.
    """
    blocks = [structures[start : start + _COLUMNS] for start in range(0, len(structures), _COLUMNS)]
    columns = max(map(len, blocks))
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03)
    figure = Figure(figsize=(1.45 * columns + 1.0, 4.75 * len(blocks)), layout=layout)
    axes = figure.subplots(3 * len(blocks), columns, squeeze=False)
    norm = LogNorm(_FAINTEST, 1.0)
    for ax in axes.flat:
        ax.set_axis_off()
    for block, members in enumerate(blocks):
        for column, structure in enumerate(members):
            A, B = uniform_weights(structure, rows)
            carried = np.linalg.inv(np.eye(rows) - B)
            panels = {"$A$": A, "$B$": B, "$(I-B)^{-1}$": carried}
            for line, (name, matrix) in enumerate(panels.items()):
                ax = axes[3 * block + line, column]
                _draw(ax, matrix, norm)
                if column == 0:
                    ax.set_ylabel(name, fontsize=13)
            axes[3 * block, column].set_title(fill(str(structure), 14), fontsize=11, family="monospace")
    bar = figure.colorbar(ScalarMappable(norm, "viridis_r"), ax=axes, shrink=0.6, aspect=30, pad=0.01)
    bar.set_label("weight of an entry, all choices equal", fontsize=9)
    figure.savefig(path, dpi=150)


def _draw(ax: Axes, matrix: NDArray[np.floating], norm: LogNorm) -> None:
    """One panel: rows downwards, columns to the right, white where nothing is."""
    ax.set_axis_on()
    ax.imshow(np.ma.masked_less(np.abs(matrix), _FAINTEST), norm=norm, cmap="viridis_r", interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(color="0.6", linewidth=0.6)
