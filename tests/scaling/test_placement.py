"""Names stand beside what they name, and none covers another."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_scale.scaling.placement import Box, Text, beside, box_of, in_column, spread

WIDTH, HEIGHT, FONT = 400.0, 300.0, 10.0
PLACES = st.lists(st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT)), min_size=1, max_size=12)


def texts(places: list[tuple[float, float]]) -> list[Text]:
    return [Text(f"mixer:{index}", x, y) for index, (x, y) in enumerate(places)]


@settings(deadline=None, max_examples=60)
@given(PLACES)
def test_names_in_a_column_do_not_overlap_and_keep_the_order_of_their_places(places: list[tuple[float, float]]) -> None:
    names = texts(places)
    found = in_column(names, 300, HEIGHT, FONT)
    boxes = [box_of(text.text, left, middle, FONT) for text, (left, middle) in zip(names, found, strict=True)]
    assert not any(one.meets(other) for one, other in combinations([_smaller(box) for box in boxes], 2))
    assert all(box.bottom >= -1e-6 and box.top <= HEIGHT + 1e-6 for box in boxes)
    heights = [middle for _, middle in found]
    assert [heights[i] for i in np.lexsort([[t.x for t in names], [t.y for t in names]])] == sorted(heights)


def test_a_name_that_has_room_stands_at_the_height_of_its_place() -> None:
    assert in_column(texts([(0, 40), (0, 200)]), 300, HEIGHT, FONT) == [(300, 40), (300, 200)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(60, 340), st.floats(30, 270)), min_size=1, max_size=8))
def test_names_beside_points_do_not_overlap(places: list[tuple[float, float]]) -> None:
    names = texts(places)
    points = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    found = beside(names, points, WIDTH, HEIGHT, FONT)
    boxes = [box_of(text.text, *place, FONT) for text, place in zip(names, found, strict=True)]
    assert not any(one.meets(other) for one, other in combinations(boxes, 2))
    assert all(box.left >= 0 and box.right <= WIDTH for box in boxes)


def test_a_lone_name_stands_to_the_right_and_one_at_the_edge_to_the_left() -> None:
    (right,), (left,) = (beside([Text("ssm", x, 100)], [], WIDTH, HEIGHT, FONT) for x in (100, WIDTH - 5))
    assert right[0] > 100
    assert right[1] == 100
    assert left[0] < WIDTH - 5


@pytest.mark.parametrize(
    ("places", "moved"), [([0.5], [0.5]), ([0.5, 0.5], [0.45, 0.55]), ([0, 0], [0, 0.1]), ([1, 1, 1], [0.8, 0.9, 1])]
)
def test_spreading_moves_as_little_as_may_be(places: list[float], moved: list[float]) -> None:
    assert spread(places, 0.1, 0.0, 1.0) == pytest.approx(moved)


def _smaller(box: Box) -> Box:
    return Box(box.left + 1e-6, box.bottom + 1e-6, box.right - 1e-6, box.top - 1e-6)
