"""What the edge itself refuses."""

from services.runtime.errors import Forbidden, InvalidArgument, RateLimited, TooLarge, Unauthenticated, Unavailable


class BadRequest(InvalidArgument):
    reason = "BAD_REQUEST"
    template = "{problem}"


class ContentTooLarge(TooLarge):
    reason = "CONTENT_TOO_LARGE"
    template = "{what} is too large: at most {limit} bytes"


class BadToken(Unauthenticated):
    """Says what is wrong with the token, never what is in it."""

    reason = "BAD_TOKEN"
    template = "the token is refused: {problem}"


class BadDestination(Forbidden):
    """Nothing is there for a client to send to or subscribe to; also for patterns, which are never matched."""

    reason = "BAD_DESTINATION"
    template = "there is no such destination for {verb}: see the destinations in the reference"


class NotAMember(Forbidden):
    """For an id that no conversation can have: word for word what chat says of one that does not exist."""

    template = "you are not a member of this conversation, or there is no such conversation"


class TooFast(RateLimited):
    reason = "TOO_FAST"
    template = "too many {what}: at most {limit} a second"


class TooMany(RateLimited):
    reason = "TOO_MANY"
    template = "too many {what}: at most {limit}"


class NoReplica(Unavailable):
    reason = "NO_REPLICA"
    template = "no {service} replica is up"
