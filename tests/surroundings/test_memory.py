"""A run that needs more memory than there is is refused before it starts, with numbers and ways out that work."""

import re
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from glm_launch.checks import check_memory_of_nodes
from glm_launch.cli.app import main
from glm_launch.profile import Cluster
from glm_launch.records import LaunchFolder, Submission
from glm_launch.snapshot import snapshot_config
from glm_scale.config import RunConfig, layout_of, load_config
from glm_scale.errors import UserError
from glm_scale.parallel.mesh import Layout
from glm_scale.planning import fitting
from glm_scale.planning.fitting import check_memory
from glm_scale.planning.need import ample, need_of
from glm_scale.planning.room import Room, gpu_rooms, host_rooms
from glm_scale.run_directory import RunDirectory
from tests.tiny_run import tiny_config, write_config

CONFIGS = Path(__file__).parents[2] / "configs"
HERE = "on a machine of this test"


def shipped(name: str, *overrides: str) -> RunConfig:
    return load_config(CONFIGS / f"{name}.yaml", overrides)


def told(config: RunConfig, gigabytes: float, ranks: int = 1, swap: float = 0) -> str:
    room = Room(int(gigabytes * 1e9), HERE, int(swap * 1e9))
    return check_memory(config, Layout.of(ranks), ranks, room)


# What a user is told ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "gigabytes", "overrides", "has_ways"),
    [
        (1, 23, [], True),
        (1, 14, ["model.mixers=[ssm]", "training.zero_stage=2"], True),
        (2, 23, [], True),
        (2, 23, ["training.micro_batch=1", "model.width=1536", "model.heads=24"], False),
        (
            1, 23, ["training.activation_checkpointing=full", "training.precision=fp32", "data.sequence_length=32768"],
            True,
        ),
    ],
)  # fmt: skip
def test_a_run_that_cannot_fit_is_refused_with_ways_out_that_fit(ranks, gigabytes, overrides, has_ways):
    overrides = [*overrides, "training.batch_tokens=1048576"]
    config = shipped("160m", *overrides)
    with pytest.raises(UserError) as refused:
        told(config, gigabytes, ranks)
    text = str(refused.value)
    told_of = re.search(r"needs about (\S+) GB of memory .*but (\S+) GB are free on a machine", text)
    listed = re.search("In GB: (.*)", text)
    assert told_of is not None
    assert listed is not None
    needed, free = told_of.groups()
    assert float(free) == gigabytes < float(needed)
    parts = dict(re.findall(r"([a-z ]+?) (\d+\.?\d*)(?:,|$)", listed[1]))
    assert sum(map(float, parts.values())) == pytest.approx(float(needed), rel=0.05)
    ways = re.findall(r"^  (training\S+(?: training\S+)*), which needs", text, re.MULTILINE)
    assert bool(ways) == has_ways
    for way in ways:
        assert told(shipped("160m", *overrides, *way.split()), gigabytes, ranks) == ""
    assert "a smaller model" in text
    assert "training.check_memory=false" in text
    assert told(shipped("160m", *overrides, "training.check_memory=false"), gigabytes, ranks) == ""


@pytest.mark.parametrize("policy", ["selective", "full"])
def test_no_more_is_computed_again_than_has_to_be(policy):
    key = "training.activation_checkpointing"
    need = need_of(shipped("160m", f"{key}={policy}"), Layout.of(1), "cpu").of(1)
    with pytest.raises(UserError, match=f"\n  {key}={policy}, which needs"):
        told(shipped("160m"), 1.15 * sum(need.values()) / 1e9)


def test_what_comes_close_is_warned_of_and_what_fits_is_not():
    config = shipped("quickstart")
    need = need_of(config, Layout.of(1), "cpu").of(1)
    gigabytes = sum(need.values()) / 1e9
    assert told(config, 1.2 * gigabytes) == ""
    assert "may be killed" in told(config, 1.05 * gigabytes)
    # An estimate is no measurement: what may still work is not refused.
    assert "may be killed" in told(config, 0.9 * gigabytes)
    assert "GB of swap" in told(config, 0.6 * gigabytes, swap=gigabytes)
    with pytest.raises(UserError, match="quickstart needs about"):
        told(config, 0.6 * gigabytes)


def test_the_look_without_measuring_never_says_yes_where_measuring_says_no():
    for name, count in (("quickstart", 1), ("160m", 8)):
        for mixer in ("lattice:2^k", "ssm", "mamba2", "local:128 > lattice:2^k"):
            config = shipped(name, f"model.mixers=[{mixer}]", f"training.micro_batch={count}")
            assert ample(config) > need_of(config, Layout.of(1), "cpu").of_rank


# Every way to start a run on this machine ------------------------------------------------------------------------


