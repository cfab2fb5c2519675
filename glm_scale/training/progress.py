"""What the user sees while a run trains: one live line on a terminal, a line now and then elsewhere."""

import logging
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from glm_scale.output import failure_of

__all__ = ["Progress", "StepView", "open_progress"]

# Seconds between lines where there is no terminal to redraw.
_QUIET_INTERVAL = 10.0

logger = logging.getLogger("glm_scale.training")


@dataclass(frozen=True)
class StepView:
    """What of a step is shown; rates are per second, `mfu` a fraction or None, `eta` seconds, None at first."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    mfu: float | None
    eta: float | None


class Progress:
    """Shows steps and messages on `console`; every line also goes to the log."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._last = 0.0
        self._noted = False

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def step(self, view: StepView) -> None:
        """Show how training stands; cheap enough to call at every step."""
        now = time.monotonic()
        if now - self._last < (0.1 if self._live else _QUIET_INTERVAL):
            return
        self._last = now
        line = f"{self._name}  {describe(view)}"
        if self._live:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
            self._note_loss()
        else:
            self.say(line)

    def say(self, message: str) -> None:
        """A message that stays."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)
        logger.info("%s", message)
        self._note_loss()

    def _note_loss(self) -> None:
        """Into the log, once there is one: that what is shown arrives nowhere."""
        if self._noted or not logger.hasHandlers():
            return
        if failure := failure_of(sys.stdout):
            self._noted = True
            logger.warning("stdout is lost (%s); training goes on, and this log has it all", failure.strerror)


def open_progress(name: str, shown: bool = True) -> Progress:
    """Progress on stdout; nowhere but in the log if it is not to be shown."""
    return Progress(Console(quiet=not shown), name)


def describe(view: StepView) -> str:
    """One line about a step: "step 120/400  loss 4.2133  12.3k tokens/s  mfu 41 %  eta 1:02:03"."""
    parts = [
        f"step {view.step}/{view.steps}",
        f"loss {view.loss:.4f}",
        f"{_count(view.tokens_per_second)} tokens/s",
        f"mfu {view.mfu:.0%}" if view.mfu is not None else "",
        f"eta {'–' if view.eta is None else _duration(view.eta)}",
    ]
    return "  ".join(part for part in parts if part)


def _count(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
