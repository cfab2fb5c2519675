import pytest

from glm_scale.config.changes import Change, changes, check_resumable, is_same_run
from glm_scale.errors import UserError

CONFIG: dict[str, dict[str, object]] = {
    "model": {"width": 16, "mixers": ["ssm"]},
    "training": {"tokens": 1000, "micro_batch": 2, "seed": 0},
    "tracking": {"uri": "a"},
}


def changed(group: str, **values: object) -> dict[str, dict[str, object]]:
    return {**CONFIG, group: {**CONFIG[group], **values}}


def test_changes_name_keys_down_to_list_entries() -> None:
    assert changes(CONFIG, changed("model", mixers=["ssm", "dense"])) == [Change("model.mixers[1]", None, "dense")]
    assert changes(CONFIG, CONFIG) == []


def test_every_refused_key_is_named() -> None:
    other = changed("model", width=32)
    other["training"] = {"tokens": 1000, "micro_batch": 2, "seed": 9}
    with pytest.raises(UserError) as caught:
        check_resumable(CONFIG, other, 0, "runs/x")
    assert "model.width: 16 → 32" in str(caught.value)
    assert "training.seed: 0 → 9" in str(caught.value)
    assert "name=" in str(caught.value)


def test_remarks_say_what_follows() -> None:
    assert "rounding" in check_resumable(CONFIG, changed("training", micro_batch=1), 0, "")[0]
    assert "schedule" in check_resumable(CONFIG, changed("training", tokens=2000), 1000, "")[0]
    assert check_resumable(CONFIG, changed("tracking", uri="b"), 0, "") == ["tracking.uri: 'a' → 'b'"]


def test_a_budget_below_what_is_done_is_refused() -> None:
    with pytest.raises(UserError, match=r"training\.tokens"):
        check_resumable(CONFIG, changed("training", tokens=500), 600, "")


def test_only_what_changes_numbers_makes_another_run() -> None:
    assert is_same_run(CONFIG, changed("tracking", uri="b"))
    assert not is_same_run(CONFIG, changed("training", tokens=2000))
