"""A run whose files are damaged, of another version or out of reach is named; the others are shown."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from glm_launch.records import Beginning, LaunchFolder, Submission
from glm_launch.status import states_of
from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.run_search import find_runs
from glm_scale.scaling.comparison import compare
from tests.commands import assert_refused, unprivileged
from tests.scaling.synthetic_runs import write_run


def _replaced(name: str, content: bytes) -> Callable[[RunDirectory], object]:
    return lambda run: (run.path / name).write_bytes(content)


def _a_folder(run: RunDirectory) -> None:
    run.summary.unlink()
    run.summary.mkdir()
    (run.path / "summary.json" / "x").touch()


def _submitted(**more: object) -> bytes:
    submission = Submission(kind="local", job="1", host="h", folder=Path(), working_directory=Path(), submitted=0)
    return json.dumps(submission.model_dump(mode="json") | more).encode()


UNREADABLE = {
    "empty": _replaced("summary.json", b""),
    "torn": _replaced("summary.json", b'{"name": "x", "mixer"'),
    "binary": _replaced("summary.json", b"\xff\xfe\x00"),
    "a list": _replaced("summary.json", b"[1, 2]"),
    "foreign": _replaced("summary.json", b'{"accuracy": 1}'),
    "newer": lambda run: _replaced("summary.json", run.summary.read_bytes().replace(b"{", b'{"colour": 1,'))(run),
}
BEARABLE = {
    "configuration": _replaced("config.yaml", b"{a: [\xff"),
    "configuration of a list": _replaced("config.yaml", b"- 1"),
    "metrics": _replaced("metrics.jsonl", b'\x00\x01\n{"kind": "train"}\n[]\n{"kind": "train", "step": "x"}\n'),
    "metrics without end": _replaced("metrics.jsonl", b'{"kind": "train", "step": 1, "tok'),
    "tracking": _replaced("tracking.json", b"[]"),
    "version": _replaced("version.json", b"\xff"),
}


@pytest.fixture
def good(tmp_path):
    return write_run(tmp_path / "runs", "good", "ssm", steps=20)


@pytest.mark.parametrize("damage", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_one_damaged_summary_hides_no_other_run(good, tmp_path, capsys, damage):
    bad = write_run(tmp_path / "runs", "bad", "ssm", steps=20)
    damage(bad)
    runs = find_runs([tmp_path / "runs"])
    assert [state.name for state in states_of(runs)[0]] == ["good"]
    assert f"note: left out: {bad.summary}" in capsys.readouterr().err
    assert [run.name for run in compare(runs).runs] == ["good"]
    assert f"note: left out: {bad.summary}" in capsys.readouterr().err
    for look in (states_of, compare):
        with pytest.raises(UserError, match=r"bad/summary\.json"):
            look(find_runs([bad.path]))


@pytest.mark.parametrize("damage", BEARABLE.values(), ids=BEARABLE.keys())
def test_damage_beside_the_summary_leaves_a_run_in_the_list(good, tmp_path, damage):
    damage(write_run(tmp_path / "runs", "bad", "ssm", steps=20))
    runs = find_runs([tmp_path / "runs"])
    assert [state.name for state in states_of(runs)[0]] == ["bad", "good"]
    assert {run.name for run in compare(runs).runs} == {"bad", "good"}


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", _submitted(mood="glad"), _submitted(nodes="many")])
def test_a_damaged_submission_hides_no_other_run(good, tmp_path, capsys, content):
    launch = LaunchFolder(write_run(tmp_path / "runs", "bad", "ssm", steps=20))
    launch.path.mkdir()
    launch.submission_file.write_bytes(content)
    assert [state.name for state in states_of(find_runs([tmp_path / "runs"]))[0]] == ["good"]
    said = capsys.readouterr().err
    assert f"note: left out: {launch.submission_file}" in said
    assert ("newer glm-scale" in said) == (b"mood" in content)


def test_a_damaged_run_keeps_no_other_from_mlflow(good, command, tmp_path):
    bad = write_run(tmp_path / "runs", "bad", "ssm", steps=20)
    bad.summary.write_bytes(b'{"name": "x", "mixer"')
    done = command("track", "sync", tmp_path / "runs", "--tracking-uri", f"sqlite:///{tmp_path}/m.db")
    assert done.code == 1, done.output
    assert "✗ bad: " in done.stdout
    assert "summary.json" in done.stdout
    assert "✓ good: " in done.stdout
    assert good.tracking.exists()


def test_lines_of_the_history_that_say_nothing_are_passed_over(tmp_path):
    launch = LaunchFolder(write_run(tmp_path / "runs", "bad", "ssm", steps=20))
    launch.path.mkdir()
    launch.submission_file.write_bytes(_submitted())
    launch.note(Beginning(attempt=1, time=0, job="1", nodes="n", step=0))
    with launch.history.open("ab") as file:
        file.write(
            b'[]\n7\n{}\n{"event": "end"}\n{"event": "end", "attempt": 1, "mood": 1}\n\xff\n{"event": "x"}\nnull\n'
        )
    assert [attempt.end for attempt in launch.attempts()] == [None]
    assert [state.name for state in states_of([launch.run])[0]] == ["bad"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_belongs_to_somebody_else_is_named(open_folder, command):
    runs, user = open_folder / "runs", unprivileged()
    good, secret, shut, measured = (write_run(runs, n, "ssm", steps=20) for n in ("good", "secret", "shut", "measured"))
    secret.summary.chmod(0)
    shut.path.chmod(0)
    measured.metrics.chmod(0)
    (runs / "gone").symlink_to("/nowhere/at/all")
    for path in (secret.summary, shut.path, measured.metrics):
        assert_refused(path, user, write=False)
    listing = command("status", runs, user=user)
    assert listing.code == 0, listing.output
    assert good.name in listing.stdout
    for named in (secret.summary, shut.path, measured.metrics, "a link that leads nowhere"):
        assert str(named) in listing.stderr, listing.output
    for path in (secret.path, shut.path):
        alone = command("status", path, user=user)
        assert (alone.code, "Traceback" in alone.stderr) == (2, False), alone.output
    with pytest.MonkeyPatch.context() as patch:
        told: list[str] = []
        patch.setattr("glm_scale.run_search.print", lambda text, **_: told.append(text), raising=False)
        assert user is not None
        os.seteuid(user)
        try:
            compared = compare(find_runs([runs]))
        finally:
            os.seteuid(0)
    assert [run.name for run in compared.runs] == ["good"]
    for named in (secret.summary, shut.path, measured.metrics):
        assert str(named) in "".join(told)


def test_a_folder_in_which_there_is_no_run_says_what_was_passed_over(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "old").symlink_to(tmp_path / "scratch")
    with pytest.raises(UserError, match=r"(?s)no run in .*old is a link that leads nowhere"):
        find_runs([tmp_path / "runs"])


def test_links_that_go_round_in_circles_are_left(good, tmp_path):
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "itself").symlink_to(tmp_path / "runs" / "itself")
    told: list[str] = []
    assert [run.name for run in find_runs([tmp_path / "runs"], told.append)] == ["good"]
    assert "itself is a link that leads nowhere" in "".join(told)


def test_a_run_whose_summary_is_a_folder_is_no_run(good, tmp_path):
    _a_folder(write_run(tmp_path / "runs", "bad", "ssm", steps=20))
    assert [run.name for run in find_runs([tmp_path / "runs"])] == ["good"]
    shutil.rmtree(tmp_path / "runs" / "good")
    with pytest.raises(UserError, match="no run in"):
        find_runs([tmp_path / "runs"])
