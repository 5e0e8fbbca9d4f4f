"""The whole flow of one message between two people, step by step, each looked up where it leaves its mark.

1  Ann sends over STOMP                       8  Ben gets it
2  the edge routes it to chat                 9  Ben reads it, and says so
3  checked, numbered, stored                 10  stored as seen; his last read remembered
4  the conversation's last message           11  Ann is told that it is seen
5  Ann's last activity                       12  Ben is offline: a job, a push that his browser decrypts
6  broadcast to the conversation             13  the conversation's unread count
7  Ann gets it: that confirms "sent"         14  presence held, and told on /topic/presence
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import datetime

import pytest

from tests.e2e.evidence import Evidence, StoredMessage, Watermarks, evidence_of
from tests.e2e.expect import assert_is_message_frame, assert_is_refusal, assert_is_time
from tests.e2e.frames import a, an_event
from tests.e2e.people import join, register_browser
from tests.e2e.waiting import eventually
from tests.e2e.world import NOTIFICATIONS, PRESENCE, World
from tests.support.push_services import WebPushService

FIRST = "Hello Ben – 👋🏽 are you there?"
SECOND = "I will write to you, then"


@pytest.fixture
async def evidence(world: World) -> AsyncIterator[Evidence]:
    async with evidence_of(world) as found:
        yield found


async def test_message_goes_through_every_step_of_the_core_message_flow(
    world: World, browsers: WebPushService, evidence: Evidence
) -> None:
    ann, ben, stranger = await world.users(3)
    conversation = await world.direct(ann, ben)
    await register_browser(world, browsers, ben)
    at_ann, at_ben = await asyncio.gather(join(world, ann, edge=0), join(world, ben, edge=1))
    await at_ben.listen(PRESENCE)
    await at_ann.listen(PRESENCE)
    await at_ben.listen(NOTIFICATIONS)
    await at_ben.watch(conversation)
    await at_ann.watch(conversation)

    # 14, the first part: who is connected is online, in the store and to the other.
    await at_ben.sees(ann, "online")
    await at_ann.sees(ben, "online")
    assert await evidence.find_status(ann) == "online"
    assert await evidence.find_status(ben) == "online"

    # 1 to 3. The RECEIPT says that it is stored: it is looked for once. Others' messages are not let in.
    first = await at_ann.say(conversation, FIRST)
    assert first.seq == 1
    assert await evidence.find_message(conversation, 1) == StoredMessage(conversation, 1, ann.user_id, FIRST)
    assert_is_refusal(await world.api().send(stranger, conversation, "me too"), "FORBIDDEN")

    # 6 to 8. One broadcast reaches both, each on an edge of his own.
    confirmed = await at_ann.client.inbox.take(an_event("message"))
    arrived = await at_ben.client.inbox.take(an_event("message"))
    for frame in (confirmed, arrived):
        assert_is_message_frame(
            frame, subscription="conversation", conversation=conversation, sender=ann.user_id, content=FIRST, seq=1
        )
        assert frame.headers["message-id"] == first.message_id
    sent_at = datetime.fromisoformat(confirmed.json()["sentAt"])

    # 4 and 5. After the answer, in batches.
    await eventually(lambda: holds(evidence.find_last_seq(conversation), 1), what="the conversation's last message")

    async def ann_was_active() -> bool:
        at = await evidence.find_last_active(ann)
        return at is not None and at >= sent_at

    await eventually(ann_was_active, what="Ann's last activity")

    # Delivered comes by itself, as Ben's subscription is ack:auto.
    delivered = await at_ann.hears("status", userId=ben.user_id, status="delivered")
    assert (delivered["messageId"], delivered["seq"]) == (first.message_id, 1)
    assert await evidence.find_watermarks(conversation, ben) == Watermarks(delivered=1, read=0)
    assert (await world.api().view(ben, conversation))["unreadCount"] == 1

    # 9 and 10. That RECEIPT, too, says that it is stored.
    await at_ben.read(conversation, first.message_id)
    assert await evidence.find_watermarks(conversation, ben) == Watermarks(delivered=1, read=1)
    assert [each["status"] for each in await world.api().history(ann, conversation)] == ["seen"]
    await eventually(lambda: holds(evidence.find_last_read(conversation, ben), 1), what="Ben's last read")

    # 11.
    seen = await at_ann.hears("status", userId=ben.user_id, status="seen")
    assert (seen["conversationId"], seen["messageId"], seen["seq"]) == (conversation, first.message_id, 1)
    assert_is_time(seen["at"])

    # 14. What Ann does is told to Ben.
    await at_ann.tell("/app/presence.set", status="busy")
    busy = await at_ben.sees(ann, "busy")
    assert datetime.fromisoformat(busy["lastActiveAt"]) >= sent_at
    assert await evidence.find_status(ann) == "busy"

    # 12. Ben goes; the message after that is pushed to his browser, and nothing else ever was.
    await at_ben.client.disconnect()
    await at_ann.sees(ben, "offline")
    assert await evidence.find_status(ben) == "offline"
    second = await at_ann.say(conversation, SECOND)
    await eventually(lambda: browsers.accepted_by(ben.user_id), what="the push")
    assert await evidence.find_notified(conversation, 2) == [ben.user_id]
    (push,) = browsers.accepted_by(ben.user_id)
    assert push.body == {
        "event": "message",
        "tag": second.message_id,
        "conversationId": conversation,
        "messageId": second.message_id,
        "seq": 2,
        "senderId": ann.user_id,
        "preview": SECOND,
        "unreadCount": 1,
    }
    assert not at_ben.heard("notification"), "he saw the first message arrive"

    # 13. Unread is what lies between the head and what he has read.
    view = await world.api().view(ben, conversation)
    assert (view["headSeq"], view["readSeq"], view["unreadCount"]) == (2, 1, 1)
    assert view["lastMessage"]["messageId"] == second.message_id
    assert await evidence.find_watermarks(conversation, ben) == Watermarks(delivered=1, read=1)
    assert (await world.api().view(ann, conversation))["unreadCount"] == 0

    # And around again: he comes back, gets what he missed, reads it; his browser takes the push away.
    back = await join(world, ben, edge=0)
    await back.listen(PRESENCE)
    await back.sees(ann, "busy")
    await back.client.subscribe(f"/topic/conversation.{conversation}", "conversation", {"x-after-seq": "1"})
    missed = await back.client.inbox.take(a("MESSAGE", subscription="conversation"))
    assert missed.json()["content"] == SECOND
    await back.read(conversation, second.message_id)
    await at_ann.hears("status", userId=ben.user_id, status="seen", seq=2)
    await eventually(lambda: len(browsers.accepted_by(ben.user_id)) == 2, what="the silent update")
    taken_away = browsers.accepted_by(ben.user_id)[1].body
    assert taken_away == {"event": "read", "conversationId": conversation, "readSeq": 2, "unreadCount": 0}
    assert not browsers.accepted_by(ann.user_id)


async def holds(asked: Awaitable[object], wanted: object) -> bool:
    """Whether that is the answer by now."""
    return await asked == wanted
