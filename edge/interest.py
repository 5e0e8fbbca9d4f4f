"""Whose presence this edge watches, for whom, and what was told: each contact once upstream, however many share it.

Somebody who subscribes gets a value for each contact, soon: UNKNOWN where presence is away. Who has been told something
better keeps it while presence is away, and hears what changed when it is back.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from edge.clients.presence import Presence, PresenceClient, PresenceStatus, WatchCall
from edge.errors import NoReplica
from edge.model import UserId
from edge.replicas import Replica, Replicas
from services.runtime.errors import ServiceError
from services.runtime.log import logger
from services.runtime.metrics import Metrics
from services.runtime.tasks import Tasks

_REOPEN_S = (0.05, 1.0)
# Contacts of one user: five groups of the largest size. Further ones are not watched.
_MAX_CONTACTS = 5_000
# Contacts of all users of this edge together: some 60 MB.
_MAX_WATCHED = 100_000
# Contacts handled before other work gets its turn.
_TURN = 500

_log = logger(__name__)


class PresenceListener(Protocol):
    """A subscription to presence. Hashable by identity; does not block and does not raise."""

    def presence(self, presences: Sequence[Presence]) -> None:
        """Some contacts' presence: first a value for each, then what changes."""


@dataclass(slots=True)
class _Contact:
    # The last value that somebody could give, as told to all except those in `waiting` and, where `owes`, those who
    # were told UNKNOWN.
    told: Presence | None = None
    owes: bool = False
    # What the present stream said last; None: nothing yet.
    current: Presence | None = None
    # Those who have been told nothing.
    waiting: list[PresenceListener] = field(default_factory=list)
    # The users who have this contact.
    audience: dict[UserId, None] = field(default_factory=dict)


@dataclass(slots=True)
class _Audience:
    """One user who listens, on any number of sessions."""

    listeners: dict[PresenceListener, None] = field(default_factory=dict)
    contacts: frozenset[UserId] = frozenset()


