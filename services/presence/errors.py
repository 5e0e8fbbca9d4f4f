"""What presence refuses, and why. Each becomes a google.rpc.Status through `services.runtime.errors`."""

from services.runtime.errors import Aborted, InvalidArgument, Unavailable


class BadRequest(InvalidArgument):
    template = "{problem}"


class StoreUnavailable(Unavailable):
    """The store could not be reached in time. For a write: whether it happened is not known; repeat it."""

    template = "the presence store does not answer: try again"


class Contended(Aborted):
    """Others kept changing the same users; a part may have been taken. Report the same again."""

    template = "the same users were changed by others: report again"


class Superseded(Aborted):
    """A later report of this edge has been taken, or this one came too late: what was left of it takes no effect."""

    template = "too late: report again, under a later seq"
