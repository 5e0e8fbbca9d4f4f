"""Whatever the order in which reports take effect, what is seen at rest is right.

A scenario is drawn: edges open, change and close sessions and report them. Each call of the service is a row of store
operations; some calls run through, others stop in between and go on later, in parts, when their edge has long reported
other things, or died; so do sweeps. The clock goes on, and data are lost. Then everything comes to rest, and each user
must be seen as the edges have them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.presence.machine import PRECEDENCE
from services.presence.model import EdgeId, Presence, Seq, Session, SessionId, Status, UserId
from services.presence.reports import Report
from services.runtime.errors import ServiceError
from tests.unit.presence.gated import GatedService

USERS = [UserId("alice"), UserId("bob")]


@dataclass
class Edge:
    """An edge as presence.proto wants it: what was not taken is reported again, as it is by then."""

    edge_id: EdgeId
    sessions: dict[SessionId, Session] = field(default_factory=dict)
    pending: dict[SessionId, UserId] = field(default_factory=dict)
    in_flight: dict[SessionId, UserId] = field(default_factory=dict)
    call: "asyncio.Task[bool | None] | None" = None
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

    def gave_up(self) -> None:
        """Nobody knows what became of the last report."""
        if self.call is not None:
            self.call = None
            self.pending = self.in_flight | self.pending
            self.needs_full = self.needs_full or self.is_full

    def answered(self, is_taken: bool | None) -> None:
        if is_taken:
            self.call = None
        else:
            self.gave_up()
            self.needs_full = self.needs_full or is_taken is False


class Scenario:
    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.service = GatedService()
        self.edges = [Edge(EdgeId(f"edge-{number}")) for number in range(2)]
        self.calls: dict[asyncio.Task[Any], None] = {}
        self.announced: dict[UserId, Status] = {}
        self.has_lost_data = False
        self.sessions = 0

    # What it is told.

    def presence_changed(self, presences: Sequence[Presence]) -> None:
        self.announced |= {each.user_id: each.status for each in presences}

    def changes_were_missed(self) -> None: ...

    # What happens.

    async def open_session(self) -> None:
        edge = self.draw_edge()
        self.sessions += 1
        session = Session(SessionId(f"s{self.sessions}"), self.draw(USERS), self.draw(PRECEDENCE))
        edge.sessions[session.session_id] = session
        edge.pending[session.session_id] = session.user_id

    async def change_session(self) -> None:
        edge = self.draw_edge()
        if edge.sessions:
            session = self.draw(list(edge.sessions.values()))
            edge.sessions[session.session_id] = Session(session.session_id, session.user_id, self.draw(PRECEDENCE))
            edge.pending[session.session_id] = session.user_id

    async def close_session(self) -> None:
        edge = self.draw_edge()
        if edge.sessions:
            session = edge.sessions.pop(self.draw(list(edge.sessions)))
            edge.pending[session.session_id] = session.user_id

    async def report(self) -> None:
        """Until it is taken."""
        edge = self.draw_edge()
        for _ in range(3):
            await self.service.run_through(self.send(edge))
            if not edge.pending and not edge.needs_full:
                return

    async def report_in_vain(self) -> None:
        """The edge waits no longer, but its call may go on."""
        edge = self.draw_edge()
        await self.run_some(self.send(edge))
        edge.gave_up()

    async def go_on(self) -> None:
        """One of the calls that had stopped."""
        if self.calls:
            await self.run_some(self.draw(list(self.calls)))

    async def time_passes(self) -> None:
        for _ in range(self.draw([1, 6, 16])):
            self.service.clock.advance(1)
            tick = await self.service.store.tick()
        if tick.is_settled:
            await self.run_some(self.start(self.service.sweeper.sweep(tick)))

    async def die(self) -> None:
        edge = self.draw_edge()
        edge.is_alive = False
        self.edges.append(Edge(EdgeId(f"edge-{len(self.edges)}")))
        if self.draw([True, False]):
            await self.run_some(self.start(self.service.reports.release(edge.edge_id)))

    async def lose_data(self) -> None:
        self.has_lost_data = True
        self.service.store.lose_everything()

    # How calls go on.

    def send(self, edge: Edge) -> "asyncio.Task[bool | None]":
        edge.gave_up()
        report = edge.next_report()
        call = edge.call = self.start(self.service.reports.take(report))

        def answered(_: object) -> None:
            if edge.call is call:
                edge.answered(call.result())

        call.add_done_callback(answered)
        return call

    async def run_some(self, call: "asyncio.Task[Any]") -> None:
        await self.service.run_some(call, self.draw([0, 1, 2, 3, 4, 99]))

    # The end.

    async def come_to_rest(self) -> None:
        while self.calls:
            await self.service.run_through(self.draw(list(self.calls)))
        self.service.gate.is_open = True
        for _ in range(80):
            self.service.clock.advance(1)
            for edge in self.edges:
                if edge.is_alive:
                    await self.service.run_through(self.send(edge))
            tick = await self.service.store.tick()
            if tick.is_settled:
                await self.service.sweeper.sweep(tick)
        await asyncio.sleep(0)

    async def check(self) -> None:
        seen = {each.user_id: each.status for each in await self.service.reads.get(USERS)}
        assert seen == {user_id: self.expected(user_id) for user_id in USERS}
        leases = {lease.edge_id for lease in (await self.service.store.tick()).leases}
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
        return choices[0] if len(choices) == 1 else self.data.draw(st.sampled_from(choices))

    def draw_edge(self) -> Edge:
        edge: Edge = self.draw([edge for edge in self.edges if edge.is_alive])
        return edge

    def start(self, work: Any) -> "asyncio.Task[bool | None]":
        async def quietly() -> Any:
            """None: it failed."""
            try:
                return await work
            except ServiceError:
                return None

        task = asyncio.get_running_loop().create_task(quietly())
        self.calls[task] = None
        task.add_done_callback(self.calls.pop)
        return task

    async def run(self) -> None:
        await self.service.store.start(self)
        await self.service.store.tick()
        for edge in self.edges:
            await self.service.run_through(self.send(edge))
        often = (self.open_session, self.close_session, self.report, self.report_in_vain, self.go_on)
        seldom = (self.change_session, self.time_passes, self.die, self.lose_data)
        actions = st.sampled_from([*often, *often, *seldom])
        for action in self.data.draw(st.lists(actions, min_size=6, max_size=40)):
            await action()
        await self.come_to_rest()
        await self.check()
        await self.service.close()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_at_rest_everybody_is_seen_as_the_edges_have_them(data: st.DataObject) -> None:
    asyncio.run(Scenario(data).run())
