"""Points as arrays: what belongs to one mixer and to one trunk."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from glm_scale.scaling.laws import Point
from glm_scale.scaling.laws.points import Table

POINT = Point("ssm", 1e7, 2e8, 3.0, 0, "small")


def test_branches_of_a_run_are_one_trunk_and_other_seeds_and_mixers_are_not():
    others: list[dict[str, Any]] = [
        {},
        {"tokens": 4e8, "loss": 2.9},
        {"seed": 1},
        {"mixer": "attention"},
        {"run": "large"},
    ]
    table = Table.of(dataclasses.replace(POINT, **other) for other in others)
    trunk = {(p.mixer, p.run, p.seed, p.tokens): t for p, t in zip(table.points, table.trunk.tolist(), strict=True)}
    assert trunk["ssm", "small", 0, 2e8] == trunk["ssm", "small", 0, 4e8]
    assert len(set(trunk.values())) == 4
    assert table.mixers == ("attention", "ssm")
    assert table.mixer.tolist() == [0, 1, 1, 1, 1]


def test_numbers_are_natural_logarithms():
    table = Table.of([POINT])
    assert np.exp([table.log_parameters[0], table.log_tokens[0], table.log_loss[0]]) == pytest.approx([1e7, 2e8, 3.0])
    assert POINT.flops == 6 * 1e7 * 2e8
