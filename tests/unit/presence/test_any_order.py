"""Whatever the order in which reports take effect, what is seen at rest is right.

A scenario is drawn: edges open, change and close sessions and report them; each call of the service is cut into its
store operations, which wait, overtake one another, come late or after their edge's death, while the clock goes on,
sweeps run and data are lost. Then everything comes to rest, and each user must be seen as the edges have them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.presence.machine import PRECEDENCE
from services.presence.model import EdgeId, Presence, Seq, Session, SessionId, Status, UserId
from services.presence.reads import Reads
from services.presence.reports import Report, Reports
from services.presence.store import StoreTimes
from services.presence.store.memory import MemoryPresenceStore
from services.presence.sweeper import Sweeper
from services.presence.updates import Updates
from services.presence.watches import Watches
from services.runtime.errors import ServiceError
from services.runtime.metrics import Metrics
from tests.support.clock import ManualClock

USERS = [UserId(name) for name in ("alice", "bob", "carol")]
GRACE_MS = 5_000
TIMES = StoreTimes(
    lease_ttl=timedelta(seconds=15),
    grace=timedelta(milliseconds=GRACE_MS),
    settle=timedelta(seconds=15),
    tick=timedelta(seconds=1),
    activity_kept=timedelta(days=1),
)
_GATED = ("admit", "end_lease", "forget_lease", "load", "load_edge", "commit", "supersede", "find_due", "find_orphans")


class Gate:
    """A store whose operations wait until the scenario lets them through, one by one."""

    def __init__(self, store: MemoryPresenceStore) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.is_open = False
        self._store = store

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)
        if name not in _GATED:
            return operation

        async def gated(*arguments: Any, **options: Any) -> Any:
            if not self.is_open:
                turn = asyncio.get_running_loop().create_future()
                self.waiting.append(turn)
                await turn
            return await operation(*arguments, **options)

        return gated


@dataclass
class Edge:
    """An edge as presence.proto wants it: what was not taken is reported again, as it is by then."""

    edge_id: EdgeId
    sessions: dict[SessionId, Session] = field(default_factory=dict)
    pending: dict[SessionId, UserId] = field(default_factory=dict)
    in_flight: dict[SessionId, UserId] = field(default_factory=dict)
    call: "asyncio.Task[bool] | None" = None
    needs_full: bool = True
    is_full: bool = False
    seq: int = 0
    is_alive: bool = True

    def next_report(self) -> Report:
        self.seq += 1
        is_full, self.needs_full = self.needs_full, False
        self.is_full = is_full
        self.in_flight, self.pending = self.pending, {}
        put: Sequence[Session] = list(self.sessions.values())
        if not is_full:
            put = [session for session in put if session.session_id in self.in_flight]
        closed = [
            Session(session_id, user_id, Status.OFFLINE)
            for session_id, user_id in self.in_flight.items()
            if session_id not in self.sessions
        ]
        return Report(self.edge_id, Seq(self.seq), is_full, put, [] if is_full else closed, {})

    def gave_up(self, *, was_full: bool) -> None:
        self.pending = self.in_flight | self.pending
        self.needs_full = self.needs_full or was_full
        self.call = None


class Scenario:
    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.clock = ManualClock()
        self.store = MemoryPresenceStore(uuid4().hex, times=TIMES, clock=self.clock)
        self.gate = Gate(self.store)
        metrics = Metrics(CollectorRegistry())
        gated: Any = self.gate
        updates = Updates(gated, grace_ms=GRACE_MS, metrics=metrics)
        self.reports = Reports(gated, updates, metrics)
        self.reads = Reads(self.store, grace_ms=GRACE_MS, metrics=metrics)
        self.sweeper = Sweeper(
            *(gated, self.reports, updates, Watches(self.reads, metrics)),
            tick_s=1,
            orphans_every_ms=15_000,
            metrics=metrics,
        )
        self.edges = [Edge(EdgeId(f"edge-{number}")) for number in range(2)]
        self.calls: set[asyncio.Task[Any]] = set()
        self.announced: dict[UserId, Status] = {}
        self.has_lost_data = False
        self.sessions = 0

    # What it is told.

    def presence_changed(self, presences: Sequence[Presence]) -> None:
        self.announced |= {each.user_id: each.status for each in presences}

    def changes_were_missed(self) -> None: ...

    # What happens.

    def open_session(self) -> None:
        edge = self.draw_edge()
        if edge is not None:
            self.sessions += 1
            session = Session(SessionId(f"s{self.sessions}"), self.draw(USERS), self.draw(PRECEDENCE))
            edge.sessions[session.session_id] = session
            edge.pending[session.session_id] = session.user_id

    def change_session(self) -> None:
        edge = self.draw_edge()
        if edge is not None and edge.sessions:
            session = self.draw(list(edge.sessions.values()))
            edge.sessions[session.session_id] = Session(session.session_id, session.user_id, self.draw(PRECEDENCE))
            edge.pending[session.session_id] = session.user_id

    def close_session(self) -> None:
        edge = self.draw_edge()
        if edge is not None and edge.sessions:
            session = edge.sessions.pop(self.draw(list(edge.sessions)))
            edge.pending[session.session_id] = session.user_id

    def report(self) -> None:
        edge = self.draw_edge()
        if edge is not None and edge.call is None:
            self.send(edge)

    def send(self, edge: Edge) -> None:
        report = edge.next_report()
        call = self.start(self.reports.take(report))
        edge.call = call

        def answered(_: object) -> None:
            if edge.call is not call:  # the edge did not wait for it
                return
            is_taken = call.result()
            edge.call = None
            if not is_taken:
                edge.gave_up(was_full=report.is_full or is_taken is False)

        call.add_done_callback(answered)

    def time_out(self) -> None:
        """The edge waits no longer, but its call goes on."""
        edge = self.draw_edge()
        if edge is not None and edge.call is not None:
            edge.gave_up(was_full=edge.is_full)

    def die(self) -> None:
        edge = self.draw_edge()
        if edge is not None:
            edge.is_alive = False
            if self.draw([True, False]):
                self.start(self.reports.release(edge.edge_id))

    def let_one_through(self) -> None:
        waiting = [turn for turn in self.gate.waiting if not turn.done()]
        if waiting:
            turn = self.draw(waiting)
            self.gate.waiting.remove(turn)
            turn.set_result(None)

    async def time_passes(self) -> None:
        for _ in range(self.draw([1, 4, 9])):
            self.clock.advance(1)
            tick = await self.store.tick()
            if tick.is_settled and self.draw([True, False]):
                self.start(self.sweeper.sweep(tick))

    def lose_data(self) -> None:
        self.has_lost_data = True
        self.store.lose_everything()

    # The end.

    async def come_to_rest(self) -> None:
        while self.calls:
            self.let_one_through()
            await self.settle()
        self.gate.is_open = True
        for _ in range(60):
            self.clock.advance(1)
            for edge in self.edges:
                if edge.is_alive:
                    self.send(edge)
            await self.settle()
            tick = await self.store.tick()
            if tick.is_settled:
                await self.sweeper.sweep(tick)
        await self.settle()

    async def check(self) -> None:
        seen = {each.user_id: each.status for each in await self.reads.get(USERS)}
        assert seen == {user_id: self.expected(user_id) for user_id in USERS}
        leases = {lease.edge_id for lease in (await self.store.tick()).leases}
        assert leases == {edge.edge_id for edge in self.edges if edge.is_alive}
        if not self.has_lost_data:  # else whoever listens reads again
            assert {user: self.announced.get(user, Status.OFFLINE) for user in USERS} == seen

    def expected(self, user_id: UserId) -> Status:
        held = {
            session.status
            for edge in self.edges
            if edge.is_alive
            for session in edge.sessions.values()
            if session.user_id == user_id
        }
        return next((status for status in PRECEDENCE if status in held), Status.OFFLINE)

    # Helpers.

    def draw(self, choices: Sequence[Any]) -> Any:
        return self.data.draw(st.sampled_from(choices))

    def draw_edge(self) -> Edge | None:
        alive = [edge for edge in self.edges if edge.is_alive]
        return self.draw(alive) if alive else None

    def start(self, work: Any) -> "asyncio.Task[bool]":
        async def quietly() -> Any:
            """None: it failed."""
            try:
                return await work
            except ServiceError:
                return None

        task = asyncio.get_running_loop().create_task(quietly())
        self.calls.add(task)
        task.add_done_callback(self.calls.discard)
        return task

    async def settle(self) -> None:
        """Lets everything run that does not wait at the gate or for the clock (a conflict pauses for real)."""
        for _ in range(8):
            await asyncio.sleep(0)

    async def run(self) -> None:
        await self.store.start(self)
        await self.store.tick()
        actions = (
            *(self.open_session, self.change_session, self.close_session, self.report, self.time_out),
            *(self.let_one_through, self.let_one_through, self.let_one_through, self.let_one_through),
            *(self.time_passes, self.die, self.lose_data),
        )
        weights = st.sampled_from([*actions[:-2], *actions[:-2], *actions])
        for action in self.data.draw(st.lists(weights, min_size=10, max_size=60)):
            outcome = action()
            if outcome is not None:
                await outcome
            await self.settle()
        await self.come_to_rest()
        await self.check()
        await self.reads.close()
        await self.store.close()


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_at_rest_everybody_is_seen_as_the_edges_have_them(data: st.DataObject) -> None:
    asyncio.run(Scenario(data).run())
