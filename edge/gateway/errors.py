"""What only the HTTP API refuses."""

from services.runtime.errors import InvalidArgument


class NoSuchPath(InvalidArgument):
    """Told with status 404: nothing is or ever was there, so FORBIDDEN would mislead."""

    template = "there is nothing at this path: see /api/v1/openapi.json"


class NoSuchMethod(InvalidArgument):
    """Told with status 405."""

    template = "this path does not have this method: expected one of {allowed}"
