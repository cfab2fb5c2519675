"""The look of mixers: stable, of one family by hue, and told apart by people who see fewer colours."""

from itertools import combinations

import numpy as np
import pytest

from glm_scale.scaling.style import look_of, style_of

SHOWN = (
    "attention", "local:16", "ssm", "window:16", "dense", "offsets:2^k", "lattice:2^k", "offsets:k^2+1",
    "lattice:k^2+1", "mamba2", "gla", "gated_deltanet", "kda", "log_linear",
)  # fmt: skip
"""The structures of the documentation and the published baselines."""
# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB.
SIGHTS = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


@pytest.mark.parametrize(
    ("mixer", "name"),
    [
        ("attention", "attention"),
        ("lattice:k^2+1", "lattice"),
        ("local:128 > lattice:2^k", "lattice"),
        ("lattice:2^k+lattice:k^2+1", "lattice"),
        ("lattice:2^k+attention", "hybrid"),
        ("attention+local:128 > lattice:k^2+1", "hybrid"),
        ("mine:3", "mine"),
    ],
)
def test_families(mixer: str, name: str) -> None:
    assert look_of(mixer).family == name


def test_looks_are_those_that_published_figures_have() -> None:
    """A change here changes every figure that people compare with an earlier one."""
    colours = {"attention": "#0072B2", "lattice:2^k": "#D55E00", "lattice:k^2+1": "#7C3700", "ssm": "#009E73"}
    assert {mixer: style_of(mixer).colour for mixer in colours} == colours


def test_every_mixer_of_the_documentation_has_a_colour_of_its_own() -> None:
    assert len({style_of(mixer).colour for mixer in SHOWN}) == len(SHOWN)


def test_members_of_a_family_differ_in_colour_line_and_marker() -> None:
    for family in (("lattice:2^k", "lattice:k^2+1"), ("ssm", "ssm:32", "ssm:128"), ("local:16", "local:64")):
        for which in ("colour", "marker", "line", "plotly_marker", "plotly_line"):
            assert len({getattr(style_of(mixer), which) for mixer in family}) == len(family), (family, which)


def test_equal_mixers_look_alike_however_they_are_spelled() -> None:
    assert style_of("ssm:64") == style_of("ssm")
    assert style_of("lattice:2^k") != style_of("local:128 > lattice:2^k")


@pytest.mark.parametrize("sight", SIGHTS)
def test_families_differ_for_all_sights(sight: str) -> None:
    """By 13 in CIE76 colour difference; 2.3 is just noticeable. Members of one family have other markers and lines."""
    families = [mixer for mixer in SHOWN if "k^2" not in mixer]
    for one, other in combinations(families, 2):
        difference = np.linalg.norm(seen(style_of(one).colour, sight) - seen(style_of(other).colour, sight))
        assert difference > 13, (one, other, float(difference))


@pytest.mark.parametrize("mixer", SHOWN)
def test_none_fades_on_white(mixer: str) -> None:
    luminance = float(linear(style_of(mixer).colour) @ [0.2126, 0.7152, 0.0722])
    assert 1.05 / (luminance + 0.05) > 2


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def seen(colour: str, sight: str) -> np.ndarray:
    """CIELAB coordinates."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(to_xyz) @ np.clip(SIGHTS[sight] @ linear(colour), 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
