"""How far a message has come: by itself, by ACK, by SEND; and never back again. And who is typing."""

import pytest

from tests.e2e.expect import assert_is_error, assert_is_time
from tests.e2e.frames import an_event
from tests.e2e.people import Person, Sent, join_all
from tests.e2e.world import ERRORS, World


def statuses(observer: Person, reader: Person) -> list[tuple[str, int]]:
    """Everything that the observer has ever been told of the reader, in order."""
    return [(each["status"], each["seq"]) for each in observer.heard("status", userId=reader.id)]


async def shown(world: World, observer: Person, conversation: str) -> list[str]:
    """The status of each message in history."""
    return [message["status"] for message in await world.api().history(observer.user, conversation)]


async def told(observer: Person, reader: Person, status: str, sent: Sent, conversation: str) -> None:
    event = await observer.hears("status", userId=reader.id, seq=sent.seq, status=status)
    assert event["conversationId"] == conversation
    assert event["messageId"] == sent.message_id
    assert_is_time(event["at"])


async def test_message_written_out_to_an_auto_subscription_is_delivered(world: World) -> None:
    ann, ben = await world.users(2)
    conversation = await world.group(ann, ben)
    speaker, listener = await join_all(world, (ann, 0), (ben, 1))
    await speaker.watch(conversation)
    await listener.watch(conversation)
    sent = await speaker.say(conversation, "one")
    await told(speaker, listener, "delivered", sent, conversation)
    assert await shown(world, speaker, conversation) == ["delivered"]
    assert not statuses(speaker, speaker), "nobody delivers to himself"


@pytest.mark.parametrize("ack", ["client", "client-individual"])
async def test_message_is_delivered_once_it_is_acknowledged_and_not_before(world: World, ack: str) -> None:
    ann, ben = await world.users(2)
    conversation = await world.group(ann, ben)
    speaker, listener = await join_all(world, (ann, 0), (ben, 1))
    await speaker.watch(conversation)
    await listener.watch(conversation, ack=ack)
    said = [await speaker.say(conversation, text) for text in ("one", "two", "three")]
    arrived = [await listener.client.inbox.take(an_event("message", seq=sent.seq)) for sent in said]
    await listener.client.acknowledge(arrived[1])
    await told(speaker, listener, "delivered", said[1], conversation)
    assert await shown(world, speaker, conversation) == ["delivered", "delivered", "sent"]
    await listener.client.acknowledge(arrived[2])
    await told(speaker, listener, "delivered", said[2], conversation)
    assert statuses(speaker, listener) == [("delivered", 2), ("delivered", 3)]


async def test_client_says_itself_what_is_delivered_and_what_is_read(world: World) -> None:
    ann, ben = await world.users(2)
    conversation = await world.group(ann, ben)
    speaker, reader = await join_all(world, (ann, 0), (ben, 1))
    await speaker.watch(conversation)
    said = [await speaker.say(conversation, text) for text in ("one", "two")]
    await reader.tell("/app/chat.delivered", conversationId=conversation, messageId=said[1].message_id)
    await told(speaker, reader, "delivered", said[1], conversation)
    await reader.read(conversation, said[0].message_id)
    await told(speaker, reader, "seen", said[0], conversation)
    assert await shown(world, speaker, conversation) == ["seen", "delivered"]


async def test_status_never_goes_back(world: World) -> None:
    ann, ben = await world.users(2)
    conversation = await world.group(ann, ben)
    speaker, here, there = await join_all(world, (ann, 0), (ben, 0), (ben, 1))
    await speaker.watch(conversation)
    said = [await speaker.say(conversation, text) for text in ("one", "two", "three")]
    await here.read(conversation, said[2].message_id)
    for late in (here, there):
        for sent in said:
            await late.tell("/app/chat.delivered", conversationId=conversation, messageId=sent.message_id)
            await late.read(conversation, sent.message_id)
            assert await shown(world, speaker, conversation) == ["seen"] * 3
    assert (await world.api(1).view(ben, conversation))["readSeq"] == 3
    last = await speaker.say(conversation, "four")
    await there.read(conversation, last.message_id)
    await told(speaker, here, "seen", last, conversation)
    seen = 0
    for status, seq in statuses(speaker, here):
        assert seq > seen, "what has been seen is told once, and nothing less of it afterwards"
        seen = seq if status == "seen" else seen


async def test_typing_is_told_to_the_others_and_kept_nowhere(world: World) -> None:
    ann, ben, cyd, stranger = await world.users(4)
    conversation = await world.group(ann, ben, cyd)
    typist, typist_elsewhere, ben_there, cyd_here, outside = await join_all(
        world, (ann, 0), (ann, 1), (ben, 1), (cyd, 0), (stranger, 0)
    )
    for person in (typist, typist_elsewhere, ben_there, cyd_here):
        await person.watch(conversation)
    await outside.listen(ERRORS)
    for typing in (True, False):
        await typist.tell("/app/chat.typing", conversationId=conversation, typing=typing)
        for other in (ben_there, cyd_here):
            assert await other.hears("typing", typing=typing) == {
                "event": "typing",
                "conversationId": conversation,
                "userId": ann.user_id,
                "typing": typing,
            }
    refusal = await outside.is_refused("/app/chat.typing", conversationId=conversation, typing=True)
    assert_is_error(refusal, "FORBIDDEN")
    await ben_there.say(conversation, "you were about to say?")
    for person in (typist, typist_elsewhere, ben_there, cyd_here):
        await person.hears("message", seq=1)
        assert len(person.heard("typing")) == (0 if person.id == ann.user_id else 2)
    assert len(await world.api().history(ben, conversation)) == 1
