"""What a comparison comes to."""

from pathlib import Path

import pytest

from glm_scale.run_search import find_runs
from glm_scale.scaling.comparison import compare
from glm_scale.scaling.verdict import verdict
from tests.scaling.synthetic_runs import write_run


def said(root: Path) -> str:
    return verdict(compare(find_runs([root])).runs)


def test_one_run_each_resolves_nothing_and_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "attention", final_loss=4.0)
    write_run(tmp_path, "b", "ssm", final_loss=3.9, parameters=3_000_000)
    found = said(tmp_path)
    assert found.startswith(
        "ssm ends lowest, at 3.9000 nats a token; attention +0.1000 at 0.50× its FLOPs and 1.00× its"
    )
    assert "cannot be told: repeat it with other training.seed" in found


@pytest.mark.parametrize(
    ("other", "words"),
    [(3.99, "Nothing is resolved beside the spread of seeds (attention p = "), (4.5, "That is resolved beside")],
)
def test_seeds_decide_what_is_resolved(tmp_path: Path, other: float, words: str) -> None:
    for seed, off in enumerate((-0.05, 0.0, 0.05)):
        write_run(tmp_path, f"a{seed}", "attention", final_loss=other + off)
        write_run(tmp_path, f"b{seed}", "ssm", final_loss=3.98 + off)
    assert words in said(tmp_path)


def test_some_may_be_resolved_and_others_not(tmp_path: Path) -> None:
    for seed, off in enumerate((-0.01, 0.0, 0.01)):
        for mixer, loss in (("attention", 4.5), ("ssm", 4.0), ("dense", 4.001)):
            write_run(tmp_path, f"{mixer}{seed}", mixer, final_loss=loss + off)
    assert "; not from dense (" in said(tmp_path)


def test_mixers_of_several_budgets_are_compared_at_the_same_cost(tmp_path: Path) -> None:
    """A token of attention takes twice the FLOPs here, so with all of them it is where ssm was with half."""
    for name, parameters in (("attention", 2_000_000), ("ssm", 1_000_000)):
        for tokens, loss in ((500_000, 4.4), (1_000_000, 4.0), (2_000_000, 3.6)):
            write_run(tmp_path, f"{name}{tokens}", name, tokens=tokens, final_loss=loss, parameters=parameters)
    found = said(tmp_path)
    assert found.startswith(
        "At equal training FLOPs (1.2e+13) ssm is lowest, at 3.6000; attention +0.4000. At equal time"
    )
    assert "attention +0.0000. Whether that is more" in found or "ssm +0.0000. Whether that is more" in found


def test_budgets_that_do_not_overlap_say_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "attention", tokens=1_000_000, final_loss=4.0, parameters=100_000_000)
    write_run(tmp_path, "b", "ssm", tokens=500_000, final_loss=4.0, parameters=1_000_000)
    write_run(tmp_path, "c", "ssm", tokens=400_000, final_loss=4.0, parameters=1_000_000)
    assert "training FLOPs" not in said(tmp_path)


@pytest.mark.parametrize("changed", [{"tokens": 2_000_000}, {"status": "failed"}, {"mixer": "attention"}])
def test_what_cannot_be_compared_has_no_verdict(tmp_path: Path, changed: dict[str, object]) -> None:
    write_run(tmp_path, "a", "attention")
    write_run(tmp_path, "b", **({"mixer": "ssm"} | changed))  # type: ignore[arg-type]
    assert said(tmp_path) == ""
