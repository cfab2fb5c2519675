"""`glm-scale` as it is installed: the commands of `glm_scale.cli`, and those that start runs elsewhere."""

from glm_launch.cli.cancel import cancel
from glm_launch.cli.command import submit_command
from glm_launch.cli.doctor import doctor
from glm_launch.cli.ladder import submit as submit_ladder
from glm_launch.cli.logs import logs
from glm_launch.cli.resume import resume
from glm_launch.cli.status import status
from glm_launch.cli.submit import submit
from glm_scale.cli import ladder
from glm_scale.cli.app import assemble, run

__all__ = ["app", "main"]

_PANEL = "On a cluster, or in the background"

app = assemble()
for command in (submit, status, logs, cancel, resume, doctor):
    app.command(rich_help_panel=_PANEL)(command)
ladder.app.command("submit")(submit_ladder)
app.command("submit-command", rich_help_panel=_PANEL)(submit_command)


def main() -> None:
    """What is called in a shell."""
    run(app)


if __name__ == "__main__":
    main()
