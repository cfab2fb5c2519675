"""The error that the command line shows to a user."""


class UserError(Exception):
    """Something the user can mend: shown as one message without a traceback, exit code 2.

    The message names the value, the place it came from, and the way out.
    """


class PassingError(UserError):
    """A UserError that may pass without anybody's doing, such as a full disk or a lock that another process holds."""
