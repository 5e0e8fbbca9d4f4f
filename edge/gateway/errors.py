"""What only the HTTP API refuses."""

from services.runtime.errors import Forbidden, InvalidArgument


class NotAMember(Forbidden):
    """For an id that no conversation can have: word for word what chat says of one that does not exist."""

    template = "you are not a member of this conversation, or there is no such conversation"


class NoSuchPath(InvalidArgument):
    """Told with status 404: nothing is or ever was there, so FORBIDDEN would mislead."""

    template = "there is nothing at this path: see /api/v1/openapi.json"


class NoSuchMethod(InvalidArgument):
    """Told with status 405."""

    template = "this path does not have this method: expected one of {allowed}"