@pytest.fixture
def glm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: Path) -> Any:
    """`glm-scale` on a machine of 2 GB, in a folder with tiny.yaml, of which training.micro_batch=… can be anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitting, "host_rooms", lambda: [Room(2 * 10**9, HERE)])
    tree = tiny_config(data, tmp_path)
    tree["ladder"] = {"mixers": ["ssm", "lattice:2^k"]}
    write_config(tmp_path / "tiny.yaml", tree)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["glm-scale", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


LARGE = ("training.micro_batch=16384", "training.batch_tokens=524288", "training.tokens=524288")


@pytest.mark.parametrize(
    "words",
    [
        ("train", "tiny.yaml", *LARGE),
        ("train", "tiny.yaml", *LARGE, "parallel.data=2", "training.micro_batch=8192"),
        ("ladder", "tiny.yaml", *LARGE),
        ("submit", "tiny.yaml", *LARGE, "--local", "1", "--dry-run"),
        ("submit", "tiny.yaml", *LARGE, "training.micro_batch=8192", "--local", "2"),
    ],
)
def test_every_command_refuses_before_anything_starts(glm, tmp_path, words):
    code, message = glm(*words)
    assert code == 2
    assert re.search(r"error: tiny\S* needs about \S+ GB of memory for", message)
    assert HERE in message
    assert not (tmp_path / "runs").exists()


def test_resume_refuses_too(glm, tmp_path):
    config = load_config(tmp_path / "tiny.yaml")
    folder = LaunchFolder(RunDirectory(tmp_path / "runs/tiny"))
    folder.path.mkdir(parents=True)
    snapshot_config(config, folder.config)
    here = {"host": socket.gethostname(), "folder": folder.path, "working_directory": tmp_path}
    folder.write_submission(Submission(kind="local", job="0", submitted=time.time(), **here))
    code, message = glm("resume", "runs/tiny", *LARGE)
    assert (code, HERE in message) == (2, True)
    assert glm("resume", "runs/tiny", "--dry-run", "training.micro_batch=2")[0] == 0


def test_a_limit_of_the_shell_is_heeded(command, data, tmp_path):
    """Of a model that is too large for any machine that has one."""
    config = write_config(tmp_path / "tiny.yaml", tiny_config(data, tmp_path, micro_batch=1))
    sizes = ("model.width=8192", "model.layers=32", "model.vocab_size=32768")
    refused = command("train", config, *sizes, limits={resource.RLIMIT_AS: 64 * 2**30})
    assert refused.code == 2, refused.output
    assert refused.stderr.startswith("error: tiny needs about "), refused.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("memory", "refused"),
    [("4G", True), ("4096", True), ("4194304K", True), ("64G", False), ("0", False), (None, False)],
)
def test_the_memory_that_a_job_asks_for_is_compared(memory, refused):
    run = shipped("160m", "training.micro_batch=4")
    site = Cluster(memory=memory, gpus_per_node=0)
    if refused:
        with pytest.raises(UserError, match=f"on each node .memory: {memory} in the cluster's profile"):
            check_memory_of_nodes(run, site, 2, 2)
    else:
        assert check_memory_of_nodes(run, site, 2, 2) == ""
    # What a GPU of the cluster has nobody knows here.
    assert check_memory_of_nodes(run, site.model_copy(update={"gpus_per_node": 2}), 2, 2) == ""


# What this machine has -------------------------------------------------------------------------------------------


def machine(root: Path, files: dict[str, str]) -> list[Room]:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return host_rooms(root)


MEMINFO = (
    "MemTotal:       24000000 kB\nMemFree: 1 kB\nMemAvailable:   20000000 kB\nSwapFree: 1000 kB\nHugePages_Total: 0\n"
)


def test_a_machine_without_limits_is_what_it_says(tmp_path):
    (room,) = machine(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n"})
    assert (room.free, room.swap) == (20_000_000 * 1024, 1000 * 1024)
    assert "of the 24.6 GB of this machine" in room.source


@pytest.mark.parametrize(
    ("files", "free"),
    [
        # A group in a group: both count. Cached files are given up.
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
                "sys/fs/cgroup/job/step/memory.current": "500\n",
                "sys/fs/cgroup/job/memory.max": "8000\n",
                "sys/fs/cgroup/job/memory.current": "6000\n",
                "sys/fs/cgroup/job/memory.stat": "anon 1000\nfile 5000\ninactive_file 4000\n",
            },
            [6000],
        ),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/step/memory.max": "3000\n",
                "sys/fs/cgroup/job/step/memory.current": "500\n",
                "sys/fs/cgroup/job/memory.max": "8000\n",
                "sys/fs/cgroup/job/memory.current": "1000\n",
            },
            [2500, 7000],
        ),
        # Inside of a container the group's path is that outside, and its files are at the root.
        (
            {
                "proc/self/cgroup": "0::/docker/abc\n",
                "sys/fs/cgroup/memory.max": "8000\n",
                "sys/fs/cgroup/memory.current": "9000\n",
            },
            [0],
        ),
        # Version 1, among other controllers; a number that no machine has is no limit.
        (
            {
                "proc/self/cgroup": "4:cpu,memory:/slurm/job_1\n3:cpuset:/\n0::/\n",
                "sys/fs/cgroup/memory/slurm/job_1/memory.limit_in_bytes": "8000\n",
                "sys/fs/cgroup/memory/slurm/job_1/memory.usage_in_bytes": "5000\n",
                "sys/fs/cgroup/memory/slurm/job_1/memory.stat": "inactive_file 1\ntotal_inactive_file 2000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "5000\n",
            },
            [5000],
        ),
        # What cannot be understood limits nothing.
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "", "sys/fs/cgroup/a/memory.current": "x"}, []),
        ({}, []),
    ],
)
def test_cgroups_limit_what_is_in_them(tmp_path, files, free):
    rooms = machine(tmp_path, files)
    assert [room.free for room in rooms] == free
    assert all("of a cgroup" in room.source for room in rooms)


@pytest.mark.parametrize(
    ("visible", "free"), [(None, [70, 10]), ("1,0", [10, 70]), ("1", [10]), ("MIG-1", []), ("", [])]
)
def test_gpus_are_asked_in_the_order_in_which_they_are_seen(tmp_path, monkeypatch, visible, free):
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        "zero() { echo 'NVIDIA H100, 80GB, 70, 80000'; }; one() { echo 'NVIDIA H100, 80GB, 10, 80000'; }\n"
        'case "$*" in *--id=0) zero;; *--id=1) one;; *--id=*) exit 6;; *) zero; one;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [room.free // 2**20 for room in gpu_rooms(8)] == free


def test_a_machine_without_gpus_has_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_rooms(8) == []


def test_a_gpu_is_compared_with_what_its_rank_needs(monkeypatch):
    monkeypatch.setattr(fitting, "_device", lambda config: "cuda")
    rooms = [Room(int(free * 1e9), f"of GPU {free}") for free in (80, 20)]
    monkeypatch.setattr(fitting, "gpu_rooms", lambda count: rooms[:count])
    run = shipped("160m", "training.compile=false")
    layout = layout_of(run)
    assert fitting.check_memory_here(run, layout, 1) == ""
    with pytest.raises(UserError, match=r"on the GPU, but 20\.0 GB are free of GPU 20"):
        fitting.check_memory_here(run, Layout.of(2), 2)
    # Runs side by side have GPUs in turn.
    rooms[:] = [Room(int(1.5 * need_of(run, layout, "cuda").of_rank), "of each GPU")] * 2
    assert fitting.check_memory_here(run, layout, 1, runs=2) == ""
    with pytest.raises(UserError, match=r"for 2 processes on the GPU, but .* GB are free of each GPU"):
        fitting.check_memory_here(run, layout, 1, runs=3)
    # Compiled blocks keep less, which the compiler is asked for.
    asked = need_of(shipped("160m"), Layout.of(2), "cuda", traced=True)
    assert asked.of_rank < 0.8 * need_of(run, Layout.of(2), "cuda").of_rank
    rooms[1] = Room(asked.of_rank, "of GPU 1")
    assert f"about {asked.of_rank / 1e9:.1f} GB" in fitting.check_memory_here(shipped("160m"), Layout.of(2), 2)
    with pytest.raises(UserError, match="on the GPU"):
        fitting.check_memory_here(run, Layout.of(2), 2)


# What is predicted is what happens -------------------------------------------------------------------------------


def test_a_run_on_a_cpu_takes_what_was_predicted(command, data, tmp_path):
    """Compared with a small one, as what both import is hidden in the process from which they are forked."""

    def taken(name: str, *overrides: str) -> tuple[int, int]:
        """Bytes at the peak, and those that were predicted."""
        overrides = (
            *overrides, f"data.sources=[{{path: {data}}}]", f"run_root={tmp_path}", "tracking.enabled=false",
            f"name={name}", "training.schedule.warmup_tokens=0", "training.device=cpu", "evaluation.sequences=1",
        )  # fmt: skip
        config = shipped("quickstart", *overrides)
        need, most = need_of(config, layout_of(config, 1), "cpu"), 0
        with command.start("train", CONFIGS / "quickstart.yaml", *overrides) as run:
            # The kernel keeps no peak of it.
            while run._poll(0.002) is None:
                most = max(most, _allocated(run.pid))
            assert run.wait() == 0, run.output
        return most, need.of_rank

    batches = ("training.batch_tokens=4096", "training.tokens=8192", "training.micro_batch=8")
    small = taken("small", "training.batch_tokens=64", "training.tokens=128", "training.micro_batch=1",
                  "data.sequence_length=64", "model.width=64", "model.vocab_size=512")  # fmt: skip
    large = taken("large", *batches)
    assert large[0] - small[0] == pytest.approx(large[1] - small[1], rel=0.25)


def _allocated(pid: int) -> int:
    """Bytes in memory that are of no file: pages of libraries come and go as the kernel likes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)
