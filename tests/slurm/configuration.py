"""The files of a private SLURM whose nodes are all on this machine."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from pathlib import Path

CPUS, MEGABYTES, GPUS = 16, 8000, 8

_GRES = """\
AutoDetect=off
Name=gpu File={folder}/dev/gpu[0-{last_gpu}]
"""

# slurmd looks for control groups even if nothing uses them, and in a container often ends because of what it finds.
_CGROUP = "CgroupPlugin={plugin}\n"

# cred_expire: a requeued job may start only when the credentials of its last start have run out, by default in 120 s.
# preempt_send_user_signal: a preempted job gets the signal that it asked for with --signal, not only SIGTERM.
# KillWait: twenty nodes share the processor of this machine, so that half a minute may be too little to save in.
# config_overrides: nodes may claim more processors and memory than the machine has.
_SLURM = """\
ClusterName=private
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/run/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmctldParameters=preempt_send_user_signal
SlurmdSpoolDir={folder}/spool/%n
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=10
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=1
KillWait=90
MinJobAge=36000
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=low  Nodes=ALL Default=YES MaxTime=7-0 PriorityTier=1  PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL MaxTime=7-0 PriorityTier=10 PreemptMode=OFF
"""


def write_configuration(
    folder: Path, version: tuple[int, int], controller_port: int, node_ports: Mapping[str, int]
) -> Path:
    """Everything that the daemons of a SLURM, as (22, 5), need below `folder`; returns the path of slurm.conf."""
    folder.chmod(0o711)  # munge refuses a socket that others could not reach; its key is closed to them
    for name in ("etc", "state", "run", "log", "dev", *(f"spool/{node}" for node in node_ports)):
        (folder / name).mkdir(parents=True)
    key = folder / "etc/munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for number in range(GPUS):
        # SLURM takes character devices only.
        (folder / f"dev/gpu{number}").symlink_to(os.devnull)
    (folder / "etc/gres.conf").write_text(_GRES.format(folder=folder, last_gpu=GPUS - 1))
    # Older ones cannot do without; the first plugin does nothing before it is used.
    (folder / "etc/cgroup.conf").write_text(_CGROUP.format(plugin="disabled" if version >= (23, 11) else "cgroup/v1"))
    nodes = "\n".join(
        f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port}"
        f" CPUs={CPUS} RealMemory={MEGABYTES} Gres=gpu:{GPUS}"
        for node, port in node_ports.items()
    )
    path = folder / "etc/slurm.conf"
    path.write_text(_SLURM.format(folder=folder, controller_port=controller_port, user=getpass.getuser(), nodes=nodes))
    return path