class Interest:
    """A component with one task, which keeps a watch stream open. It is that stream's listener.

    Args:
        on_report_needed: called when presence has lost what it knew.
    """

    def __init__(
        self,
        client: PresenceClient,
        replicas: Replicas,
        tasks: Tasks,
        metrics: Metrics,
        *,
        on_report_needed: Callable[[], None],
    ) -> None:
        self._client = client
        self._replicas = replicas
        self._tasks = tasks
        self._users: dict[UserId, _Audience] = {}
        self._user_of: dict[PresenceListener, UserId] = {}
        self._contacts: dict[UserId, _Contact] = {}
        self._call: WatchCall | None = None
        self._replica: Replica | None = None
        self._watching: asyncio.Task[None] | None = None
        self._replicas_news = asyncio.Event()
        self._on_report_needed = on_report_needed
        self._told = metrics.counter("edge_presence_updates", "Presence events handed to subscriptions.")
        self._cut = metrics.counter("edge_presence_contacts_cut", "Contacts that are not watched: there are too many.")
        self._breaks = metrics.counter("edge_presence_stream_breaks", "Watch streams that ended and were opened again.")
        metrics.gauge("edge_presence_watched", "Users whose presence this edge watches.").set_function(
            lambda: len(self._contacts)
        )

    # ---- What sessions ask.

    def subscribe(self, user_id: UserId, contacts: Iterable[UserId], listener: PresenceListener) -> None:
        """Tells the listener of the user's contacts. What is known is told before this returns."""
        audience = self._users.setdefault(user_id, _Audience())
        self.contacts_changed(user_id, contacts)
        audience.listeners[listener] = None
        self._user_of[listener] = user_id
        self._tell_state((listener,), audience.contacts)

    def unsubscribe(self, listener: PresenceListener) -> None:
        """It is told nothing more. Idempotent."""
        user_id = self._user_of.pop(listener, None)
        if user_id is None:
            return
        audience = self._users[user_id]
        del audience.listeners[listener]
        if not audience.listeners:
            self._set_contacts(user_id, audience, ())
            del self._users[user_id]

    def contacts_changed(self, user_id: UserId, contacts: Iterable[UserId]) -> None:
        """These are the user's contacts now. Does nothing where the user does not listen."""
        audience = self._users.get(user_id)
        if audience is not None:
            before = audience.contacts
            self._set_contacts(user_id, audience, contacts)
            self._tell_state(tuple(audience.listeners), audience.contacts - before)

    def is_listening(self, user_id: UserId) -> bool:
        return user_id in self._users

    # ---- WatchListener.

    def updated(self, presences: Sequence[Presence]) -> None:
        news: dict[PresenceListener, list[Presence]] = {}
        for presence in presences:
            contact = self._contacts.get(presence.user_id)
            if contact is not None:
                contact.current = presence
                for listener in self._recipients(contact, presence):
                    news.setdefault(listener, []).append(presence)
        for listener, told in news.items():
            self._tell(listener, told)

    def report_needed(self) -> None:
        self._on_report_needed()

    # ---- Component.

    async def start(self) -> None:
        self._replicas.changed.append(self._replicas_changed)
        self._watching = self._tasks.spawn(self._watch_for_ever(), "presence watch")

    async def stop(self) -> None:
        self._replicas.changed.remove(self._replicas_changed)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))

    # ---- Inside.

    def _set_contacts(self, user_id: UserId, audience: _Audience, contacts: Iterable[UserId]) -> None:
        wanted = list(dict.fromkeys(contacts))
        if len(wanted) > _MAX_CONTACTS:
            self._cut.inc(len(wanted) - _MAX_CONTACTS)
            wanted = wanted[:_MAX_CONTACTS]
        before, audience.contacts = audience.contacts, frozenset(wanted)
        for contact_id in audience.contacts - before:
            self._want(contact_id, user_id)
        for contact_id in before - audience.contacts:
            contact = self._contacts.get(contact_id)
            if contact is None:
                continue
            contact.audience.pop(user_id, None)
            if not contact.audience:
                del self._contacts[contact_id]
                if self._call is not None:
                    self._call.want_no_more(contact_id)

    def _want(self, contact_id: UserId, user_id: UserId) -> None:
        contact = self._contacts.get(contact_id)
        if contact is None:
            if len(self._contacts) >= _MAX_WATCHED:
                self._cut.inc()
                return
            contact = self._contacts[contact_id] = _Contact()
            if self._call is not None:
                self._call.want(contact_id)
        contact.audience[user_id] = None

    def _tell_state(self, listeners: Sequence[PresenceListener], contact_ids: Collection[UserId]) -> None:
        """What is known of them now; of those whom presence is about to tell of, nothing yet."""
        told: list[Presence] = []
        for contact_id in contact_ids:
            contact = self._contacts.get(contact_id)
            if contact is not None and contact.current is not None:
                told.append(contact.current)
                contact.owes |= contact.current.status is PresenceStatus.UNKNOWN
            elif contact is not None and self._call is not None:
                contact.waiting.extend(listeners)
            else:
                told.append(Presence(contact_id, PresenceStatus.UNKNOWN))
                if contact is not None:
                    contact.owes = True
        if told:
            for listener in listeners:
                self._tell(listener, told)

    def _recipients(self, contact: _Contact, presence: Presence) -> Sequence[PresenceListener]:
        """Notes what is told, and to whom it is news."""
        waiting, contact.waiting = contact.waiting, []
        recipients = [each for each in waiting if self._is_contact_of(presence.user_id, each)]
        if presence.status is PresenceStatus.UNKNOWN:  # who has been told something better keeps it
            contact.owes |= bool(recipients)
            return recipients
        if contact.owes or contact.told is None or contact.told.status is not presence.status:
            recipients = [each for user_id in contact.audience for each in self._users[user_id].listeners]
        contact.told, contact.owes = presence, False
        return recipients

    def _is_contact_of(self, contact_id: UserId, listener: PresenceListener) -> bool:
        user_id = self._user_of.get(listener)
        return user_id is not None and contact_id in self._users[user_id].contacts

    def _tell(self, listener: PresenceListener, presences: Sequence[Presence]) -> None:
        if listener not in self._user_of:  # what another heard just now may have ended it
            return
        self._told.inc(len(presences))
        try:
            listener.presence(presences)
        except Exception:  # the edge of a session
            _log.exception("presence_listener_failed")

    def _replicas_changed(self) -> None:
        self._replicas_news.set()
        if self._call is not None and self._replica is not None and not self._replica.is_up:
            self._call.give_up()

    async def _watch_for_ever(self) -> None:
        delay_s, max_delay_s = _REOPEN_S
        loop = asyncio.get_running_loop()
        while True:
            replica = await self._some_replica()
            opened_at = loop.time()
            self._replica = replica
            self._call = WatchCall(self._client.stub(replica), self._contacts, self._contacts.__contains__)
            try:
                await self._call.run(self)
            except ServiceError as error:
                _log.info("presence_stream_lost", replica=replica.address, message=str(error))
            finally:
                self._call = self._replica = None
            self._breaks.inc()
            await self._went_down()
            if loop.time() - opened_at > max_delay_s:
                delay_s = _REOPEN_S[0]
            await asyncio.sleep(random.uniform(0, delay_s))
            delay_s = min(2 * delay_s, max_delay_s)

    async def _some_replica(self) -> Replica:
        while True:
            self._replicas_news.clear()
            try:
                return self._replicas.any()
            except NoReplica:
                await self._replicas_news.wait()

    async def _went_down(self) -> None:
        """Who waits for a first value hears that nobody can say."""
        contacts = iter(list(self._contacts.items()))
        while part := list(islice(contacts, _TURN)):
            self.updated([Presence(contact_id, PresenceStatus.UNKNOWN) for contact_id, each in part if each.waiting])
            for _, contact in part:
                contact.current = None
            await asyncio.sleep(0)
