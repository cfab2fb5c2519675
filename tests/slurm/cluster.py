"""A private SLURM on this machine: controller, several nodes and munge, which touch nothing outside one folder.

Nodes are named 127.0.0.1, 127.0.0.2 …, so that a node's name is also an address at which its tasks are found.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import Pipe
from pathlib import Path

from glm_scale.processes.ports import reserved_port
from tests.slurm.configuration import write_configuration
from tests.slurm.processes import Process, topmost, with_descendants, with_environment

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
# Names a daemon in its environment, which what it starts inherits.
_MARK = "PRIVATE_SLURM_DAEMON"
# Said in good health: SLURM has plugins for libraries that are not there, and tries munge with what it must refuse.
_NOISE = re.compile("pmix|Unauthorized credential|Replayed credential")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def available() -> str | None:
    """Why no cluster can be started here, or None."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        packages = " ".join(PACKAGES)
        return f"{missing[0]} is not installed; apt-get install --no-install-recommends {packages}"
    return None


@contextlib.contextmanager
def cluster(nodes: int = 4) -> Iterator[Cluster]:
    """A cluster in a folder of its own, which goes with it."""
    # The daemons' sockets lie in it, and their paths may have 107 characters.
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < 40 else "/tmp"
    started = Cluster(Path(tempfile.mkdtemp(prefix="glm-slurm-", dir=parent)), nodes)
    try:
        yield started
    finally:
        started.close()


