"""What notify refuses, and why. Each becomes a google.rpc.Status through `services.runtime.errors`."""

from services.runtime.errors import InvalidArgument, Unavailable


class BadRequest(InvalidArgument):
    template = "{problem}"


class StoreUnavailable(Unavailable):
    """The store could not be reached in time. For a write: whether it happened is not known; repeat it."""

    template = "the notify store does not answer: try again"


class QueueUnavailable(Unavailable):
    """The broker is away, blocks publishers, or has not confirmed: whether it has the job is not known; repeat it."""

    template = "the queue does not answer: try again"


class MalformedJob(Exception):
    """No try will ever make sense of it. The text names what is wrong, never what is in it."""
