"""Starts the ranks of a run on this machine, waits for them, and explains why they ended."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from glm_scale.processes.collect_reports import hear, someone_hangs
from glm_scale.processes.diagnosis import describe, diagnose
from glm_scale.processes.failures import Death, cause_of
from glm_scale.processes.rank_processes import POLL, RankProcesses
from glm_scale.processes.signals import handled
from glm_scale.processes.watchdog import HANG_EXIT_CODE

__all__ = ["launch"]

_MOMENT = 5.0
"""Seconds for the cause to appear after a rank has died that blames another."""
_LOOK = 1.0
"""Seconds between looks for reports: the folder may lie on a file system that is shared."""


def launch(
    command: Sequence[str], processes: int, *, logs: Path, grace: float = 10.0, no_failures: Collection[int] = ()
) -> int:
    """Run `processes` copies of `command` as ranks 0, 1, … and return the exit code of the whole.

    Rank 0 has the terminal; the others write to `logs`/rank-N.log. SIGINT, SIGTERM and SIGHUP are passed on to all,
    unless they are ignored. A rank that fails takes the others down, which have `grace` seconds to end; what it died of
    is shown, and its exit code (128 + number for signals) is returned. If a rank's `Watchdog` says that it hangs, all
    have to report, the odd one is named, and HANG_EXIT_CODE is returned. `no_failures`: exit codes besides 0 that are
    no failure.

    Only for the main thread: signals are handled there, and ranks die with the thread that started them.
    """
    noted: list[signal.Signals] = []
    with handled(noted.append), RankProcesses(command, processes, logs) as ranks:
        stopped: set[int] = set()  # codes of ranks that did as they were told
        looked = time.monotonic()
        while ranks.living and not ranks.failed({*stopped, *no_failures}):
            time.sleep(POLL)
            while noted:
                number = noted.pop(0)
                ranks.send(number, ranks.living)
                stopped |= {-number, 128 + number}
            if time.monotonic() - looked > _LOOK:
                looked = time.monotonic()
                if someone_hangs(ranks):
                    return _end_hang(ranks)
        if HANG_EXIT_CODE in ranks.ended.values():
            return _end_hang(ranks)
        if ranks.failed({*stopped, *no_failures}):
            return _end_failure(ranks, stopped, no_failures, grace)
        ranks.relay.finish()
        ranks.relay.show()
        return next((Death(rank, code).exit_code for rank, code in ranks.ended.items() if code), 0)


def _end_failure(ranks: RankProcesses, stopped: Collection[int], no_failures: Collection[int], grace: float) -> int:
    """Show which rank failed and of what, and end the others."""

    def cause() -> Death:
        return cause_of(ranks.death(rank) for rank in ranks.failed({*stopped, *no_failures}))

    # A rank that lost another can be dead before the other is.
    ranks.wait(lambda: not cause().is_consequence, _MOMENT)
    found = cause()
    if found.is_consequence and stopped:
        # The other ended because it was told to, too early to do so in good order.
        exit_code = max(stopped)
        ranks.relay.mute()
    else:
        exit_code = found.exit_code
        held = ranks.relay.mute()
        # What rank 0 wrote is on the terminal already, unless it was kept back.
        words = found.words if found.rank != 0 or held else ""
        _say(f"error: {found}:\n{words}" if words else f"error: {found}")
        if ranks.count > 1:
            _say(f"(the others of {ranks.count} ranks are stopped; what they wrote is in {ranks.logs}/rank-N.log)")
    ranks.stop(grace)
    _show_cursor()
    return exit_code


def _end_hang(ranks: RankProcesses) -> int:
    """Let all ranks report, show which is the odd one and where all stand, and end them."""
    ranks.relay.mute()
    reports, silent = hear(ranks)
    _say(f"error: training hangs; {describe(diagnose(reports, silent), reports)}")
    _say(f"\n(the stacks of all threads are in {ranks.logs}/rank-N.hang)")
    # They stand still: there is nothing that they could end in good order.
    ranks.stop(grace=0.0)
    _show_cursor()
    return HANG_EXIT_CODE


def _say(text: str) -> None:
    if sys.stdout.isatty():
        print("\r\x1b[K", end="", flush=True)  # the progress line of rank 0
    print(text, file=sys.stderr, flush=True)


def _show_cursor() -> None:
    """Rank 0 hides it while it shows progress, and may have been killed meanwhile."""
    if sys.stdout.isatty():
        print("\x1b[?25h", end="", flush=True)
