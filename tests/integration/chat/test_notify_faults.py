"""Notifications of those who are offline, while what carries them is away or dies: none missing, none shown twice.

failures.md, invariant 9, over two edges, two chats and every server, with pushes that are really decrypted.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import AsyncMongoClient

from scripts.stack import Kind
from tests.e2e.api import User
from tests.e2e.deployments import FullStack
from tests.e2e.waiting import eventually
from tests.e2e.world import World, topic
from tests.integration.chat.load import Lane, Sent, for_seconds, latency_of, send_once, send_steadily
from tests.integration.chat.marks import read_at_chat, read_over_http, stubs_of
from tests.integration.chat.processes import read_figure, services_of
from tests.integration.chat.receiver import Receiver, assert_visible_once

HEALED_S = 10.0
"""failures.md, invariant 9: what is owed is pushed within this."""

OUTAGE_S = float(os.environ.get("OUTAGE_S", "5"))
"""How long nobody starts RabbitMQ again; its start then takes 7 s and more. `OUTAGE_S=15` makes 30 s of it."""

_LEFT_AFTER_S = 15.0
"""What a dead replica has not published counts as left, and is swept, when it is this old."""

_QUIET_S = 4.0
_SENDS_PER_SECOND = 50.0
"""A small part of what the stack can do: a send that is slow then has waited for something."""

_SLOWEST_SEND_S = 2.5
"""One that waits for a confirm takes 5 s. Two cores on which an Erlang node starts are slow, but not that slow."""


_log = logging.getLogger(__name__)
"""The figures, for `-o log_cli=true --log-cli-level=INFO`."""


@dataclass(frozen=True, slots=True)
class Owed:
    """Each message of this lane has to reach these devices of a recipient who is offline."""

    lane: Lane
    recipient: User
    devices: tuple[str, ...]


async def test_no_send_waits_for_rabbitmq_and_every_push_comes_once_after_it_is_back(
    world: World, stack: FullStack, receiver: Receiver, mongo: AsyncMongoClient[dict[str, Any]]
) -> None:
    """In between a chat replica dies with what it has not published: the other one finds that in the outbox."""
    rabbitmq = stack.stack.rabbitmq
    assert rabbitmq is not None
    owed = [await owe(world, receiver, edge, devices=devices) for edge, devices in enumerate((1, 1, 2))]
    lanes = [each.lane for each in owed] + [await lane_to_somebody_connected(world, edge) for edge in range(21)]

    warm = await send_once(lanes)
    quiet = await send_steadily(lanes, per_second=_SENDS_PER_SECOND, go_on=for_seconds(_QUIET_S))
    await asyncio.to_thread(rabbitmq.kill)
    away = await send_steadily(lanes, per_second=_SENDS_PER_SECOND, go_on=for_seconds(OUTAGE_S))

    held = {
        await read_figure(world.http, chat, "parley_chat_notices_waiting"): chat
        for chat in services_of(stack, Kind.CHAT)
    }
    survivor, lost = (chat for _, chat in sorted(held.items()))
    assert max(held) > 0
    await asyncio.to_thread(lost.kill)
    lost_at_s = asyncio.get_running_loop().time()
    moved = await send_once(lanes)

    starting = asyncio.create_task(asyncio.to_thread(rabbitmq.start))
    coming = await send_steadily(lanes, per_second=_SENDS_PER_SECOND, go_on=lambda: not starting.done())
    await starting
    healed_at_s = max(asyncio.get_running_loop().time(), lost_at_s + _LEFT_AFTER_S)

    before, during, at_start = latency_of(quiet), latency_of(away), latency_of(coming)
    _log.info("with RabbitMQ: %s; without: %s; as it starts: %s", before, during, at_start)
    assert during.p50_s < 2 * before.p50_s + 0.05
    assert during.p99_s < 4 * before.p99_s + 0.25
    assert max(during.max_s, at_start.max_s) < _SLOWEST_SEND_S

    await assert_all_pushed(receiver, owed, [*warm, *quiet, *away, *moved, *coming], healed_at_s=healed_at_s)
    assert await read_figure(world.http, survivor, "parley_chat_outbox_swept_total") > 0

    async def nothing_is_left() -> bool:
        return await mongo.get_default_database()["outbox"].count_documents({}) == 0

    await eventually(nothing_is_left)


async def test_notify_killed_in_a_batch_of_pushes_loses_none_and_shows_none_twice(
    world: World, stack: FullStack, receiver: Receiver, mongo: AsyncMongoClient[dict[str, Any]]
) -> None:
    """When it dies, some pushes are answered, some are with the push service, and some have not been made."""
    owed = [await owe(world, receiver, edge, devices=2) for edge in range(5)]
    answered, rounds = 20, 20
    receiver.answer_only(answered)
    sent = [message for _ in range(rounds) for message in await send_once([each.lane for each in owed])]

    (notify,) = services_of(stack, Kind.NOTIFY)
    keys = {"$regex": "|".join(f"^{each.lane.conversation}" for each in owed)}

    async def is_in_the_middle() -> bool:
        finished = await mongo.get_default_database()["pushKeys"].count_documents({"_id": keys, "finished": True})
        return finished == answered and len(receiver.accepted) > 2 * answered

    await eventually(is_in_the_middle)
    await asyncio.to_thread(notify.kill)
    unanswered = len(receiver.accepted) - answered
    assert answered + unanswered < len(sent) * 2
    receiver.answer_everything()
    await asyncio.to_thread(notify.start)

    healed_at_s = asyncio.get_running_loop().time()
    replaced = await assert_all_pushed(receiver, owed, sent, healed_at_s=healed_at_s)
    assert replaced <= unanswered


async def test_what_is_read_within_the_grace_over_another_edge_or_chat_is_not_pushed(
    world: World, stack: FullStack, receiver: Receiver
) -> None:
    owed = [await owe(world, receiver, 0, devices=1) for _ in range(4)]
    lanes = [each.lane for each in owed]

    async with stubs_of(services_of(stack, Kind.CHAT)) as chats:
        seen = await send_once(lanes)
        await asyncio.gather(
            read_over_http(world.api(0), owed[0].recipient, seen[0].conversation, seen[0].message_id),
            read_over_http(world.api(1), owed[1].recipient, seen[1].conversation, seen[1].message_id),
            read_at_chat(chats[0], owed[2].recipient, seen[2].conversation, 1),
            read_at_chat(chats[1], owed[3].recipient, seen[3].conversation, 1),
        )
    unseen = await send_once(lanes)

    await assert_all_pushed(receiver, owed, unseen, healed_at_s=asyncio.get_running_loop().time())


# ---- The people.


async def owe(world: World, receiver: Receiver, edge: int, *, devices: int) -> Owed:
    """A recipient who is nowhere connected, and somebody who writes to him."""
    sender, recipient = await world.user("sender"), await world.user("offline")
    names = tuple(f"{recipient.user_id}-{number}" for number in range(devices))
    await receiver.register(world.api(edge), recipient, *names)
    lane = Lane(world.api(edge), sender, await world.group(sender, recipient))
    return Owed(lane, recipient, names)


async def lane_to_somebody_connected(world: World, edge: int) -> Lane:
    """To somebody on the other edge, who watches it or (every seventh) hears of it on his queue."""
    sender, recipient = await world.user("sender"), await world.user("online")
    conversation = await world.group(sender, recipient)
    connection = await world.connect(recipient, edge + 1)
    await connection.subscribe("/user/queue/notifications" if edge % 7 == 0 else topic(conversation))
    return Lane(world.api(edge), sender, conversation)


async def assert_all_pushed(
    receiver: Receiver, owed: Sequence[Owed], sent: Sequence[Sent], *, healed_at_s: float
) -> int:
    """Exactly what is owed is pushed, in time, each visible once. Gives how many pushes replaced an equal one."""
    expected = {
        device: {message.message_id for message in sent if message.conversation == each.lane.conversation}
        for each in owed
        for device in each.devices
    }

    def nothing_is_missing() -> bool:
        missing = {device: ids - receiver.of_messages(device).keys() for device, ids in expected.items()}
        assert not any(missing.values()), {device: sorted(ids) for device, ids in missing.items() if ids}
        return True

    await eventually(
        nothing_is_missing, timeout_s=_LEFT_AFTER_S + 2 * HEALED_S, what="every device has been told of every message"
    )
    replaced = sum(assert_visible_once(receiver, device, ids) for device, ids in expected.items())
    took_s = max(receiver.accepted_at_s) - healed_at_s
    _log.info("%d pushes, %d replacing; the last %.1f s after healing", len(receiver.accepted), replaced, took_s)
    assert took_s < HEALED_S
    return replaced
