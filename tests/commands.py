"""`glm-scale` as a user starts it, in surroundings that are not always kind: streams, user, limits, locale, folders.

A command is forked from a process that has done the imports, and so costs what it does, not what it loads. What the
imports themselves depend on (an unwritable HOME, say) shows only in a process of its own: `forked=False`.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tests.forking import ForkServer, Processes

Stream = Literal["file", "closed", "full"]
"""A file that the test reads, nothing at all (`>&-`), or a device that has no space left (`> /dev/full`)."""

STRANGER = 54321
"""The id of a user whom no passwd file knows."""

_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Surroundings:
    """What a process finds.

    Attributes:
        directory: it works in; None: that of the tests. removed: it is an empty one, which is gone by then.
        umask: of what it makes; None: that of the tests.
        environment: variables that are set, or with None taken away.
        user: numeric id that it runs as; None: that of the tests. Only root can become another.
        powers: of root: "all", or "none" where the modes of files bind it as they bind everybody. Of another user:
            "reads" lets it read everything, so that it finds its interpreter wherever that lies.
        limits: of resources, such as {resource.RLIMIT_NOFILE: 128}.
        stdout, stderr: where they lead; a number is a file descriptor of this process, such as the end of a pipe.
        ignored: signals that are ignored from the start, as SIGHUP under nohup.
    """

    directory: Path | None = None
    removed: bool = False
    umask: int | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)
    user: int | None = None
    powers: Literal["all", "reads", "none"] = "all"
    limits: Mapping[int, int] = field(default_factory=dict)
    stdout: Stream | int = "file"
    stderr: Stream | int = "file"
    ignored: tuple[signal.Signals, ...] = ()


@dataclass
class Command:
    """A command that was started. `code` is None while it runs, −9 after SIGKILL."""

    arguments: tuple[str, ...]
    folder: Path
    _poll: Callable[[float], int | None]
    _send: Callable[[signal.Signals], None]
    code: int | None = None
    pid: int = 0

    @property
    def stdout(self) -> str:
        return self._read("out")

    @property
    def stderr(self) -> str:
        return self._read("err")

    @property
    def output(self) -> str:
        """Both, for an assertion's message."""
        return f"{self.arguments}: exit code {self.code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def wait(self, seconds: float = 300.0) -> int:
        """Its exit code."""
        self.code = self._poll(seconds) if self.code is None else self.code
        assert self.code is not None, f"not ended after {seconds} s: {self.output}"
        return self.code

    def wait_for(self, condition: Callable[[], Any], seconds: float = 200.0) -> None:
        """Wait until it has come so far. Fails if it ends before."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.code = self._poll(0.02) if self.code is None else self.code
            assert condition() or (self.code is None and time.monotonic() < deadline), self.output

    def send(self, number: signal.Signals) -> None:
        self._send(number)

    def _read(self, name: str) -> str:
        path = self.folder / f"rank-0.{name}"
        return path.read_text(errors="replace") if path.exists() else ""


class Commands:
    """Starts `glm-scale ARGUMENTS`. Every command it has started is killed when the test ends."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self._server, self._folder = server, folder
        self._count = 0

    def __call__(
        self, *arguments: str | Path, forked: bool = True, seconds: float = 300.0, **surroundings: Any
    ) -> Command:
        """Run it to its end; `surroundings` as of `Surroundings`."""
        with self.start(*arguments, forked=forked, **surroundings) as command:
            command.wait(seconds)
        return command

    @contextlib.contextmanager
    def start(self, *arguments: str | Path, forked: bool = True, **surroundings: Any) -> Iterator[Command]:
        """Run it while the block runs; it is killed at the block's end."""
        self._count += 1
        folder = self._folder / f"command-{self._count}"
        folder.mkdir()
        words, around = tuple(map(str, arguments)), Surroundings(**surroundings)
        starting = self._forked if forked else self._fresh
        with starting(words, around, folder) as command:
            yield command

    @contextlib.contextmanager
    def _forked(self, words: tuple[str, ...], around: Surroundings, folder: Path) -> Iterator[Command]:
        passed = replace(around, stdout=_name(around.stdout), stderr=_name(around.stderr))
        with self._server.start(run_command, (words, passed, folder), 1, folder) as processes:
            wait, send = (lambda seconds: _end(processes, seconds)), (lambda number: processes.send(number, [0]))
            yield Command(words, folder, wait, send, pid=processes.pids[0])

    @contextlib.contextmanager
    def _fresh(self, words: tuple[str, ...], around: Surroundings, folder: Path) -> Iterator[Command]:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("glm-scale"), *words],
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: _become(around, folder),
            env=_environment(around),
            close_fds=True,
            start_new_session=True,
        )

        def poll(seconds: float) -> int | None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(seconds)
            return None

        try:
            yield Command(words, folder, poll, process.send_signal)
        finally:
            process.kill()
            process.wait()


