"""Examples are what they are said to be: solvable from their tokens, and new every time."""

from __future__ import annotations

import pytest
import torch

from glm_scale.model.head import IGNORED
from glm_scale.tasks.registry import TASKS, USUAL_TASKS, parse_task
from glm_scale.tasks.setting import TIMES, Setting
from glm_scale.tasks.task import SEPARATOR, TaskError
from glm_scale.tasks.training import batch_of, seed_of
from tests.tasks.solvers import SOLVERS

CPU = torch.device("cpu")
SIZE = 12
EVERYTHING = [(name, times) for name in SOLVERS for times in TIMES]
ASKED = {"copy": 48, "selective_copy": 16, "recall": 16, "recall_gaps": 16, "multihop:2": 4}
LENGTHS = {"copy": 97, "selective_copy": 81, "recall": 64, "recall_gaps": 256, "multihop:2": 39}


def rows_of(name: str, times: int = 1, seed: int = 3) -> list[tuple[list[int], list[int]]]:
    tokens, labels = parse_task(name).draw(seed, SIZE, times)
    return list(zip(tokens.tolist(), labels.tolist(), strict=True))


def whole(tokens: list[int], labels: list[int]) -> list[int]:
    """The sequence with its last token, which is an answer or filling."""
    return [*tokens, labels[-1] if labels[-1] != IGNORED else SEPARATOR]


@pytest.mark.parametrize(("name", "times"), EVERYTHING)
def test_every_answer_follows_from_the_tokens_before_it(name: str, times: int) -> None:
    solve = SOLVERS[name]
    for tokens, labels in rows_of(name, times):
        asked = [place for place, label in enumerate(labels) if label != IGNORED]
        assert asked
        for place in asked:
            assert solve(tokens[: place + 1], place) == labels[place]
            assert labels[place] != SEPARATOR


@pytest.mark.parametrize(("name", "times"), EVERYTHING)
def test_labels_are_the_tokens_that_follow(name: str, times: int) -> None:
    task = parse_task(name)
    for tokens, labels in rows_of(name, times):
        assert all(0 <= token < task.vocabulary for token in tokens)
        for label, following in zip(labels, tokens[1:], strict=False):
            assert label in (IGNORED, following)


@pytest.mark.parametrize("name", ASKED)
def test_a_sequence_has_its_length_and_its_questions(name: str) -> None:
    for times in TIMES:
        for tokens, labels in rows_of(name, times):
            length, asked = len(tokens) + 1, sum(label != IGNORED for label in labels)
            if name.startswith("multihop") and times == TIMES[-1]:
                # No more nodes than there are in the alphabet: questions in their place.
                assert (length, asked) == (159, 32)
                continue
            assert asked == times * ASKED[name]
            assert abs(length - times * LENGTHS[name]) <= times


@pytest.mark.parametrize("name", ["recall", "recall_gaps"])
@pytest.mark.parametrize("times", TIMES)
def test_keys_are_distinct_and_no_value_is_a_key(name: str, times: int) -> None:
    pairs = 16 * times
    for tokens, labels in rows_of(name, times):
        keys, values = tokens[: 2 * pairs : 2], tokens[1 : 2 * pairs : 2]
        assert len(set(keys)) == pairs
        assert all(1 <= key <= 64 for key in keys)
        assert all(65 <= value <= 128 for value in values)
        asked = [token for token, label in zip(tokens, labels, strict=True) if label != IGNORED]
        assert sorted(asked) == sorted(keys)
        assert asked != keys


def test_gaps_are_short_more_often_than_long() -> None:
    tokens, labels = parse_task("recall_gaps").draw(0, 400)
    asked = (labels != IGNORED).sum(0)
    assert not asked[:32].any()
    first, last = asked[32:80].sum(), asked[-48:].sum()
    assert first > 3 * last > 0
    # Which key is asked for first says nothing about where it was shown.
    first_key = tokens.gather(1, (labels != IGNORED).int().argmax(1, keepdim=True))
    shown = (tokens[:, :32:2] == first_key).int().argmax(1)
    assert set(shown.tolist()) == set(range(16))


