"""docker/install.sh: what it refuses, what it shows, and what it leaves behind; with a pip that only pretends."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WARNINGS = [
    f"WARNING: Location 'file:///mirror/{n}/' is ignored: it is neither a file nor a directory." for n in range(75)
]
LOOKED_UP = [
    line for n in range(120) for line in (f"Collecting package-{n}==1.0", f"  Downloading package_{n}.whl (2.1 MB)")
]
LARGE = "  Downloading https://files.example/torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (812.4 MB)"
UNPACKING = "Installing collected packages: " + ", ".join(f"package-{n}" for n in range(120))
BUILD_ERROR = """\
  error: subprocess-exited-with-error
  × Preparing metadata (pyproject.toml) did not run successfully.
  │ exit code: 1
  ╰─> [2 lines of output]
      ModuleNotFoundError: No module named 'torch'
      [end of output]
ERROR: Failed to build 'deepspeed' when getting requirements to build wheel""".splitlines()


class Machine:
    """A virtual environment whose Python only notes what it is asked, and programs that say what they are told."""

    def __init__(self, folder: Path) -> None:
        self.venv, self.programs, self.asked = folder / "venv", folder / "programs", folder / "asked"
        self.programs.mkdir()
        self.program("python3", "exit 0")
        self.program("g++", "exit 0")
        self.is_a("Linux", "x86_64")

    def program(self, name: str, body: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def is_a(self, system: str, machine: str) -> None:
        self.program("uname", f'[ "$1" = -s ] && echo {shlex.quote(system)} || echo {shlex.quote(machine)}')

    def pip(self, says: list[str], code: int = 0, then: str = "") -> None:
        """What pip says in the virtual environment, and how it ends."""
        self.venv.joinpath("bin").mkdir(parents=True, exist_ok=True)
        said = self.programs / "said"
        said.write_text("".join(line + "\n" for line in says))
        python = self.venv / "bin/python"
        python.write_text(
            f'#!/bin/sh\n[ "$3" = install ] || exit 0\necho "$@" >>{self.asked}\ncat {said}\n{then}\nexit {code}\n'
        )
        python.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("EXTRAS", "PYTHON", "MAKEFLAGS")}
        return kept | {"PATH": f"{self.programs}:{os.environ['PATH']}"}

    def install(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(ROOT / "docker/install.sh"), str(self.venv), **environment)

    def make(self) -> subprocess.CompletedProcess[str]:
        return self.run("make", "-C", str(ROOT), "setup", f"VENV={self.venv}")

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment | environment, capture_output=True, text=True, timeout=60, check=False
        )

    @property
    def requests(self) -> list[str]:
        return self.asked.read_text().splitlines() if self.asked.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(("extras", "expected"), [(None, ".[dev]"), ("", "."), ("dev,fla", ".[dev,fla]")])
def test_extras_come_along(machine: Machine, extras: str | None, expected: str) -> None:
    machine.pip([])
    done = machine.install(**({} if extras is None else {"EXTRAS": extras}))
    assert done.returncode == 0, done.stderr
    (asked,) = machine.requests
    assert asked.endswith(f" -c constraints.txt -e {expected}")


@pytest.mark.parametrize("processor", ["x86_64", "aarch64"])
def test_machines_that_there_are_binaries_for_are_served(machine: Machine, processor: str) -> None:
    machine.is_a("Linux", processor)
    machine.pip([])
    assert machine.install().returncode == 0


@pytest.mark.parametrize(
    ("system", "processor"),
    [("Darwin", "arm64"), ("Darwin", "x86_64"), ("Linux", "armv7l"), ("Linux", "ppc64le"), ("FreeBSD", "amd64")],
)
def test_other_machines_are_refused_in_a_sentence_before_anything_is_made(
    machine: Machine, system: str, processor: str
) -> None:
    machine.is_a(system, processor)
    refused = machine.install()
    told = f"glm-scale runs on Linux on x86_64 and aarch64, not on {system} on {processor}.\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", told)
    assert not machine.venv.exists()


def test_a_linux_without_glibc_is_refused(machine: Machine) -> None:
    machine.program("python3", 'case "$2" in *libc_ver*) exit 1 ;; esac')
    refused = machine.install()
    assert refused.returncode == 1
    assert refused.stderr.startswith("glm-scale needs a Linux with glibc")
    assert not machine.venv.exists()


def test_progress_is_a_line_now_and_then_and_the_log_has_everything(machine: Machine) -> None:
    says = [*WARNINGS, *LOOKED_UP, *WARNINGS, LARGE, UNPACKING, "Successfully installed"]
    machine.pip(says)
    done = machine.install()
    assert (done.returncode, done.stderr) == (0, "")
    first, *shown, last = done.stdout.splitlines()
    assert f"{machine.venv}/install.log" in first
    assert [line.split(",")[0] for line in shown] == [
        "  looked up 50 packages",
        "  looked up 100 packages",
        "  downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (812.4 MB)",
        "  unpacking 120 packages",
    ]
    assert last == f"Installed into {machine.venv}"
    assert (machine.venv / "install.log").read_text().splitlines() == says


def test_on_a_terminal_it_is_one_line_that_is_redrawn(machine: Machine) -> None:
    machine.pip([*WARNINGS, *LOOKED_UP, LARGE, UNPACKING])
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [ROOT / "docker/install.sh", machine.venv], env=machine.environment, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = _everything(lambda: os.read(ours, 4096))
    os.close(ours)
    assert process.returncode == 0
    first, redrawn, last = shown.split("\r\n")[:3]
    assert first.startswith("Installing glm-scale")
    assert redrawn.count("\r\033[K") > 200
    assert "WARNING" not in redrawn
    assert (redrawn + last).endswith(f"Installed into {machine.venv}")


def _everything(read: Callable[[], bytes]) -> str:
    parts = []
    try:
        while part := read():
            parts.append(part)
    except OSError:
        pass  # the other end of a terminal was closed
    return b"".join(parts).decode()


@pytest.mark.parametrize(
    ("says", "shown"),
    [
        ([*LOOKED_UP, *BUILD_ERROR[:3], WARNINGS[0], *BUILD_ERROR[3:], WARNINGS[1]], BUILD_ERROR),
        (["Collecting torch", "no words for it"], ["Collecting torch", "no words for it"]),
    ],
    ids=["what pip calls an error", "what it does not"],
)
def test_errors_are_shown_whole_with_the_exit_code_of_pip(machine: Machine, says: list[str], shown: list[str]) -> None:
    machine.pip(says, code=3)
    failed = machine.install()
    assert failed.returncode == 3
    *errors, last = failed.stderr.splitlines()
    assert errors == shown
    assert last.startswith(f"The installation into {machine.venv} failed")
    assert "Installed" not in failed.stdout


def test_an_installation_that_failed_never_passes_for_a_whole_one(machine: Machine) -> None:
    machine.pip([])
    assert machine.make().returncode == 0
    assert machine.make().returncode == 0
    assert len(machine.requests) == 1
    os.utime(machine.venv / ".installed", (0, 0))  # constraints.txt is newer
    machine.pip(BUILD_ERROR, code=1)
    for _ in range(2):
        assert machine.make().returncode != 0
        assert not (machine.venv / ".installed").exists()
    assert len(machine.requests) == 3
    machine.pip([])
    assert machine.make().returncode == 0
    # What may be half unpacked is not believed to be whole.
    assert ["--force-reinstall" in asked for asked in machine.requests] == [False, False, True, True]
    assert sorted(path.name for path in machine.venv.iterdir()) == [".installed", "bin", "install.log"]


def test_neither_does_one_that_was_killed(machine: Machine) -> None:
    machine.pip(LOOKED_UP, then="kill -KILL 0")  # the script, and all it started
    killed = subprocess.run(
        [ROOT / "docker/install.sh", machine.venv],
        env=machine.environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (machine.venv / ".installed").exists()
    machine.pip([])
    assert machine.install().returncode == 0
    assert "--force-reinstall" in machine.requests[-1]


def test_a_virtual_environment_without_pip_is_completed(machine: Machine) -> None:
    """A start that was killed while it made one."""
    machine.pip([])
    python = machine.venv / "bin/python"
    whole = python.read_text()
    python.write_text("#!/bin/sh\nexit 1\n")
    machine.program("python3", f'[ "$1 $2" != "-m venv" ] || printf %s {shlex.quote(whole)} >"$3/bin/python"')
    assert machine.install().returncode == 0
    assert len(machine.requests) == 1