def run_command(words: tuple[str, ...], around: Surroundings, folder: Path) -> int:
    """The command itself, in a process that was forked for it. What it raises is shown as Python does it."""
    _become(around, folder)
    # What the interpreter does with signals when it starts.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if signal.SIGINT not in around.ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    environment = _environment(around)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    sys.stdout, sys.stderr = (_text_stream(descriptor) for descriptor in (1, 2))
    sys.argv = ["glm-scale", *words]
    from glm_launch.cli.app import main

    code = 0
    try:
        main()
    except SystemExit as end:
        code = _code_of(end)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    return code if _flushed() else 120


def unprivileged() -> int | None:
    """A user who may not write everywhere: None, who runs the tests, unless that is root."""
    return 65534 if os.geteuid() == 0 else None


def assert_refused(path: Path, user: int | None, write: bool = True) -> None:
    """Fails unless the user is refused a plain write (or read) there: else a test with it would show nothing."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            become_user(user)
            try:
                (path / "written").write_text("") if write else (os.listdir if path.is_dir() else Path.read_bytes)(path)
            except OSError:
                os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, f"{path} is no place where {'writing' if write else 'reading'} is refused"


def _name(stream: Stream | int) -> Any:
    """A stream that a process finds which was forked from another one: by its path among the files of this one."""
    return f"/proc/{os.getpid()}/fd/{stream}" if isinstance(stream, int) else stream


def _end(processes: Processes, seconds: float) -> int | None:
    processes.wait(seconds)
    return processes.ended.get(0)


def _environment(around: Surroundings) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in _LAUNCHER}
    for name, value in around.environment.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return environment


def _become(around: Surroundings, folder: Path) -> None:
    """Everything about a process that is not Python's. Streams are opened before the user changes."""
    for descriptor, name, stream in ((1, "out", around.stdout), (2, "err", around.stderr)):
        if stream == "closed":
            os.close(descriptor)
            continue
        paths: dict[object, str] = {"file": str(folder / f"rank-0.{name}"), "full": "/dev/full"}
        path = paths.get(stream, stream)
        opened = path if isinstance(path, int) else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(opened, descriptor)
        if not isinstance(path, int):
            os.close(opened)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN if number in around.ignored else signal.SIG_DFL)
    for kind, limit in around.limits.items():
        resource.setrlimit(kind, (limit, limit))
    if around.directory is not None:
        os.chdir(around.directory)
        if around.removed:
            around.directory.rmdir()
    if around.umask is not None:
        os.umask(around.umask)
    libc = ctypes.CDLL(None)
    if around.user is not None and around.powers == "reads":
        libc.prctl(_KEEP_CAPABILITIES, 1)
    become_user(around.user)
    if os.geteuid() == 0 and around.powers != "all":
        _hold_capabilities(libc, ~(_READ | _READ_AND_WRITE))
    elif around.powers == "reads":
        _hold_capabilities(libc, _READ)


def become_user(user: int | None) -> None:
    """Go on as another user; None: as before. For a process that was made for that."""
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        # Changing the user takes the request to die with the parent away.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


_KEEP_CAPABILITIES, _DROP_FOR_GOOD, _AMBIENT, _RAISE = 8, 24, 47, 2  # of prctl
_READ_AND_WRITE, _READ = 1 << 1, 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
_VERSION_3 = 0x20080522


def _hold_capabilities(libc: ctypes.CDLL, kept: int) -> None:
    """Give up the capabilities that are not in `kept`, also for the programs that this process starts."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; and the same of the upper 32
    libc.capget(header, held)
    for number in (1, 2):
        if not kept >> number & 1:
            libc.prctl(_DROP_FOR_GOOD, number, 0, 0, 0)
    lower = held[1] & kept & 0xFFFFFFFF
    held[0], held[1], held[2] = lower, lower, lower if kept == _READ else held[2]
    if libc.capset(header, held):
        raise OSError("the capabilities of this process could not be changed")
    if kept == _READ:
        libc.prctl(_AMBIENT, _RAISE, 2, 0, 0)


def _text_stream(descriptor: int) -> Any:
    """As the interpreter makes sys.stdout and sys.stderr when it starts."""
    try:
        raw = open(descriptor, "wb", buffering=0 if descriptor == 2 else -1, closefd=False)  # noqa: SIM115
    except OSError:
        return None
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "utf-8:strict").partition(":")
    errors = "backslashreplace" if descriptor == 2 else errors or "strict"
    return io.TextIOWrapper(raw, encoding=encoding or "utf-8", errors=errors, line_buffering=descriptor == 2)


def _code_of(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def _flushed() -> bool:
    """Whether what was written could be. If not the interpreter complains in the end, and its exit code is 120."""
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except OSError:
        if sys.stderr is not None:
            sys.stderr.write("Exception ignored in: the output could not be flushed\n")
        return False
    return True
