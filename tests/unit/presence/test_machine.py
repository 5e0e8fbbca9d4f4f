"""The rules of presence: one table, and what holds for every sequence of events."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.presence.machine import (
    ABSENT,
    FINAL_SEQ,
    Closed,
    EdgeGone,
    Event,
    Held,
    Lingering,
    Listed,
    Put,
    TimePassed,
    UserState,
    Verdict,
    admit,
    has_been_unattended,
    run,
    shown,
    standing,
    step,
)
from services.presence.model import EdgeId, Seq, SessionId, Status

GRACE_MS = 5_000
NOW = 1_000_000
EDGES = [EdgeId("e1"), EdgeId("e2")]
E1, E2 = EDGES
# A session belongs to one edge for ever.
SESSIONS = {SessionId(f"s{number}"): EDGES[number % 2] for number in range(6)}
S0, S1, S2, *_ = SESSIONS
OF_SESSIONS = (Status.ONLINE, Status.AWAY, Status.BUSY)


def present(**statuses: Status) -> UserState:
    return UserState({SessionId(each): Held(SESSIONS[SessionId(each)], status) for each, status in statuses.items()})


def lingering(status: Status, until_ms: int) -> UserState:
    return UserState(lingers=Lingering(status, until_ms))


def stepped(state: UserState, event: Event, now_ms: int = NOW) -> UserState:
    return step(state, event, now_ms, grace_ms=GRACE_MS)


ONLINE_TILL_LATER = lingering(Status.ONLINE, NOW + 1)


@pytest.mark.parametrize(
    ("state", "event", "expected"),
    [
        (ABSENT, Put(S0, E1, Status.AWAY), present(s0=Status.AWAY)),
        (ABSENT, Closed(S0), ABSENT),
        (ABSENT, EdgeGone(E1, NOW), ABSENT),
        (ABSENT, Listed(E1, {}), ABSENT),
        (ABSENT, TimePassed(), ABSENT),
        (present(s0=Status.ONLINE), Put(S0, E1, Status.BUSY), present(s0=Status.BUSY)),
        (
            present(s0=Status.ONLINE),
            Put(S1, E2, Status.BUSY),
            present(s0=Status.ONLINE, s1=Status.BUSY),
        ),
        (present(s0=Status.ONLINE, s1=Status.BUSY), Closed(S1), present(s0=Status.ONLINE)),
        (present(s0=Status.BUSY), Closed(S0), lingering(Status.BUSY, NOW + GRACE_MS)),
        (present(s0=Status.BUSY), Closed(S1), present(s0=Status.BUSY)),
        (present(s0=Status.ONLINE, s1=Status.AWAY), EdgeGone(E1, NOW), present(s1=Status.AWAY)),
        # The grace counts from when the edge was last heard of, not from when it was missed; and never from the future.
        (present(s0=Status.AWAY), EdgeGone(E1, NOW - 700), lingering(Status.AWAY, NOW - 700 + GRACE_MS)),
        (present(s0=Status.AWAY), EdgeGone(E1, NOW + 700), lingering(Status.AWAY, NOW + GRACE_MS)),
        (
            present(s0=Status.ONLINE, s1=Status.BUSY, s2=Status.AWAY),
            Listed(E1, {S2: Status.ONLINE}),
            present(s1=Status.BUSY, s2=Status.ONLINE),
        ),
        (present(s0=Status.ONLINE), Listed(E1, {}), lingering(Status.ONLINE, NOW + GRACE_MS)),
        (present(s0=Status.ONLINE), TimePassed(), present(s0=Status.ONLINE)),
        (ONLINE_TILL_LATER, Put(S1, E2, Status.AWAY), present(s1=Status.AWAY)),
        (ONLINE_TILL_LATER, Closed(S0), ONLINE_TILL_LATER),
        (ONLINE_TILL_LATER, EdgeGone(E1, NOW), ONLINE_TILL_LATER),
        (ONLINE_TILL_LATER, TimePassed(), ONLINE_TILL_LATER),
        (lingering(Status.ONLINE, NOW), TimePassed(), ABSENT),
        (lingering(Status.ONLINE, NOW), Closed(S0), lingering(Status.ONLINE, NOW)),
        # The clock went back by more than a grace: nobody waits for that.
        (lingering(Status.ONLINE, NOW + GRACE_MS + 1), TimePassed(), ABSENT),
    ],
)
def test_each_event_leads_from_each_phase_where_the_table_says(
    state: UserState, event: Event, expected: UserState
) -> None:
    assert stepped(state, event) == expected


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ({Status.AWAY}, Status.AWAY),
        ({Status.ONLINE, Status.AWAY}, Status.ONLINE),
        ({Status.ONLINE, Status.BUSY}, Status.BUSY),
        ({Status.AWAY, Status.BUSY}, Status.BUSY),
        ({Status.AWAY, Status.ONLINE, Status.BUSY}, Status.BUSY),
    ],
)
def test_several_sessions_add_up_to_the_most_present_one(statuses: set[Status], expected: Status) -> None:
    state = UserState({SessionId(f"of {status}"): Held(E1, status) for status in statuses})
    assert standing(state) is expected
    assert shown(state, NOW, is_settled=True, grace_ms=GRACE_MS) is expected


@pytest.mark.parametrize(
    ("state", "is_settled", "expected"),
    [
        (ABSENT, True, Status.OFFLINE),
        (ABSENT, False, Status.UNKNOWN),
        (ONLINE_TILL_LATER, True, Status.ONLINE),
        (ONLINE_TILL_LATER, False, Status.ONLINE),
        (lingering(Status.BUSY, NOW), True, Status.OFFLINE),
        (lingering(Status.BUSY, NOW), False, Status.UNKNOWN),
        (present(s0=Status.AWAY), False, Status.AWAY),
    ],
)
def test_nobody_is_called_offline_before_the_store_has_settled(
    state: UserState, is_settled: bool, expected: Status
) -> None:
    assert shown(state, NOW, is_settled=is_settled, grace_ms=GRACE_MS) is expected


def test_nothing_is_announced_when_a_grace_begins_only_when_it_ends() -> None:
    before = present(s0=Status.AWAY)
    left = stepped(before, Closed(S0))
    assert standing(left) is standing(before)
    assert standing(stepped(left, TimePassed(), NOW + GRACE_MS)) is Status.OFFLINE


# ---- Every sequence of events.

statuses = st.sampled_from(OF_SESSIONS)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(lambda session, status: Put(session, SESSIONS[session], status), st.sampled_from([*SESSIONS]), statuses),
    st.builds(Closed, st.sampled_from([*SESSIONS])),
    st.sampled_from(EDGES).flatmap(
        lambda edge: st.builds(
            Listed,
            st.just(edge),
            st.dictionaries(st.sampled_from([each for each, on in SESSIONS.items() if on == edge]), statuses),
        )
    ),
    st.builds(EdgeGone, st.sampled_from(EDGES), st.integers(NOW - 60_000, NOW)),
    st.just(TimePassed()),
)
histories = st.lists(events, max_size=20)


def naive(history: Sequence[Event]) -> Mapping[SessionId, Status]:
    """Which sessions are there after that, by a second and simpler hand."""
    there: dict[SessionId, Status] = {}
    for event in history:
        match event:
            case Put(session, _, status):
                there[session] = status
            case Closed(session):
                there.pop(session, None)
            case Listed(edge, listed):
                there = {each: status for each, status in there.items() if SESSIONS[each] != edge} | dict(listed)
            case EdgeGone(edge):
                there = {each: status for each, status in there.items() if SESSIONS[each] != edge}
            case TimePassed():
                pass
    return there


@given(histories)
def test_sessions_are_those_that_were_put_and_not_ended_since(history: list[Event]) -> None:
    state = run(ABSENT, history, NOW, grace_ms=GRACE_MS)
    assert {each: held.status for each, held in state.sessions.items()} == naive(history)
    assert all(held.edge_id == SESSIONS[each] for each, held in state.sessions.items())
    assert not (state.sessions and state.lingers)


@given(histories, events)
def test_an_event_that_comes_twice_changes_nothing(history: list[Event], event: Event) -> None:
    once = run(ABSENT, [*history, event], NOW, grace_ms=GRACE_MS)
    assert stepped(once, event) is once


@given(histories, st.data())
def test_events_of_different_edges_commute(history: list[Event], data: st.DataObject) -> None:
    """Each edge's events keep their order; how those of the two are mixed does not matter at rest."""

    def edge_of(event: Event) -> EdgeId | None:
        match event:
            case Put(session, _, _) | Closed(session):
                return SESSIONS[session]
            case Listed(edge, _) | EdgeGone(edge, _):
                return edge
            case TimePassed():
                return None

    queues = [[event for event in history if edge_of(event) == edge] for edge in EDGES]
    mixed: list[Event] = []
    left = [list(queue) for queue in queues]
    while any(left):
        source = data.draw(st.sampled_from([queue for queue in left if queue]))
        mixed.append(source.pop(0))
    at_rest = [
        run(run(ABSENT, order, NOW, grace_ms=GRACE_MS), [TimePassed()], NOW + GRACE_MS, grace_ms=GRACE_MS)
        for order in ([*queues[0], *queues[1]], mixed)
    ]
    assert at_rest[0] == at_rest[1]


