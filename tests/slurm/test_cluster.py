"""The private SLURM does what the tests of launching rely on."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.slurm.cluster import Cluster


def _submit(slurm: Cluster, folder: Path, command: str, *options: str) -> str:
    """A job of one command; returns its number."""
    script = folder / "job.sh"
    script.write_text(f"#!/bin/bash\n{command}\n")
    output = f"--output={folder}/out.txt"
    return slurm.run("sbatch", "--parsable", "--open-mode=append", output, *options, script).stdout.strip()


def _output(folder: Path) -> str:
    """What the job has printed so far."""
    path = folder / "out.txt"
    return path.read_text() if path.exists() else ""


def _nodes_of(slurm: Cluster, job: str) -> set[str]:
    hosts = slurm.run("squeue", "-h", "-j", job, "-o", "%N").stdout.strip()
    return set(slurm.run("scontrol", "show", "hostnames", hosts).stdout.split())


def test_tasks_of_two_nodes_have_their_rank_node_and_gpus(slurm: Cluster) -> None:
    command = "echo $SLURM_PROCID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
    done = slurm.run("srun", "--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", "bash", "-c", command)
    lines = sorted(done.stdout.splitlines())
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "3"]
    assert [line.split()[1] for line in lines] == ["127.0.0.1"] * 2 + ["127.0.0.2"] * 2
    assert {line.split()[2] for line in lines} == {"0,1"}


def test_a_signal_reaches_one_task_alone(slurm: Cluster, tmp_path: Path) -> None:
    task = tmp_path / "task.sh"
    task.write_text("trap 'echo $SLURM_PROCID was signalled; exit 3' USR1; echo ready; while :; do sleep 0.1; done")
    job = _submit(slurm, tmp_path, f"srun --kill-on-bad-exit=1 bash {task}", "--nodes=2", "--ntasks-per-node=2")
    slurm.wait_until("all tasks ready", lambda: _output(tmp_path).count("ready") == 4)
    slurm.signal_task(job, 2, signal.SIGUSR1)
    slurm.wait_for_state(job, "FAILED")
    assert re.findall("(.) was signalled", _output(tmp_path)) == ["2"]


def test_a_drained_node_gets_no_job(slurm: Cluster) -> None:
    slurm.drain("127.0.0.1")
    assert slurm.run("srun", "printenv", "SLURMD_NODENAME").stdout.strip() == "127.0.0.2"
    slurm.resume("127.0.0.1")
    slurm.run("srun", "--nodelist=127.0.0.1", "true")


def test_a_job_outlives_the_controller(slurm: Cluster, tmp_path: Path) -> None:
    released = tmp_path / "released"
    job = _submit(slurm, tmp_path, f"until test -e {released}; do sleep 0.1; done; echo done")
    slurm.wait_for_state(job, "RUNNING")
    slurm.restart_controller()
    assert slurm.state(job) == "RUNNING"
    slurm.stop_controller(signal.SIGKILL)
    released.touch()
    slurm.start_controller()
    slurm.wait_for_state(job, "COMPLETED")
    assert _output(tmp_path) == "done\n"


def test_a_job_of_the_high_partition_preempts_one_of_the_low(slurm: Cluster, tmp_path: Path) -> None:
    waiting = "trap 'echo warned; exit 0' USR1; echo ready; while :; do sleep 0.1; done"
    _submit(slurm, tmp_path, waiting, "--nodes=4", "--exclusive", "--requeue", "--signal=B:USR1@5")
    slurm.wait_until("the job ready", lambda: "ready" in _output(tmp_path))
    slurm.run("srun", "--partition=high", "--nodes=1", "--exclusive", "true")
    assert "warned" in _output(tmp_path)


def test_what_a_test_leaves_behind_is_cleared(slurm: Cluster, tmp_path: Path) -> None:
    _submit(slurm, tmp_path, "sleep 600", "--nodes=2")
    slurm.drain("127.0.0.3")
    slurm.stop_node("127.0.0.4")
    slurm.stop_controller()
    slurm.restore()
    assert slurm.node_states() == dict.fromkeys(slurm.nodes, "idle")
    assert not slurm.run("squeue", "-h").stdout


def test_commands_find_the_cluster(slurm: Cluster) -> None:
    assert os.environ["SLURM_CONF"] == slurm.environment["SLURM_CONF"]
