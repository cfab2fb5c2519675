"""Stand-ins for SLURM's commands, which keep what they know in a folder; no job ever runs."""

from __future__ import annotations

import time
from pathlib import Path

# What each command does after it has written down how it was called, with `$state` as the folder of the state.
_COMMANDS = {
    "sbatch": """
case $1 in
--version) echo "slurm 24.05.4"; exit ;;
--test-only) [ ! -e "$state/impossible" ] || { cat "$state/impossible" >&2; exit 1; }; exit ;;
esac
[ ! -e "$state/refusal" ] || { cat "$state/refusal" >&2; exit 1; }
touch "$state/sbatch-has-begun"
[ ! -e "$state/slow" ] || sleep "$(cat "$state/slow")"
number=$((101 + $(ls "$state" | grep -c '^script-')))
for last; do :; done
cp "$last" "$state/script-$number"
cp "$last" "$state/script"
count=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$last")
if [ -n "$count" ]; then
    for index in $(seq 0 "$count"); do echo "${number}_$index|PENDING|Priority|" >> "$state/jobs"; done
else
    echo "$number|PENDING|Priority|" >> "$state/jobs"
fi
echo "Submitted batch job $number"
""",
    "squeue": """
[ ! -e "$state/silent" ] || { echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; }
cat "$state/jobs"
""",
    "sacct": """
[ -e "$state/accounted" ] || { echo "Slurm accounting storage is disabled" >&2; exit 1; }
cat "$state/accounted"
""",
    "scancel": """
[ ! -e "$FAKE_SLURM_WATCHED" ] || echo "scancel saw $(basename "$FAKE_SLURM_WATCHED")" >> "$state/calls"
sed -i "/^$1[|_]/d" "$state/jobs"
""",
    "scontrol": """
case $1 in
show) cat "$state/details" ;;
requeue|requeuehold) echo "JobId=$2 JobState=PENDING Restarts=1" > "$state/details" ;;
esac
""",
}


class FakeSlurm:
    """Its commands are in `programs`, which have to be first on PATH. scancel tells of $FAKE_SLURM_WATCHED."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "programs"
        self.state = folder / "state"
        self.programs.mkdir(parents=True)
        self.state.mkdir()
        for name in ("calls", "jobs", "details"):
            (self.state / name).touch()
        for name, body in _COMMANDS.items():
            self.program(name, f'state={self.state}\necho {name} "$@" >> $state/calls\n{body}')

    def program(self, name: str, body: str) -> None:
        path = self.programs / name
        # Not sh: dash forgets which signals it was started without.
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def says(self, what: str, text: str = "") -> None:
        """Of `impossible` and `refusal`: what sbatch says to refuse a job; `silent`: squeue fails; `accounted`: what
        sacct answers, without which it fails; `details`: what scontrol shows; `slow`: seconds that sbatch takes.
        """
        (self.state / what).write_text(text)

    def now(self, job: str, word: str | None, reason: str = "None", nodes: str = "") -> None:
        """A job is in another state; None: it is forgotten."""
        lines = [line for line in (self.state / "jobs").read_text().splitlines() if line.split("|")[0] != job]
        lines += [] if word is None else [f"{job}|{word}|{reason}|{nodes}"]
        (self.state / "jobs").write_text("".join(f"{line}\n" for line in lines))

    def calls(self, *commands: str) -> list[str]:
        """How these commands were called, in order; all if none is named."""
        lines = (self.state / "calls").read_text().splitlines()
        return [line for line in lines if not commands or line.split()[0] in commands]

    @property
    def submitted(self) -> int:
        """How many jobs sbatch has been asked to take, apart from questions whether it would."""
        return sum("--version" not in call and "--test-only" not in call for call in self.calls("sbatch"))

    @property
    def script(self) -> str:
        """The last one that was submitted."""
        return (self.state / "script").read_text()

    def wait_for(self, name: str, seconds: float = 240) -> None:
        """Until a file of the state is there."""
        deadline = time.monotonic() + seconds
        while not (self.state / name).exists():
            assert time.monotonic() < deadline, name
            time.sleep(0.02)
