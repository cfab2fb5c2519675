"""Several processes of a run on one machine: starts them, stops them together, and says which one is to blame.

    launch      starts the ranks and waits for them; what a rank died of is shown, or where it hangs
    launched    the place among the ranks that a launcher, this one or another, has given to this process
    neighbours  how many other runs share the machine with this one
    handled     signals that end a command are handled by it, and reach what it has started
    Watchdog    in each rank: reports and ends the process when training no longer moves

The launcher holds no tensors: importing this package imports neither torch nor anything else that is heavy.
"""

from glm_scale.processes.environment import NEIGHBOURS, Place, launched, neighbours
from glm_scale.processes.launcher import launch
from glm_scale.processes.signals import ENDING, handled
from glm_scale.processes.watchdog import HANG_EXIT_CODE, Watchdog, collective_timeout

__all__ = [
    "ENDING",
    "HANG_EXIT_CODE",
    "NEIGHBOURS",
    "Place",
    "Watchdog",
    "collective_timeout",
    "handled",
    "launch",
    "launched",
    "neighbours",
]
