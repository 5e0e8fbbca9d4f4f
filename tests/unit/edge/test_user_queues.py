"""What a connection is told of its user's own: refusals, notifications, and the presence of others."""

import json

import pytest

from edge.model import UserId
from edge.presence import Presence, PresenceStatus
from edge.stomp.frames import Version
from edge.user_queues import PresenceSubscription, QueueSubscription, presence_body

ALICE, BOB = UserId("alice"), UserId("bob")
ONLINE, BUSY, AWAY, OFFLINE = (
    PresenceStatus.ONLINE,
    PresenceStatus.BUSY,
    PresenceStatus.AWAY,
    PresenceStatus.OFFLINE,
)
AT_MS = 1_795_341_600_123


class Listener:
    """The session: `is_slow` when a test says so, and from its frame number `slow_at` on."""

    def __init__(self) -> None:
        self.is_slow = False
        self.slow_at: int | None = None
        self.frames: list[bytes] = []
        self.behind: list[PresenceSubscription] = []

    def push(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.is_slow = self.is_slow or len(self.frames) == self.slow_at

    def is_behind(self, subscription: PresenceSubscription) -> None:
        self.behind.append(subscription)

    def statuses(self) -> list[tuple[str, str]]:
        bodies = [json.loads(frame.partition(b"\n\n")[2].rstrip(b"\0")) for frame in self.frames]
        return [(body["userId"], body["status"]) for body in bodies]


@pytest.fixture
def listener() -> Listener:
    return Listener()


def headers(frame: bytes) -> dict[str, str]:
    head, _, _ = frame.decode().partition("\n\n")
    command, *lines = head.split("\n")
    assert command == "MESSAGE"
    return dict(line.split(":", 1) for line in lines)


def test_an_event_of_a_queue_is_a_message_with_everything_that_it_needs(listener: Listener) -> None:
    queue = QueueSubscription(listener, "sub 1", "/user/queue/notifications", Version.V1_2)
    queue.tell("g1-0000000007", b'{"event":"x"}')
    (frame,) = listener.frames
    assert frame.endswith(b'\n\n{"event":"x"}\0')
    assert headers(frame) == {
        "subscription": "sub 1",
        "message-id": "g1-0000000007",
        "destination": "/user/queue/notifications",
        "content-type": "application/json",
        "content-length": "13",
    }


def test_each_presence_is_an_event_with_an_id_of_its_own(listener: Listener) -> None:
    subscription = PresenceSubscription(listener, "p", Version.V1_2)
    subscription.presence([Presence(ALICE, ONLINE, AT_MS), Presence(BOB, OFFLINE)])
    subscription.presence([Presence(ALICE, BUSY, AT_MS)])
    assert listener.statuses() == [("alice", "online"), ("bob", "offline"), ("alice", "busy")]
    assert {headers(frame)["destination"] for frame in listener.frames} == {"/topic/presence"}
    assert len({headers(frame)["message-id"] for frame in listener.frames}) == 3


def test_the_body_is_that_of_the_wire() -> None:
    assert presence_body(Presence(ALICE, AWAY, AT_MS)) == {
        "event": "presence",
        "userId": "alice",
        "status": "away",
        "lastActiveAt": "2026-11-22T10:00:00.123Z",
    }
    assert presence_body(Presence(ALICE, AWAY))["lastActiveAt"] is None


def test_a_slow_client_is_told_the_last_state_of_each_when_it_has_caught_up(listener: Listener) -> None:
    subscription = PresenceSubscription(listener, "p", Version.V1_2)
    listener.is_slow = True
    subscription.presence([Presence(ALICE, ONLINE), Presence(BOB, ONLINE)])
    subscription.presence([Presence(ALICE, BUSY)])
    subscription.presence([Presence(ALICE, AWAY)])
    assert listener.frames == []
    assert listener.behind == [subscription]
    listener.is_slow = False
    subscription.catch_up()
    assert listener.statuses() == [("alice", "away"), ("bob", "online")]


def test_what_comes_before_it_has_caught_up_overtakes_nothing(listener: Listener) -> None:
    subscription = PresenceSubscription(listener, "p", Version.V1_2)
    listener.is_slow = True
    subscription.presence([Presence(ALICE, ONLINE)])
    listener.is_slow = False
    subscription.presence([Presence(ALICE, OFFLINE)])
    assert listener.frames == []
    subscription.catch_up()
    assert listener.statuses() == [("alice", "offline")]


def test_who_has_caught_up_is_told_at_once_again_and_may_fall_behind_again(listener: Listener) -> None:
    subscription = PresenceSubscription(listener, "p", Version.V1_2)
    listener.is_slow = True
    subscription.presence([Presence(ALICE, ONLINE)])
    listener.is_slow = False
    subscription.catch_up()
    subscription.catch_up()
    subscription.presence([Presence(ALICE, BUSY)])
    assert listener.statuses() == [("alice", "online"), ("alice", "busy")]
    listener.is_slow = True
    subscription.presence([Presence(ALICE, AWAY)])
    assert listener.behind == [subscription, subscription]


def test_many_at_once_are_told_as_far_as_the_client_keeps_up_and_the_rest_in_as_many_parts_as_it_takes(
    listener: Listener,
) -> None:
    subscription = PresenceSubscription(listener, "p", Version.V1_2)
    everybody = [(f"u{n}", "online") for n in range(5)]
    listener.slow_at = 2
    subscription.presence([Presence(UserId(user), ONLINE) for user, _ in everybody])
    assert listener.statuses() == everybody[:2]
    assert listener.behind == [subscription]
    listener.is_slow, listener.slow_at = False, 4
    subscription.catch_up()
    assert listener.statuses() == everybody[:4]
    assert listener.behind == [subscription, subscription]
    listener.is_slow = False
    subscription.catch_up()
    assert listener.statuses() == everybody
