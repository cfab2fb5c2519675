"""Starting runs on other machines, watching them, and starting them again: SLURM through submitit, or this machine.

    submit     checks a run, snapshots it, and hands it to SLURM or to a supervisor on this machine
    task       what every process of a job does: takes its place among the ranks and trains
    after      what the batch script does before and behind the processes: keeps the history, and requeues
    restarts   whether a run that ended is started again, decided from what its processes left behind

It knows commands, not tensors. What the commands are called is in `glm_launch.cli`.
"""
