"""The order of structures beside the paper's: the correlation, and what seeds leave open of it."""

from __future__ import annotations

import pytest
from scipy.stats import spearmanr

from glm_scale.tasks.agreement import agreement
from glm_scale.tasks.results import Member, Result
from glm_scale.tasks.setting import Setting

PUBLISHED = [100.0, 23.75, 42.98, 74.66, 99.66]


def result(*by_rate: list[float]) -> Result:
    """Accuracies of seeds, for each rate."""
    members = [
        Member(seed=seed, rate=10.0 ** -(number + 2), loss=None, accuracy=(share, 0.0, 0.0))
        for number, shares in enumerate(by_rate)
        for seed, share in enumerate(shares)
    ]
    return Result(task="copy", mixer="dense", setting=Setting(), device="CPU", seconds=1.0, members=tuple(members))


def results(means: list[float], spread: float = 0.0) -> list[Result]:
    return [result([mean - spread, mean, mean + spread], [0.0, 0.0, 0.0]) for mean in means]


@pytest.mark.parametrize("means", [[0.9, 0.1, 0.2, 0.3, 0.8], [0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.2, 0.2, 0.2, 0.7]])
def test_is_the_correlation_of_ranks(means: list[float]) -> None:
    found = agreement(results(means), PUBLISHED)
    assert found is not None
    assert found.correlation == pytest.approx(spearmanr(means, PUBLISHED).statistic)
    assert (found.low, found.high) == (pytest.approx(found.correlation), pytest.approx(found.correlation))


def test_the_interval_is_as_wide_as_seeds_can_change_the_order() -> None:
    means = [0.9, 0.1, 0.2, 0.3, 0.8]
    near, far = agreement(results(means, 0.02), PUBLISHED), agreement(results(means, 0.4), PUBLISHED)
    assert near is not None
    assert far is not None
    assert near.low == near.high == pytest.approx(1.0)
    assert far.low is not None
    assert far.low < 0.8
    assert far.high == pytest.approx(1.0)
    assert str(near) == "1.00 [1.00, 1.00]"


def test_every_draw_takes_the_rate_that_is_then_best() -> None:
    """Two rates, each of which is right for one of the seeds: neither seed alone says how well the structure does."""
    torn = result([1.0, 0.0], [0.0, 1.0])
    others = [result([share, share], [0.0, 0.0]) for share in (0.6, 0.7, 0.8)]
    found = agreement([torn, *others], [1, 2, 3, 4])
    assert found is not None
    assert found.correlation == pytest.approx(1.0)
    assert found.low == pytest.approx(spearmanr([1, 2, 3, 4], [4, 1, 2, 3]).statistic)


def test_what_cannot_be_ranked_has_no_correlation() -> None:
    assert agreement(results([0.1, 0.2, 0.3]), PUBLISHED[:3]) is None
    assert agreement(results([0.5] * 5), PUBLISHED) is None
    single = agreement([result([share]) for share in (0.9, 0.1, 0.2, 0.3, 0.8)], PUBLISHED)
    assert single is not None
    assert (single.low, single.high) == (None, None)
    assert str(single) == "1.00"
