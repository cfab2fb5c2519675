"""The errors of this package."""


class DataError(Exception):
    """Data that cannot be used as asked: shown to users as one message without a traceback.

    The message names the value, its place (file and line, or shard and sample) and the way out.
    """


class BadRecordError(Exception):
    """A record that is no document. Whoever knows its place makes it a DataError, or leaves it out and counts it."""
