"""Pictures of structures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from glm_scale.theory.plots import plot_structures
from tests.theory.structures import structure_of


def test_the_picture_shows_every_structure(tmp_path: Path) -> None:
    spellings = ["attention", "ssm", "local:4 > lattice:2^k", *(f"window:{w}" for w in range(1, 9))]
    plot_structures([structure_of(s) for s in spellings], tmp_path / "eleven.png")
    plot_structures([structure_of("dense")], tmp_path / "one.svg", rows=8)
    with Image.open(tmp_path / "eleven.png") as picture:
        assert picture.width > 1000  # nine side by side, the rest below
        assert picture.height > 1000
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 50
    assert "<svg" in (tmp_path / "one.svg").read_text()
