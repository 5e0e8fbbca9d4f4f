"""Presence as the rest of the edge sees it: what its sessions do goes out (`lease`), what their users may see comes in
(`interest`). Nothing here fails or waits because presence is away: sessions go on, and others' presence reads UNKNOWN.
"""

from collections.abc import Iterable, Sequence

from edge.clients.presence import Presence, PresenceClient, PresenceStatus
from edge.interest import Interest, PresenceListener
from edge.lease import Lease
from edge.model import UserId
from edge.replicas import Replicas
from services.runtime.clock import Clock
from services.runtime.errors import ServiceError
from services.runtime.metrics import Metrics
from services.runtime.tasks import Tasks

__all__ = ["EdgePresence", "Presence", "PresenceListener", "PresenceStatus"]


class EdgePresence:
    """A component. It is stopped after the sessions are gone and before `replicas` is: then it gives the lease back.

    Args:
        replicas: those of presence; none of them need ever be up.
    """

    def __init__(self, replicas: Replicas, clock: Clock, tasks: Tasks, metrics: Metrics) -> None:
        self._client = PresenceClient(replicas)
        self._lease = Lease(self._client, replicas, clock, tasks, metrics)
        self._interest = Interest(self._client, replicas, tasks, metrics, on_report_needed=self._lease.report_soon)

    async def start(self) -> None:
        await self._lease.start()
        await self._interest.start()

    async def stop(self) -> None:
        await self._interest.stop()
        await self._lease.stop()

    # ---- The edge's own sessions.

    def opened(self, session_id: str, user_id: UserId) -> None:
        """A session is connected as this user; it is ONLINE. Its id is never used again."""
        self._lease.opened(session_id, user_id)

    def closed(self, session_id: str) -> None:
        """Idempotent."""
        self._lease.closed(session_id)

    def set_status(self, session_id: str, status: PresenceStatus) -> None:
        """ONLINE, AWAY or BUSY, for as long as the session lives. It holds at once: the edge is the truth for its
        sessions, and others see it as soon as presence is there.

        Raises:
            ValueError: another status.
        """
        self._lease.set_status(session_id, status)

    def active(self, user_id: UserId) -> None:
        """The user did something just now. Cheap: call it for every frame that a person caused."""
        self._lease.active(user_id)

    # ---- What users see of others.

    def subscribe(self, user_id: UserId, contacts: Iterable[UserId], listener: PresenceListener) -> None:
        """The listener gets a value for each contact, part of it before this returns and the rest soon, then changes.

        `contacts` are those of the user, on all its sessions (the latest call holds). More than 5,000 are cut: give the
        most important ones first.
        """
        self._interest.subscribe(user_id, contacts, listener)

    def unsubscribe(self, listener: PresenceListener) -> None:
        """It is told nothing more. Idempotent."""
        self._interest.unsubscribe(listener)

    def contacts_changed(self, user_id: UserId, contacts: Iterable[UserId]) -> None:
        """These are the user's contacts now: new ones are told to the user's listeners, others no longer."""
        self._interest.contacts_changed(user_id, contacts)

    def is_listening(self, user_id: UserId) -> bool:
        """Whether `contacts_changed` would do anything, so that contacts need not be read for nobody."""
        return self._interest.is_listening(user_id)

    async def get(self, user_ids: Sequence[UserId]) -> Sequence[Presence]:
        """In that order, each at most once; UNKNOWN where presence is away. Who may see whom is the caller's matter."""
        wanted = list(dict.fromkeys(user_ids))
        if not wanted:
            return []
        try:
            return await self._client.get(wanted)
        except ServiceError:
            return [Presence(user_id, PresenceStatus.UNKNOWN) for user_id in wanted]
