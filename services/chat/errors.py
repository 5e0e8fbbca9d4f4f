"""What chat refuses, and why. Each becomes a google.rpc.Status through `services.runtime.errors`."""

from services.runtime.errors import Conflict, Forbidden, InvalidArgument, TooLarge, Unavailable


class NotAMember(Forbidden):
    """The one refusal for a conversation that is not there and for one that is somebody else's."""

    template = "you are not a member of this conversation, or there is no such conversation"


class DirectIsClosed(Forbidden):
    template = "a direct conversation has its two members for ever: create a group instead"


class ClientMessageIdReused(Conflict):
    """The same `clientMessageId` came again with another body; the original is untouched."""

    template = "this clientMessageId was used for another message of this conversation: use a new one for each"


class TooManyMembers(TooLarge):
    template = "a group has at most {limit} members"


class BadRequest(InvalidArgument):
    template = "{problem}"


class StoreUnavailable(Unavailable):
    """The store could not be reached in time. For a write: whether it happened is not known; repeat it."""

    template = "the store does not answer: try again"


class JobsUnavailable(Unavailable):
    """The broker is away, blocks publishers, or has not confirmed: whether it has the jobs is not known; repeat it."""

    template = "the queue to notify does not answer: try again"
