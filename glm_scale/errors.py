"""The error that the command line shows to a user."""


class UserError(Exception):
    """Something the user can mend: shown as one message without a traceback, exit code 2.

    The message names the value, the place it came from, and the way out.
    """
