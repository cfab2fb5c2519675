"""Figures as files: pages that need no network and hold every axis, pictures that are the same every time."""

import json
import math
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from glm_scale.errors import UserError
from glm_scale.scaling.pictures.interactive import CANVAS, states_of, switched
from glm_scale.scaling.pictures.panels import Subject, panel_of
from glm_scale.scaling.pictures.quantities import COSTS, LOSSES, chosen_across, chosen_loss
from glm_scale.scaling.pictures.sheets import draw
from glm_scale.scaling.report import Asked
from glm_scale.scaling.style import style_of
from tests.scaling.planted import compared, ladder, trained_run

ALL = {f"{cost.key}/{loss.key}" for cost in COSTS for loss in LOSSES}
MAGIC = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


@pytest.fixture(scope="module")
def page() -> str:
    return switched(ladder(), COSTS[1], LOSSES[0])


def states_in(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="states">(.*?)</script>', page, re.S)
    assert found is not None
    return dict(json.loads(found[1]))


def test_a_page_holds_what_is_drawn_over_every_axis(page: str) -> None:
    states = states_in(page)
    assert set(states) == ALL
    for key, state in states.items():
        figure = go.Figure(state)  # raises for what plotly does not know
        assert {trace.meta for trace in figure.data if trace.mode == "markers"} == {"attention", "lattice:2^k"}, key
        assert sum(len(trace.x) for trace in figure.data if trace.mode == "markers" and trace.yaxis == "y") == 48
    assert states["flops/loss"]["layout"]["xaxis"]["title"]["text"] == "training FLOPs"
    assert 'data-x="flops" data-y="loss"' in page


def test_a_page_asks_for_nothing_from_the_network(page: str) -> None:
    own = page.replace(get_plotlyjs(), "")
    assert len(own) < len(page)
    assert not re.search(r"https?:|//[a-z]|@import|\bsrc=|\bhref=", own)


def test_what_is_drawn_on_a_page_has_the_colours_of_the_mixers(page: str) -> None:
    for trace in states_in(page)["cache/bits_per_byte"]["data"]:
        if trace["mode"] == "markers":
            assert trace["marker"]["color"] == style_of(trace["meta"]).colour


def test_names_on_a_page_stand_where_the_panel_has_them(page: str) -> None:
    """Annotations take logarithms on logarithmic axes, and pixels downwards."""
    panel = panel_of(ladder(), COSTS[1], LOSSES[0], CANVAS)
    assert panel is not None
    shown = {each["name"]: each for each in states_in(page)["flops/loss"]["layout"]["annotations"] if each["name"]}
    assert len(panel.labels) == len(shown) == 2
    for label in panel.labels:
        found = shown[label.mixer]
        assert (found["x"], found["y"]) == pytest.approx((math.log10(label.x), math.log10(label.y)), abs=1e-4)
        assert (found["ax"], found["ay"]) == pytest.approx((label.offset[0], -label.offset[1]))


def test_axes_that_no_run_knows_are_not_offered() -> None:
    states = states_of(Subject(compared([trained_run("ssm", 3.0, cache=None, bits=None)])))
    assert set(states) == {"tokens/loss", "flops/loss", "seconds/loss", "parameters/loss", "decode_flops/loss"}


def test_names_of_runs_cannot_break_a_page() -> None:
    evil = "</script><b>&'\""
    page = switched(
        Subject(compared([trained_run("ssm", 3.0, name=evil), trained_run("gla", 3.1)])), COSTS[0], LOSSES[0]
    )
    assert evil not in page
    hover = [trace["text"][0] for trace in states_in(page)["tokens/loss"]["data"] if trace["mode"] == "markers"]
    assert hover[0].startswith("&lt;/script&gt;&lt;b&gt;&amp;")
    page = switched(Subject(compared([trained_run(evil, 3.0, name="a"), trained_run("gla", 3.1)])), COSTS[0], LOSSES[0])
    assert evil not in page
    assert any(trace["meta"] == evil for trace in states_in(page)["tokens/loss"]["data"])


@pytest.mark.parametrize("suffix", MAGIC)
def test_pictures_are_of_their_format_and_the_same_every_time(tmp_path: Path, suffix: str) -> None:
    first, second = (tmp_path / f"{name}{suffix}" for name in ("first", "second"))
    for path in (first, second):
        draw(Subject(compared([trained_run("ssm", 3.0), trained_run("attention", 3.1)])), path, COSTS[:1])
    assert first.read_bytes().startswith(MAGIC[suffix])
    assert first.read_bytes() == second.read_bytes()
    assert not re.search(rb"CreationDate|dc:date", first.read_bytes()), "it would change from day to day"


def test_a_picture_of_a_ladder_has_its_law_and_the_reason_where_there_is_none(tmp_path: Path) -> None:
    for name, subject in (("law", ladder()), ("none", ladder(20))):
        draw(subject, tmp_path / f"{name}.svg", chosen_across("flops,cache"))
    law, none = ((tmp_path / f"{name}.svg").read_text() for name in ("law", "none"))
    assert law.count("FillBetweenPolyCollection") > none.count("FillBetweenPolyCollection") == 0
    assert "No law is drawn: tokens of attention follow from its size" in none  # matplotlib comments its outlines


def test_nothing_measured_is_drawn_as_that_and_axes_without_numbers_are_refused(tmp_path: Path) -> None:
    draw(Subject(compared([])), tmp_path / "empty.png")
    subject = Subject(compared([trained_run("ssm", 3.0, cache=None)]))
    with pytest.raises(UserError, match="no run here says loss over cache; choose other axes with --x and --y"):
        draw(subject, tmp_path / "cache.png", chosen_across("cache"))


def test_axes_and_formats_that_are_none_are_named() -> None:
    with pytest.raises(UserError, match="--x 'tokens,flop': 'flop' is no axis; there are tokens, flops, seconds"):
        chosen_across("tokens,flop")
    with pytest.raises(UserError, match="--x ',' names no axis"):
        chosen_across(",")
    with pytest.raises(UserError, match="--y 'bits' is no axis; there are loss, bits_per_byte"):
        chosen_loss("bits")
    with pytest.raises(UserError, match=r"--figure a\.jpeg: the name has to end in one of \.png, \.svg, \.pdf, \.html"):
        Asked((Path("a.jpeg"),))
