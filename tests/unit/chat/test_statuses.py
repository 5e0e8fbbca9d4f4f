"""The status of a message: the least that any member but its sender has done with it."""

import pytest

from services.chat.conversations import _statuses
from services.chat.model import ConversationId, Message, Seq, UserId, Watermarks
from services.chat.store import Membership


def message(seq: int, sender: str) -> Message:
    return Message(ConversationId("gc"), Seq(seq), UserId(sender), f"k{seq}", "text", "text", 0)


def member(user: str, delivered: int, read: int) -> Membership:
    return Membership(UserId(user), Watermarks(Seq(delivered), Seq(read)), muted=False)


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        ("alice", ["seen", "delivered", "delivered", "sent"]),  # bob and carol count
        ("bob", ["seen", "seen", "delivered", "delivered"]),  # alice and carol count
        ("gone", ["seen", "delivered", "delivered", "sent"]),  # a sender who has left: all count
    ],
)
def test_a_sender_does_not_count_for_his_own_messages(sender: str, expected: list[str]) -> None:
    members = [member("alice", 4, 4), member("bob", 3, 1), member("carol", 4, 2)]
    assert _statuses([message(seq, sender) for seq in (1, 2, 3, 4)], members) == expected


def test_alone_nobody_has_received_anything() -> None:
    assert _statuses([message(1, "alice")], [member("alice", 1, 1)]) == ["sent"]
