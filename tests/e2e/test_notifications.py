"""Who hears of a message without watching its conversation: by a notification, by a push, or not at all.

Where something must not come, a later message is waited for that comes the same way.
"""

import asyncio

from tests.e2e.api import Json
from tests.e2e.expect import assert_is_refusal
from tests.e2e.people import Person, join_all, register_browser
from tests.e2e.waiting import eventually
from tests.e2e.world import NOTIFICATIONS, World
from tests.support.push_services import WebPushService


async def listening(*people: Person) -> None:
    await asyncio.gather(*(person.listen(NOTIFICATIONS) for person in people))


def pushed(browsers: WebPushService, user_id: str) -> list[tuple[int, int]]:
    """Seq and unread count of every message pushed to the user, in order of seq."""
    bodies = [push.body for push in browsers.accepted_by(user_id) if push.body["event"] == "message"]
    return sorted((body["seq"], body["unreadCount"]) for body in bodies)


async def test_each_connection_that_does_not_watch_gets_one_notification_for_each_message(
    world: World, browsers: WebPushService
) -> None:
    ann, ben, cyd, dan, erin, fay = await world.users(6)
    conversation = await world.group(ann, ben, cyd, dan, erin, fay)
    unwatched = await world.group(ann, ben, cyd, dan, fay)
    await register_browser(world, browsers, erin)
    speaker, ben_watching, ben_beside, cyd_watching, dan_elsewhere, fay_watching, fay_elsewhere = await join_all(
        world, (ann, 0), (ben, 0), (ben, 0), (cyd, 1), (dan, 0), (fay, 0), (fay, 1)
    )
    watching, others = (ben_watching, cyd_watching, fay_watching), (ben_beside, dan_elsewhere, fay_elsewhere)
    await listening(speaker, *watching, *others)
    await asyncio.gather(*(person.watch(conversation) for person in watching))

    said = [await speaker.say(conversation, text) for text in ("one", "two", "x" * 1_000)]

    for person in others:
        for sent, preview in zip(said, ("one", "two", "x" * 200), strict=True):
            assert await person.hears("notification", conversationId=conversation, seq=sent.seq) == {
                "event": "notification",
                "conversationId": conversation,
                "messageId": sent.message_id,
                "seq": sent.seq,
                "senderId": ann.user_id,
                "preview": preview,
                "unreadCount": sent.seq,
            }
    await speaker.say(unwatched, "everybody hears of this one")
    for person in (*watching, *others):
        await person.hears("notification", conversationId=unwatched)
    # Erin's pushes are of the moment at which the others would be told again.
    await eventually(lambda: len(pushed(browsers, erin.user_id)) == 3, what="Erin's pushes")
    for person in watching:
        assert not person.heard("notification", conversationId=conversation)
    for person in others:
        assert len(person.heard("notification", conversationId=conversation)) == 3
    assert not speaker.heard("notification")


async def test_reading_is_told_to_every_connection_of_the_reader_with_what_is_left(world: World) -> None:
    ann, ben, cyd = await world.users(3)
    conversation = await world.group(ann, ben, cyd)
    speaker, ben_here, ben_there, cyd_watching = await join_all(world, (ann, 0), (ben, 0), (ben, 1), (cyd, 1))
    await listening(ben_here, ben_there, cyd_watching)
    await speaker.watch(conversation)
    await cyd_watching.watch(conversation)
    said = [await speaker.say(conversation, text) for text in ("one", "two", "three")]

    async def is_told(person: Person, *, left: int, read: int) -> None:
        assert await person.hears("unread", readSeq=read) == {
            "event": "unread",
            "conversationId": conversation,
            "unreadCount": left,
            "readSeq": read,
        }

    await ben_here.read(conversation, said[0].message_id)
    await is_told(ben_there, left=2, read=1)
    assert (await world.api(1).view(ben, conversation))["unreadCount"] == 2

    await world.api().read(ben, conversation, said[2].message_id)
    await is_told(ben_there, left=0, read=3)
    await is_told(ben_here, left=0, read=3)
    assert (await world.api(1).view(ben, conversation))["unreadCount"] == 0

    # Cyd watches on the only connection that he has: nobody has to notify him, and he is told all the same.
    for seq in (1, 2):
        await world.api().read(cyd, conversation, said[seq - 1].message_id)
        await is_told(cyd_watching, left=3 - seq, read=seq)
    for reader, seq in ((ben, 1), (ben, 3), (cyd, 1), (cyd, 2)):
        await speaker.hears("status", userId=reader.user_id, status="seen", seq=seq)


