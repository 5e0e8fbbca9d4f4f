"""Who hears about what, how, and how long a failure waits. Pure: facts in, a decision out.

A message is looked at twice. When it comes: whoever is attached to this replica (an edge says that he has a connection)
is told live, at once. When the grace is over: who has seen it meanwhile is left alone; who is attached, and whom
presence does not call offline, has been told live or is now; everybody else is pushed to.

Being attached is a fact of this moment, presence one of the last seconds. So nobody who is attached waits for presence,
and nobody who is attached nowhere is spared a push because presence still calls him online: his edge may have died with
the live notification in its buffers, and a push too many is better than none. Presence that does not answer (UNKNOWN)
is thus never a reason to lose anything. Only OFFLINE overrules an attachment: an edge that presence has given up is
frozen.
"""

from collections.abc import Sequence
from datetime import timedelta
from enum import Enum, auto
from typing import Final

from services.notify.model import Mark, Message, Recipient, Seq, Status


class Route(Enum):
    NOTHING = auto()
    LIVE = auto()
    PUSH = auto()


# What is not the job's fault (a store that is away, a breaker that is open) is looked at again this soon, and for ever:
# so a push goes out within seconds of healing. A try that failed waits longer each time.
UNCOUNTED_DELAY: Final = timedelta(seconds=2)


def hears(message: Message, recipient: Recipient) -> bool:
    """Whether the message is any news to him: never to its sender, nor to who has muted the conversation."""
    return recipient.user_id != message.sender_id and not recipient.muted


def is_seen(message: Message, mark: Mark) -> bool:
    return mark.read_seq >= message.seq


def route_when_due(*, attached: bool, status: Status, shown: bool) -> Route:
    """For a recipient who hears of it and has not seen it, when the grace is over."""
    if not attached or status is Status.OFFLINE:
        return Route.PUSH
    return Route.NOTHING if shown else Route.LIVE


def clears_pushes(before: Mark, read_seq: Seq) -> bool:
    """Whether reading up to `read_seq` makes a push stale that was still unread before."""
    return before.pushed_seq > before.read_seq and read_seq > before.read_seq


def retry_delay(tries: int, asked: timedelta | None, delays: Sequence[timedelta]) -> timedelta:
    """How long the job waits after its `tries`-th failed try (1 or more); longer if the provider asked for that."""
    own = delays[min(tries, len(delays)) - 1]
    return own if asked is None else max(own, asked)