@given(histories)
def test_everybody_without_a_session_is_absent_one_grace_later(history: list[Event]) -> None:
    state = run(ABSENT, history, NOW, grace_ms=GRACE_MS)
    later = step(state, TimePassed(), NOW + GRACE_MS, grace_ms=GRACE_MS)
    assert (later == ABSENT) == (not naive(history))
    assert standing(later) is shown(later, NOW + GRACE_MS, is_settled=True, grace_ms=GRACE_MS)


# ---- Reports.


@pytest.mark.parametrize(
    ("last", "seq", "is_alive", "is_full", "verdict"),
    [
        (None, 1, False, False, Verdict.NEEDS_FULL),
        (None, 1, False, True, Verdict.TAKEN),
        (3, 4, True, False, Verdict.TAKEN),
        (3, 3, True, False, Verdict.TAKEN),  # the same one again: a part of it may be missing
        (3, 2, True, False, Verdict.SUPERSEDED),
        (3, 2, True, True, Verdict.SUPERSEDED),
        (3, 4, False, False, Verdict.NEEDS_FULL),
        (3, 4, False, True, Verdict.TAKEN),
        (FINAL_SEQ, 1 << 51, False, True, Verdict.SUPERSEDED),
    ],
)
def test_a_report_is_taken_only_under_its_lease_and_never_after_a_later_one(
    last: int | None, seq: int, is_alive: bool, is_full: bool, verdict: Verdict
) -> None:
    last_seq = None if last is None else Seq(last)
    assert admit(last_seq, Seq(seq), is_alive=is_alive, is_full=is_full) is verdict


@pytest.mark.parametrize(
    ("last_ms", "expected"),
    [(None, True), (NOW, False), (NOW - 100, False), (NOW - 101, True), (NOW + 1, True)],
)
def test_a_pause_of_all_replicas_and_a_clock_that_jumped_count_as_unattended(
    last_ms: int | None, expected: bool
) -> None:
    assert has_been_unattended(last_ms, NOW, gap_ms=100) is expected
