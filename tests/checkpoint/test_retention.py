"""Which checkpoints stay."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_scale.checkpoint.layout import places
from glm_scale.checkpoint.manifest import MANIFEST, MARKER, Manifest, marker_of
from glm_scale.checkpoint.reading import Checkpoint, DamagedError
from glm_scale.checkpoint.retention import Retention
from glm_scale.checkpoint.store import CheckpointStore
from tests.checkpoint.made_up import names, reader_of, save, state_at

LOSSES = {10: 3.0, 20: 2.0, 30: None, 40: 1.5, 50: 2.5, 60: float("nan"), 70: 2.0}


def made_up(step: int, loss: float | None = None, number: int = 1) -> Checkpoint:
    return Checkpoint(Path(f"step-{step}.{number}"), Manifest(step, state_at(step, loss), {}, 0.0))


def steps(reasons: Iterable[Path]) -> set[int]:
    return {int(path.name.removeprefix("step-").split(".")[0]) for path in reasons}


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(1), {70}),
        (Retention(3), {50, 60, 70}),
        (Retention(99), set(LOSSES)),
        (Retention(1, every=20), {20, 40, 60, 70}),
        (Retention(1, every=25), {50, 70}),
        (Retention(1, best=1), {40, 70}),
        (Retention(1, best=2), {40, 70}),
        (Retention(1, best=3), {20, 40, 70}),
        (Retention(1, best=99), {10, 20, 40, 50, 70}),
        (Retention(2, every=30, best=1), {30, 40, 60, 70}),
        (Retention(1, at=[10, 30, 35]), {10, 30, 70}),
    ],
)
def test_last_every_and_best(retention: Retention, kept: set[int]) -> None:
    assert steps(retention.reasons([made_up(step, loss) for step, loss in LOSSES.items()])) == kept


def test_says_why() -> None:
    reasons = Retention(1, every=20, best=1).reasons([made_up(step, loss) for step, loss in LOSSES.items()])
    assert reasons[Path("step-40.1")] == ["every", "best"]
    assert reasons[Path("step-70.1")] == ["last"]


def test_of_one_step_the_last_counts() -> None:
    twice = [made_up(1), made_up(2, 1.0), made_up(2, 5.0, number=2), made_up(3, 2.0)]
    assert set(Retention(2, every=2, best=1).reasons(twice)) == {Path("step-2.2"), Path("step-3.1")}


@given(
    st.lists(st.integers(0, 30), min_size=1, unique=True),
    st.integers(1, 5),
    st.none() | st.integers(1, 9),
    st.integers(0, 3),
)
def test_the_newest_always_stays(found: list[int], last: int, every: int | None, best: int) -> None:
    checkpoints = [made_up(step, 1 / (step + 1)) for step in sorted(found)]
    kept = steps(Retention(last, every, best).reasons(checkpoints))
    assert max(found) in kept
    assert len(kept) >= min(last, len(found))


def test_what_stays_on_disk(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, Retention(2, every=40, best=1))
    on_disk = []
    for step, loss in LOSSES.items():
        save(store, step, state_at(step, loss))
        on_disk.append([place.step for place in places(tmp_path)])
    assert on_disk == [[10], [10, 20], [20, 30], [30, 40], [40, 50], [40, 50, 60], [40, 60, 70]]


def test_readers_of_several_are_waited_for(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, Retention(1))
    with reader_of(save(store, 1)):
        with reader_of(save(store, 2)):
            save(store, 3)
            assert [place.step for place in places(tmp_path)] == [1, 2, 3]
        save(store, 4)
        assert [place.step for place in places(tmp_path)] == [1, 4]
    save(store, 5)
    assert [place.step for place in places(tmp_path)] == [5]


def test_one_whose_state_no_version_knows_is_neither_counted_nor_deleted(store: CheckpointStore) -> None:
    strange = save(store, 1)
    manifest = strange / MANIFEST
    content = manifest.read_bytes().replace(b'"samples": 0', b'"samples": "none"')
    manifest.write_bytes(content)
    (strange / MARKER).write_bytes(marker_of(content))
    save(store, 2), save(store, 3), save(store, 4)
    assert names(store) == ["step-00000001", "step-00000003", "step-00000004"]
    with pytest.raises(DamagedError, match=r"step-00000001 is damaged: .*state\.counters\.samples: .*integer"):
        Checkpoint.at(strange)