class Cluster:
    """`nodes` nodes of 16 processors and 8 GPUs that are not there; partition `high` preempts `low`, the default.

    Whatever fails or takes too long raises RuntimeError with the end of the daemons' logs. `folder` is removed with the
    cluster, also when the process that made it is killed.
    """

    def __init__(self, folder: Path, nodes: int = 4) -> None:
        if reason := available():
            raise RuntimeError(reason)
        self.folder = folder
        self.nodes = [f"127.0.0.{number + 1}" for number in range(nodes)]
        # Bound but not listened to: no one else is given these ports, and the daemons can bind them too.
        self._ports = [reserved_port() for _ in range(nodes + 1)]
        controller, *rest = (port.getsockname()[1] for port in self._ports)
        path = write_configuration(folder, _version(), controller, dict(zip(self.nodes, rest, strict=True)))
        self.environment: Mapping[str, str] = {"SLURM_CONF": str(path)}
        self._supervise()
        try:
            self._start_munge()
            self.start_controller()
            for name in self.nodes:
                self._start_node_daemon(name)
            self.wait_until_idle()
        except BaseException:
            self.close()
            raise

    # Commands

    def run(
        self, *command: str | os.PathLike[str], check: bool = True, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """The command's result, its output as text; unless `check` is false, failure is an error."""
        # The tests may themselves run in a job of another SLURM.
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        words = " ".join(map(str, command))
        try:
            done = subprocess.run(
                # A command that waits must not outlive the tests either.
                ["setpriv", "--pdeathsig", "KILL", *command],
                env={**outside, **self.environment},
                text=True,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{words}: not within {seconds:g} s\n{self.errors()}") from None
        if check and done.returncode:
            raise RuntimeError(f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}\n{self.errors()}")
        return done

    def state(self, job: int | str) -> str:
        """Of one job, as PENDING, RUNNING, COMPLETED, …; also of one that has ended."""
        return self.run("squeue", "-h", "-t", "all", "-j", str(job), "-o", "%T").stdout.strip()

    def wait_until(self, what: str, true: Callable[[], object], seconds: float = 60) -> None:
        """Until `true()` is; `what` is awaited names it in the error."""
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: not within {seconds:g} s\n{self.overview()}\n{self.errors()}")
            time.sleep(0.1)

    def wait_for_state(self, job: int | str, *states: str, seconds: float = 60) -> None:
        self.wait_until(f"job {job} {' or '.join(states)}", lambda: self.state(job) in states, seconds)

    def wait_until_idle(self, seconds: float = 60) -> None:
        """Until every node is up, takes jobs and has none."""
        self.wait_until("all nodes idle", lambda: set(self.node_states().values()) == {"idle"}, seconds)

    def node_states(self) -> dict[str, str]:
        """As idle, mixed, allocated, down, drained, …, by name; a `*` after it says that the node does not answer."""
        lines = self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%N %T", check=False).stdout.splitlines()
        return dict(line.split() for line in lines)

    def overview(self) -> str:
        """Nodes and jobs, to read."""
        nodes = self.run("sinfo", "-N", "-p", "low", "-o", "%N %T %E", check=False).stdout
        return nodes + self.run("squeue", "-t", "all", "-o", "%i %P %j %T %r %N", check=False).stdout

    def errors(self, lines: int = 15) -> str:
        """The end of every daemon's log, to read."""
        # What a daemon prints counts only where it has not come to write its log.
        logs = {log.stem: log for log in sorted((self.folder / "log").iterdir(), reverse=True)}
        report = []
        for name, log in sorted(logs.items()):
            text = [line for line in log.read_text(errors="replace").splitlines() if not _NOISE.search(line)]
            report += [f"--- {name}", *text[-lines:]]
        return "\n".join(report)

    # Nodes

    def stop_node(self, name: str) -> None:
        """Kill its daemon, its steps and their tasks at once, as a power failure would. Their connections close."""
        while living := self._processes_of_node(name):
            # Stopped first: none may see another die and report it.
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for process in living:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, number)
            time.sleep(0.02)

    def mark_down(self, name: str) -> None:
        """Tell the controller, which else takes half a minute to find out that a node does not answer."""
        self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def start_node(self, name: str) -> None:
        """One that was stopped; it is back when this returns."""
        self._start_node_daemon(name)
        self.wait_until(f"node {name} up", lambda: self.node_states().get(name) in ("idle", "mixed", "allocated"))

    def drain(self, name: str) -> None:
        """No new job comes to it; those that it has go on."""
        self.run("scontrol", "update", f"nodename={name}", "state=drain", "reason=test")

    def resume(self, name: str) -> None:
        """One that is drained or down takes jobs again."""
        self.run("scontrol", "update", f"nodename={name}", "state=resume")

    # The controller

    def stop_controller(self, number: signal.Signals = signal.SIGTERM) -> None:
        """By SIGTERM it saves its state; by SIGKILL it does not."""
        for process in topmost(self._daemons("slurmctld")):
            os.kill(process.pid, number)
        self.wait_until("end of the controller", lambda: not self._daemons("slurmctld"))

    def start_controller(self) -> None:
        self._start_daemon("slurmctld", "slurmctld", "-D")
        self.wait_until("controller", lambda: "is UP" in self.run("scontrol", "ping", check=False).stdout)

    def restart_controller(self) -> None:
        self.stop_controller()
        self.start_controller()

    # Tasks

    def task(self, job: int | str, rank: int, step: int = 0) -> int | None:
        """PID of the process that srun started as this rank of the job, None where it does not run (yet)."""
        wanted = {
            **self.environment,
            "SLURM_JOB_ID": str(job),
            "SLURM_STEP_ID": str(step),
            "SLURM_PROCID": str(rank),
        }
        return next((process.pid for process in topmost(with_environment(wanted))), None)

    def signal_task(self, job: int | str, rank: int, number: signal.Signals, seconds: float = 60) -> None:
        """To that process alone, as soon as it runs; it may not have set its handlers yet."""
        found: list[int] = []

        def runs() -> bool:
            if (pid := self.task(job, rank)) is not None:
                found.append(pid)
            return bool(found)

        self.wait_until(f"rank {rank} of job {job}", runs, seconds)
        os.kill(found[0], number)

    # Beginning and end

    def restore(self) -> None:
        """No jobs, and every node idle, whatever was done before."""
        if not self._daemons("slurmctld"):
            self.start_controller()
        for name in self.nodes:
            if not self._daemons(f"slurmd-{name}"):
                self._start_node_daemon(name)

        def at_rest() -> bool:
            self.run("scancel", "--user", getpass.getuser(), check=False)
            states = self.node_states()
            for name, state in states.items():
                if state.startswith(("down", "drain")):
                    # Refused as long as a controller that has just started has not heard from the node.
                    self.run("scontrol", "update", f"nodename={name}", "state=resume", check=False)
            return set(states.values()) == {"idle"} and not self.run("squeue", "-h").stdout

        self.wait_until("no jobs and all nodes idle", at_rest)

    def close(self) -> None:
        """Kill everything and remove the folder."""
        # Forked processes may hold copies of the connection, so that closing it says nothing.
        with contextlib.suppress(OSError):
            self._commands.send(None)
        self._supervisor.wait()
        self._commands.close()
        for port in self._ports:
            port.close()

    def _supervise(self) -> None:
        program = [sys.executable, "-I", str(Path(__file__).with_name("supervisor.py"))]
        namespace = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
        own = [*namespace, "--user", "--map-current-user"]
        owner = os.pidfd_open(os.getpid())
        try:
            for prefix in ([namespace] if os.geteuid() == 0 else [own]) + [[]]:
                self._commands, theirs = Pipe()
                descriptors = [theirs.fileno(), owner]
                self._supervisor = subprocess.Popen(
                    [*prefix, *program, *map(str, descriptors), str(self.folder)],
                    pass_fds=descriptors,
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stderr=None if not prefix else subprocess.DEVNULL,
                )
                theirs.close()
                with contextlib.suppress(EOFError):
                    self._commands.recv()
                    return
                self._supervisor.wait()
            raise RuntimeError("the supervisor of the daemons did not start")
        finally:
            os.close(owner)

    def _start_munge(self) -> None:
        socket_path = self.folder / "run/munge.socket"
        self._start_daemon(
            "munged",
            "munged",
            "-F",
            "--force",  # seen from a namespace, folders above ours belong to no one
            f"--key-file={self.folder}/etc/munge.key",
            f"--socket={socket_path}",
            f"--pid-file={self.folder}/run/munged.pid",
            f"--log-file={self.folder}/log/munged.log",
            f"--seed-file={self.folder}/run/munged.seed",
        )
        self.wait_until("munge", socket_path.exists, 20)

    def _start_node_daemon(self, name: str) -> None:
        self._start_daemon(f"slurmd-{name}", "slurmd", "-D", "-N", name)

    def _start_daemon(self, mark: str, program: str, *arguments: str) -> None:
        environment = {**self.environment, "PATH": _PATH, _MARK: mark}
        self._commands.send(([_path(program), *arguments], environment, str(self.folder / f"log/{mark}.out")))
        self._commands.recv()

    def _processes_of_node(self, name: str) -> list[Process]:
        marks = {_MARK: f"slurmd-{name}"}, {"SLURMD_NODENAME": name}
        return [process for mark in marks for process in with_descendants({**self.environment, **mark})]

    def _daemons(self, mark: str) -> list[Process]:
        return with_environment({**self.environment, _MARK: mark})


def _version() -> tuple[int, int]:
    """Of SLURM, as (22, 5)."""
    printed = subprocess.run([_path("slurmd"), "-V"], text=True, capture_output=True, check=True).stdout
    major, minor = re.findall(r"\d+", printed)[:2]
    return int(major), int(minor)


def _path(program: str) -> str:
    path = shutil.which(program, path=_PATH)
    assert path is not None  # available() has found it
    return path