@pytest.mark.parametrize("hops", [1, 4])
def test_links_form_one_chain_in_no_order_and_questions_differ(hops: int) -> None:
    orders = set()
    for tokens, labels in rows_of(f"multihop:{hops}"):
        links = list(zip(tokens[:30:2], tokens[1:30:2], strict=True))
        begins, ends = {a for a, _ in links}, {b for _, b in links}
        assert len(begins) == len(ends) == 15
        assert len(begins | ends) == 16
        assert tokens[30] == SEPARATOR
        orders.add(tuple(links))
        asked = [token for token, label in zip(tokens, labels, strict=True) if label != IGNORED]
        assert len(set(asked)) == 4
    assert len(orders) == SIZE


def test_noise_is_no_symbol_and_symbols_are_spread() -> None:
    places = set()
    for tokens, labels in rows_of("selective_copy"):
        held = [place for place, token in enumerate(tokens[:64]) if token != 32]
        assert len(held) == 16
        assert tokens[64] == SEPARATOR
        assert all(1 <= label <= 31 for label in labels if label != IGNORED)
        places |= set(held)
    assert len(places) > 55


@pytest.mark.parametrize("name", USUAL_TASKS)
def test_the_same_seed_gives_the_same_and_another_seed_others(name: str) -> None:
    assert rows_of(name, seed=5) == rows_of(name, seed=5)
    assert rows_of(name, seed=5) != rows_of(name, seed=6)
    rows = [tuple(tokens) for tokens, _ in rows_of(name)]
    assert len(set(rows)) == SIZE


def test_no_step_seed_or_evaluation_sees_what_another_has_seen() -> None:
    task, setting = parse_task("copy"), Setting(seeds=2, rates=(1e-3, 3e-3), batch=3)
    seen: list[tuple[int, ...]] = []
    for step in range(3):
        tokens, labels = batch_of(task, setting, step, CPU)
        assert tokens.shape == labels.shape == (3, 96, 4)
        # Of one seed all rates see the same.
        assert torch.equal(tokens[:, :, 0], tokens[:, :, 1])
        assert torch.equal(labels[:, :, 2], labels[:, :, 3])
        seen += [tuple(row) for member in (0, 2) for row in tokens[:, :, member].tolist()]
    seen += [tuple(row) for row in task.draw(seed_of(task, "evaluation", 1, 0), 3).tokens.tolist()]
    assert len(set(seen)) == len(seen) == 21


@pytest.mark.parametrize("name", [*SOLVERS, *USUAL_TASKS])
def test_a_name_is_read_as_the_task_that_has_it(name: str) -> None:
    assert parse_task(name).name == name
    assert parse_task(f" {name} ") == parse_task(name)


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("cpy", "unknown task 'cpy' in 'cpy' (did you mean 'copy:n'?); known are copy:n, recall:p"),
        ("", "unknown task ''"),
        ("copy:0", "task 'copy:0': copy takes how many symbols are copied, a whole number from 1 to 4096"),
        ("copy:x", "as in copy:12; without one it is 48"),
        (f"copy:{'9' * 5000}", "a whole number from 1 to 4096"),
        ("recall:17", "a whole number from 1 to 16 (at four times the length there are no more than 64 keys)"),
        ("recall_gaps:", "recall_gaps takes its pairs"),
        ("multihop", "multihop needs its hops, a whole number from 1 to 12, as in multihop:2"),
        ("multihop:13", "multihop needs its hops"),
        ("selective_copy:4", "selective_copy takes no argument; leave out ':4'"),
    ],
)
def test_a_misspelled_task_is_told_what_there_is(spelling: str, message: str) -> None:
    with pytest.raises(TaskError) as caught:
        parse_task(spelling)
    assert message in str(caught.value)


def test_every_task_of_the_registry_is_tried_here() -> None:
    assert {name.partition(":")[0] for name in SOLVERS} == set(TASKS)
