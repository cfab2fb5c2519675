"""Which rank is named, from reports alone."""

from __future__ import annotations

import glm_scale
from glm_scale.processes.diagnosis import describe, diagnose, place
from glm_scale.processes.reports import Frame, Group, Report, parse_stacks

HERE = Frame("/run/script.py", 10, "here")
THERE = Frame("/run/script.py", 20, "there")


def report(rank: int, groups: dict[tuple[int, ...], int | None] | None = None, at: Frame = HERE) -> Report:
    """Of a rank in groups of these ranks, with the number of collectives that it has started."""
    known = tuple(Group(f"g{len(ranks)}", ranks, started) for ranks, started in (groups or {}).items())
    return Report(
        rank, "host", 100 + rank, "step 3", 5.0, known, {"MainThread": (Frame("/run/main.py", 1, "main"), at)}
    )


def of(*reports: Report) -> dict[int, Report]:
    return {each.rank: each for each in reports}


def test_the_one_behind_is_named() -> None:
    world = (0, 1, 2, 3)
    found = diagnose(of(*(report(rank, {world: 41 if rank == 2 else 42}) for rank in world)), {})
    assert found.ranks == (2,)
    assert found.reason == "rank 2 has started 41 collectives in group g4, the others 42"


def test_the_one_ahead_of_most_is_named() -> None:
    world = (0, 1, 2, 3)
    found = diagnose(of(*(report(rank, {world: 43 if rank == 2 else 42}) for rank in world)), {})
    assert found.ranks == (2,)
    assert found.reason == "rank 2 has started 43 collectives in group g4, the others 42"


def test_of_two_the_one_behind_is_named() -> None:
    found = diagnose(of(report(0, {(0, 1): 8}), report(1, {(0, 1): 7})), {})
    assert found.ranks == (1,)
    assert found.reason == "rank 1 has started 7 collectives in group g2, rank 0 8"


def test_those_who_wait_for_it_elsewhere_are_not_named() -> None:
    # Rank 3 waits for rank 2 in the tensor group (2, 3), so that rank 1 waits for rank 3 in the data group (1, 3).
    reports = of(
        report(0, {(0, 1): 42, (0, 2): 10}),
        report(1, {(0, 1): 42, (1, 3): 10}),
        report(2, {(2, 3): 41, (0, 2): 9}),
        report(3, {(2, 3): 42, (1, 3): 9}),
    )
    found = diagnose(reports, {})
    assert found.ranks == (2,)
    assert found.reason.startswith("rank 2 has started ")


def test_groups_entered_in_different_order_are_a_circle() -> None:
    reports = of(report(0, {(0, 1): 5, (0, 1, 2): 2}), report(1, {(0, 1): 4, (0, 1, 2): 3}), report(2, {(0, 1, 2): 3}))
    found = diagnose(reports, {})
    assert found.ranks == (0, 1)
    assert "wait for each other" in found.reason


def test_equal_numbers_leave_it_to_the_places() -> None:
    world = (0, 1, 2)
    found = diagnose(of(*(report(rank, {world: 5}, THERE if rank == 1 else HERE) for rank in world)), {})
    assert found.ranks == (1,)
    assert found.reason == "rank 1 stands at /run/script.py:20 in there, the others at /run/script.py:10 in here"


def test_no_majority_names_nobody_but_says_where_all_are() -> None:
    found = diagnose(of(report(0, at=HERE), report(1, at=THERE)), {})
    assert found.ranks == ()
    expected = "rank 0 stands at /run/script.py:10 in here, rank 1 stands at /run/script.py:20 in there"
    assert found.reason == expected


def test_ranks_that_are_alike_are_not_named() -> None:
    assert diagnose(of(report(0), report(1)), {}).reason == "all 2 ranks stand at /run/script.py:10 in here"
    assert diagnose(of(report(0)), {}).reason == "rank 0 stands at /run/script.py:10 in here"


def test_backends_that_do_not_count_are_left_out() -> None:
    found = diagnose(of(report(0, {(0, 1): None}), report(1, {(0, 1): 3}, THERE)), {})
    assert "stands at" in found.reason


def test_silent_ranks_come_before_all_others() -> None:
    found = diagnose(of(report(0, {(0, 1): 3}), report(1, {(0, 1): 2})), {2: "has ended with exit code 0"})
    assert found.ranks == (2,)
    assert found.reason == "rank 2 has ended with exit code 0"


def test_place_is_in_this_package_or_outside_of_torch_and_python() -> None:
    import threading

    import torch

    ours = Frame(f"{glm_scale.__path__[0]}/training/loop.py", 1, "train")
    theirs = Frame(f"{torch.__path__[0]}/distributed/c10d.py", 2, "all_reduce")
    python = Frame(threading.__file__, 3, "wait")
    assert place([HERE, ours, THERE, theirs]) == str(ours)
    assert place([HERE, theirs, python]) == str(HERE)
    assert place([theirs]) == str(theirs)
    assert place([]) == "an unknown place"


def test_equal_stacks_are_shown_once_and_the_odd_one_first() -> None:
    reports = of(report(0), report(1, at=THERE), report(2))
    text = describe(diagnose(reports, {}), reports)
    assert text.startswith("look at rank 1 first: ")
    assert text.index("rank 1, last sign of life step 3:") < text.index("ranks 0, 2, last sign of life step 3:")
    assert text.count('File "/run/script.py"') == 2


def test_report_survives_its_file() -> None:
    before = report(1, {(0, 1): 3, (1, 2): None})
    assert Report.from_json(before.to_json()) == before


def test_stacks_of_faulthandler_are_read() -> None:
    text = (
        'Thread 0x01 (most recent call first):\n  File "/a.py", line 1 in wait\n\n'
        'Current thread 0x02 (most recent call first):\n  File "/b.py", line 2 in inner\n'
        '  File "/c.py", line 3 in <module>\n'
    )
    stacks = parse_stacks(text)
    assert stacks["MainThread"] == (Frame("/c.py", 3, "<module>"), Frame("/b.py", 2, "inner"))
    assert stacks["Thread-1"] == (Frame("/a.py", 1, "wait"),)