async def test_muted_conversation_notifies_nobody_until_it_is_unmuted(world: World) -> None:
    ann, ben = await world.users(2)
    conversation, other = await world.group(ann, ben), await world.group(ann, ben)
    speaker, listener = await join_all(world, (ann, 0), (ben, 1))
    await listening(listener)

    async def mute(method: str) -> None:
        path = f"/conversations/{conversation}/mute"
        (await world.api().call(method, path, token=ben.token)).must_be(204)
        (await world.api().call(method, path, token=ben.token)).must_be(204)

    async def is_muted() -> list[bool]:
        return [(await world.api(1).view(user, conversation))["muted"] for user in (ann, ben)]

    assert await is_muted() == [False, False]
    await mute("PUT")
    assert await is_muted() == [False, True]
    await speaker.say(conversation, "unheard")
    await speaker.say(other, "heard")
    await listener.hears("notification", conversationId=other)
    await mute("DELETE")
    assert await is_muted() == [False, False]
    await speaker.say(conversation, "heard again")
    await listener.hears("notification", conversationId=conversation, seq=2, unreadCount=2)
    assert len(listener.heard("notification", conversationId=conversation)) == 1


async def test_conversation_of_others_cannot_be_muted(world: World) -> None:
    ann, ben = await world.users(2)
    conversation = await world.group(ann)
    answer = await world.api().call("PUT", f"/conversations/{conversation}/mute", token=ben.token)
    assert_is_refusal(answer, "FORBIDDEN")


async def test_whoever_is_offline_and_has_not_read_is_pushed_to_once_and_nobody_else(
    world: World, browsers: WebPushService
) -> None:
    ann, absent, reader, muted, online = await world.users(5)
    everybody = (ann, absent, reader, muted, online)
    conversation = await world.group(*everybody)
    await asyncio.gather(*(register_browser(world, browsers, user) for user in everybody))
    mute = f"/conversations/{conversation}/mute"
    (await world.api().call("PUT", mute, token=muted.token)).must_be(204)
    (listener,) = await join_all(world, (online, 1))
    await listening(listener)

    first = (await world.api().send(ann, conversation, "read at once by one of you")).must_be(201)
    await world.api(1).read(reader, conversation, first["messageId"])
    await listener.hears("notification", seq=1)
    second = (await world.api().send(ann, conversation, "x" * 1_000)).must_be(201)

    await eventually(lambda: pushed(browsers, absent.user_id) == [(1, 1), (2, 2)], what="the pushes of the absent")
    await eventually(lambda: pushed(browsers, reader.user_id) == [(2, 1)], what="the push of the reader")
    latest = max((push.body for push in browsers.accepted_by(absent.user_id)), key=_seq)
    assert (latest["messageId"], latest["senderId"]) == (second["messageId"], ann.user_id)
    assert latest["preview"] == "x" * 200
    await listener.hears("notification", seq=2)

    # A third round comes after whatever the first two might still do.
    await world.api().send(ann, conversation, "three")
    await eventually(lambda: pushed(browsers, absent.user_id)[2:] == [(3, 3)], what="the third push")
    await eventually(lambda: pushed(browsers, reader.user_id) == [(2, 1), (3, 2)])
    for nobody in (ann, muted, online):
        assert not browsers.accepted_by(nobody.user_id)
    assert len(listener.heard("notification")) == 3


def _seq(body: Json) -> int:
    return int(body["seq"])
