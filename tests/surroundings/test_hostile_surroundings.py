"""Every command that people leave alone, in all surroundings: no traceback, no wrong exit code, no run that is lost.

After each, when the surroundings are well again, the same command has to come to its end, with the losses of a run that
nothing disturbed. A sample is part of every test run; all pairs are soak.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from glm_scale.training.signals import REQUEUE_EXIT_CODE
from tests.commands import STRANGER, Command, Commands
from tests.earlier.curves import losses_of
from tests.forking import ForkServer
from tests.tiny_run import LENGTH, tiny_config, tiny_data, write_config

AS_ROOT = os.geteuid() == 0
STEPS = 4
AS_TINY_DATA = ("--vocab-size", "300", "--validation-fraction", "0.1")


@dataclass(frozen=True)
class World:
    """A folder that everybody may enter and read, with text, a data set, a run that has finished and one that has not.

    `losses` are those of a run that nothing disturbed.
    """

    folder: Path
    losses: list[float]

    def words(self, name: str) -> list[str]:
        """The command line of a command."""
        place = str(self.folder)
        return {
            "train": ["train", f"{place}/new.yaml"],
            "resume": ["train", f"{place}/half.yaml"],
            "evaluate": ["evaluate", f"{place}/runs/whole", "--data", f"{place}/data"],
            "generate": ["generate", f"{place}/runs/whole", "--prompt", "a b", "--tokens", "8"],
            "compare": ["compare", f"{place}/runs", "--no-tracking"],
            "status": ["status", f"{place}/runs"],
            "data build": ["data", "build", "-i", f"{place}/text.jsonl", "-o", f"{place}/built", *AS_TINY_DATA],
        }[name]

    def assert_done(self, name: str) -> None:
        """Fails unless the work of a command is there."""
        if name in ("train", "resume"):
            run = self.folder / "runs" / ("new" if name == "train" else "half")
            assert losses_of(run) == self.losses
            assert json.loads((run / "summary.json").read_text())["status"] == "finished"
        if name == "compare":
            assert (self.folder / "runs/comparison/comparison.png").exists()
        if name == "data build":
            built, whole = (self.folder / name / "train.documents.npy" for name in ("built", "data"))
            assert built.read_bytes() == whole.read_bytes()


@pytest.fixture(scope="module")
def first_world(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Made once. Not in pytest's own folder, which nobody else may enter."""
    folder = Path(tempfile.mkdtemp(prefix="glm-scale-tests-"))
    folder.chmod(0o755)
    try:
        data = tiny_data(tmp_path_factory)
        shutil.copytree(data, folder / "data")
        shutil.copy(next(data.parent.glob("text*/documents.jsonl")), folder / "text.jsonl")
        command = Commands(fork_server, tmp_path_factory.mktemp("commands"))
        for name in ("whole", "half", "new"):
            tree = tiny_config(folder / "data", folder, tokens=STEPS * 4 * LENGTH) | {"name": name}
            write_config(folder / f"{name}.yaml", tree)
        assert command("train", folder / "whole.yaml").code == 0
        # At least one step is made.
        assert command("train", folder / "half.yaml", "training.time_limit_minutes=0.0001").code == REQUEUE_EXIT_CODE
        assert 0 < len(losses_of(folder / "runs/half")) < STEPS
        yield World(folder, losses_of(folder / "runs/whole"))
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def world(first_world: World) -> Iterator[World]:
    """As if made anew, at the same place: runs know where their data lie."""
    kept = first_world.folder.with_name(first_world.folder.name + "-kept")
    shutil.copytree(first_world.folder, kept)
    try:
        yield first_world
    finally:
        for path in [first_world.folder, *first_world.folder.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(first_world.folder)
        kept.rename(first_world.folder)


Preparation = Callable[[World], dict[str, Any]]
"""Makes the surroundings, and returns them as `Surroundings` takes them."""

READERS = ("evaluate", "generate", "compare", "status")
"""Commands that are run for what they print."""


@dataclass(frozen=True)
class Hardship:
    """Surroundings, and the exit codes that commands may end with there: with 0 the work is done.

    `reading` and `training`: those of commands that are run for what they print, and of training, if they differ.
    """

    prepare: Preparation
    codes: frozenset[int] = frozenset({0})
    reading: frozenset[int] | None = None
    training: frozenset[int] | None = None
    needs_root: bool = False

    def allowed(self, name: str) -> frozenset[int]:
        own = self.training if name in ("train", "resume") else self.reading if name in READERS else None
        return own or self.codes


def folder_of(world: World, name: str, mode: int = 0o755) -> Path:
    folder = world.folder / name
    folder.mkdir()
    folder.chmod(mode)
    return folder


def open_to_all(world: World) -> None:
    for path in [world.folder, *world.folder.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)


def as_a_stranger(world: World) -> dict[str, Any]:
    open_to_all(world)
    return {"user": STRANGER, "powers": "reads", "environment": {"HOME": None, "USER": None, "LOGNAME": None}}


def closed_runs(world: World) -> dict[str, Any]:
    for path in [*(world.folder / "runs").rglob("*"), world.folder / "runs", world.folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return {"powers": "none"}


def gone_reader(_world: World) -> dict[str, Any]:
    reader, writer = os.pipe()
    os.close(reader)
    return {"stdout": writer, "stderr": writer}


def deleted_directory(world: World) -> dict[str, Any]:
    return {"directory": folder_of(world, "deleted"), "removed": True}


def environment(**values: str | None) -> Preparation:
    return lambda _world: {"environment": values}


def long_path(world: World) -> str:
    folder = world.folder / ("long" * 30)
    folder.mkdir()
    return str(folder)


OK, REFUSED, FAILED = 0, 2, 1
HARDSHIPS = {
    "stdout and stderr full": Hardship(lambda w: {"stdout": "full", "stderr": "full"}, reading=frozenset({1})),
    "stdout full": Hardship(lambda w: {"stdout": "full"}, reading=frozenset({1})),
    "stderr full": Hardship(lambda w: {"stderr": "full"}),
    "closed": Hardship(lambda w: {"stdout": "closed", "stderr": "closed"}),
    "reader gone": Hardship(gone_reader, reading=frozenset({141})),
    "ascii": Hardship(environment(PYTHONIOENCODING="ascii")),
    "utf-16": Hardship(environment(PYTHONIOENCODING="utf-16")),
    "C locale": Hardship(environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii")),
    "no HOME": Hardship(environment(HOME=None)),
    "HOME is nowhere": Hardship(environment(HOME="/nowhere/at/all")),
    "HOME may not be written": Hardship(
        lambda w: {"environment": {"HOME": str(folder_of(w, "home", 0o555))}, "powers": "none"}
    ),
    "TMPDIR is nowhere": Hardship(environment(TMPDIR="/nowhere/at/all")),
    "TMPDIR may not be written": Hardship(
        lambda w: {"environment": {"TMPDIR": str(folder_of(w, "tmp", 0o555))}, "powers": "none"}
    ),
    "TMPDIR is long": Hardship(lambda w: {"environment": {"TMPDIR": long_path(w)}}),
    "directory may not be written": Hardship(
        lambda w: {"directory": folder_of(w, "here", 0o555), "powers": "none"}
    ),
    "directory was removed": Hardship(deleted_directory, frozenset({REFUSED})),
    "no passwd entry": Hardship(as_a_stranger, needs_root=True),
    "everything may only be read": Hardship(
        closed_runs, frozenset({REFUSED}), reading=frozenset({OK, REFUSED}), needs_root=True
    ),
    "60 open files": Hardship(lambda w: {"limits": {resource.RLIMIT_NOFILE: 60}}, frozenset({OK, FAILED, REFUSED})),
    "files of 10 kB": Hardship(lambda w: {"limits": {resource.RLIMIT_FSIZE: 10_000}}, frozenset({OK, FAILED, REFUSED})),
    "no PATH": Hardship(environment(PATH=None)),
    "umask 077": Hardship(lambda w: {"umask": 0o077}),
    "ignored signals": Hardship(lambda w: {"ignored": (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}),
    "half a launcher": Hardship(environment(LOCAL_RANK="0", WORLD_SIZE="1"), training=frozenset({REFUSED})),
}  # fmt: skip
IMPORTS_DEPEND_ON = ("HOME", "TMPDIR", "PATH", "passwd", "locale", "closed")
COMMANDS = ("train", "resume", "evaluate", "generate", "compare", "status", "data build")

SAMPLE = [(name, COMMANDS[number % len(COMMANDS)]) for number, name in enumerate(HARDSHIPS)]
ALL = [
    pytest.param(*pair, marks=[] if pair in SAMPLE else pytest.mark.soak, id=" – ".join(pair))
    for pair in product(HARDSHIPS, COMMANDS)
]


@pytest.mark.parametrize(("hardship", "name"), ALL)
def test_a_command_bears_its_surroundings(command: Commands, world: World, hardship: str, name: str) -> None:
    bears(command, world, HARDSHIPS[hardship], name)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["train", "compare", "data build"])
@pytest.mark.parametrize(
    "hardship",
    [
        name
        for name in HARDSHIPS
        if any(word in name for word in ("HOME", "TMPDIR", "PATH", "passwd", "locale", "closed"))
    ],
)
def test_libraries_bear_them_while_they_are_imported(command: Commands, world: World, hardship: str, name: str) -> None:
    bears(command, world, HARDSHIPS[hardship], name, forked=False)


def bears(command: Commands, world: World, given: Hardship, name: str, forked: bool = True) -> None:
    """Fails unless a command ends as it may, and afterwards, in peace, comes to its end."""
    if given.needs_root and not AS_ROOT:
        pytest.skip("only root can become another user")
    ended = run(command, world, name, given, forked)
    assert "Traceback" not in ended.stdout + ended.stderr, ended.output
    assert ended.code in given.allowed(name), ended.output
    if ended.code in (REFUSED, FAILED) and given.allowed(name) != {FAILED}:
        assert ended.stderr.count("error: ") == 1, ended.output
    if ended.code == OK:
        world.assert_done(name)
    make_well(world)
    again = command(*world.words(name))
    assert again.code == OK, f"after {ended.output}\n{again.output}"
    world.assert_done(name)


def run(command: Commands, world: World, name: str, given: Hardship, forked: bool) -> Command:
    around = given.prepare(world)
    try:
        return command(*world.words(name), forked=forked, **around)
    finally:
        if isinstance(around.get("stdout"), int):
            os.close(around["stdout"])


def make_well(world: World) -> None:
    for path in [world.folder, *world.folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
