"""Who is there: told to those who share a conversation, and to nobody else."""

import asyncio
import time

from tests.e2e.expect import assert_is_refusal, assert_is_time
from tests.e2e.people import Person, join, join_all
from tests.e2e.waiting import eventually
from tests.e2e.world import PRESENCE, World

FORGOTTEN_S = 4.0
"""How soon after the last conversation that two people share nothing more is told of one to the other: well under a
second on an idle machine, and this one is not."""


async def becomes(person: Person, status: str) -> None:
    await person.tell("/app/presence.set", status=status)


def told_of(listener: Person, other: Person) -> list[str]:
    """Every status of the other that the listener was ever told, in order."""
    return [each["status"] for each in listener.heard("presence", userId=other.id)]


async def test_contact_is_shown_first_as_he_is_and_then_as_he_changes(world: World) -> None:
    ann, ben = await world.users(2)
    await world.group(ann, ben)
    at_ann = await join(world, ann, edge=0)
    await becomes(at_ann, "away")

    async def is_away() -> bool:
        return [each["status"] for each in await world.api(1).presence(ben, ann.user_id)] == ["away"]

    await eventually(is_away)
    at_ben = await join(world, ben, edge=1)
    await at_ben.listen(PRESENCE)
    snapshot = await at_ben.hears("presence", userId=ann.user_id)
    assert snapshot["status"] == "away"
    assert_is_time(snapshot["lastActiveAt"])
    for status in ("busy", "online"):
        await becomes(at_ann, status)
        await at_ben.sees(ann, status)
    assert told_of(at_ben, at_ann) == ["away", "busy", "online"]


async def test_user_is_online_until_the_last_connection_ends(world: World) -> None:
    ann, ben, cyd = await world.users(3)
    await world.group(ann, ben, cyd)
    at_ben, here, there, at_cyd = await join_all(world, (ben, 1), (ann, 0), (ann, 1), (cyd, 0))
    await at_ben.listen(PRESENCE)
    for user in (ann, cyd):
        await at_ben.sees(user, "online")
    before = told_of(at_ben, there)
    await here.client.disconnect()
    await at_cyd.client.disconnect()
    # Cyd left the same edge later, and his grace is over: so would Ann's be.
    await at_ben.sees(cyd, "offline")
    assert told_of(at_ben, there) == before
    await there.client.disconnect()
    await at_ben.sees(ann, "offline")
    assert told_of(at_ben, there) == [*before, "offline"]


async def test_nobody_is_told_of_somebody_with_whom_he_shares_nothing(world: World) -> None:
    ann, ben, stranger = await world.users(3)
    await world.group(ann, ben)
    await world.group(stranger)
    at_ann, at_ben, at_stranger, ann_elsewhere = await join_all(world, (ann, 0), (ben, 1), (stranger, 1), (ann, 0))
    for person in (at_ben, at_stranger, ann_elsewhere):
        await person.listen(PRESENCE)
    await becomes(at_ann, "busy")
    await at_ben.sees(ann, "busy")
    # Ben's edge is the stranger's: it knows of Ann's change, and what it tells the stranger comes before this receipt.
    await becomes(at_stranger, "busy")
    assert not at_stranger.heard("presence")
    assert not at_ben.heard("presence", userId=stranger.user_id)
    for asking, seen in ((ben, [ann, ben]), (stranger, [stranger])):
        everybody = await world.api(1).presence(asking, *(user.user_id for user in (ann, ben, stranger)))
        assert [each["userId"] for each in everybody] == [user.user_id for user in seen]


async def test_presence_ends_with_the_last_shared_conversation_and_begins_with_a_new_one(world: World) -> None:
    ann, ben, cyd = await world.users(3)
    shared, shared_too = await world.group(ann, ben, cyd), await world.group(ben, ann)
    at_ann, at_ben, at_cyd = await join_all(world, (ann, 0), (ben, 1), (cyd, 1))
    for person in (at_ben, at_cyd):
        await person.listen(PRESENCE)
        await person.sees(ann, "online")

    async def is_told(status: str) -> bool:
        """Whether Ben is told of what Ann becomes. Cyd, on his edge, always is."""
        before = len(told_of(at_ben, at_ann))
        await becomes(at_ann, status)
        await at_cyd.sees(ann, status)
        await becomes(at_ben, "online")  # whatever he is told comes before this receipt
        return len(told_of(at_ben, at_ann)) > before

    (await world.api().remove_member(ann, shared, ben.user_id)).must_be(200, 204)
    assert await is_told("busy"), "they still share a conversation"
    (await world.api().remove_member(ben, shared_too, ann.user_id)).must_be(200, 204)
    ended = time.monotonic()
    assert await world.api(1).presence(ben, ann.user_id) == []
    status = "online"
    while await is_told(status):
        assert time.monotonic() - ended < FORGOTTEN_S, "Ben is still told of Ann"
        status = "busy" if status == "online" else "online"
    assert not await is_told("away")

    await world.group(ann, ben)
    await at_ben.sees(ann, "away")
    assert await is_told("online")


async def test_presence_is_read_only_of_those_whom_the_caller_may_see(world: World) -> None:
    ann, ben, stranger = await world.users(3)
    await world.group(ann, ben)
    await asyncio.gather(join(world, ann), join(world, stranger))
    ids = [user.user_id for user in (ann, ben, stranger)]

    async def is_ann_online() -> bool:
        return [each["status"] for each in await world.api(1).presence(ben, ann.user_id)] == ["online"]

    await eventually(is_ann_online)
    at_ann, at_ben = await world.api(1).presence(ben, *ids)
    assert (at_ann["userId"], at_ann["status"]) == (ann.user_id, "online")
    assert (at_ben["userId"], at_ben["status"]) == (ben.user_id, "offline")
    assert_is_time(at_ann["lastActiveAt"])
    for query in ("", "?userId=", "?userId=two%20words", "?userId=a" + "&userId=a" * 200):
        assert_is_refusal(await world.api().call("GET", f"/presence{query}", token=ben.token), "INVALID_ARGUMENT")
    assert_is_refusal(await world.api().call("GET", f"/presence?userId={ben.user_id}"), "UNAUTHENTICATED")
