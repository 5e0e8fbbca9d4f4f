"""Who was connected, and when: as far as the clients know."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.entries import Connect, Disconnected
from tests.chaos.history import History, Outcome


@dataclass(frozen=True, slots=True)
class Session:
    """Asked for at `asked_s`; connected for certain from `from_s` (infinite: never for certain) until `to_s`."""

    client: str
    user: str
    session: int
    edge: str
    asked_s: float
    from_s: float
    to_s: float

    def may_touch(self, from_s: float, to_s: float) -> bool:
        """Whether it may have been connected at any moment of that time."""
        return self.asked_s <= to_s and from_s <= self.to_s


def all_sessions(history: History) -> Sequence[Session]:
    ends = {(each.client, each.session): each.at_s for each in history.of(Disconnected)}
    return [
        Session(
            op.client,
            op.user,
            op.session,
            op.edge,
            op.invoked_s,
            op.ended_s if op.is_ok else math.inf,
            ends.get((op.client, op.session), math.inf),
        )
        for op in history.ops(Connect)
        if op.outcome is not Outcome.REFUSED
    ]
