"""Trains runs of one model in this process: `python -m glm_scale.ladder.together FILE [OVERRIDE …] -- NAME …`.

Exit code 0 if all have finished, 1 if some failed, and that of a run that was asked to stop.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from glm_data import DataError
from glm_scale.errors import UserError
from glm_scale.startup import prepare

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    from glm_scale.ladder.members import read_ladder

    split = arguments.index("--")
    (path, *overrides), names = arguments[:split], arguments[split + 1 :]
    ladder = read_ladder(Path(path), overrides)
    members = {member.name: member for member in ladder.members}
    failed = False
    for name in names:
        try:
            code = _train(members[name].config)
        except Exception as error:
            # Its log has more; what a user can mend needs no more words.
            said = str(error) if isinstance(error, UserError | DataError) else f"{type(error).__name__}: {error}"
            print(f"error: {name}: {said}", file=sys.stderr, flush=True)
            failed = True
        else:
            if code:
                return code
        _forget()
    return 1 if failed else 0


def _train(config: object) -> int:
    from glm_scale.config import RunConfig
    from glm_scale.run.train import train

    assert isinstance(config, RunConfig)
    return train(config).exit_code


def _forget() -> None:
    """Give back what a run has left: its model, and code that was compiled for it."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()
    gc.collect()


if __name__ == "__main__":
    prepare()
    sys.exit(main(sys.argv[1:]))
