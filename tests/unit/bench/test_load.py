"""Every way in which an edge may break its promises is found, and an honest edge is green."""

import asyncio
import time

import msgspec
import pytest

from bench.client import ConnectFailed
from bench.generator import generate
from bench.plan import Address, ClientPlan, ConversationPlan, Outcome, Pacing, Plan, Schedule
from tests.unit.bench.fake_edge import Faults, fake_edge

_MEASURED_S = 0.25


async def test_an_honest_edge_is_green_and_counted() -> None:
    outcome = await _outcome(Faults(), conversations=3, watchers=2)
    assert (outcome.violations, outcome.refusals) == ({}, {})
    assert outcome.messages > 20
    assert outcome.deliveries > outcome.messages
    assert sum(outcome.to_receipt.buckets.values()) == outcome.messages
    assert sum(outcome.to_delivery.buckets.values()) == outcome.deliveries
    assert outcome.to_delivery.largest < _MEASURED_S * 1e6


@pytest.mark.parametrize("paced_by", ["receipt", "delivery"])
@pytest.mark.parametrize("window", [1, 5])
async def test_no_more_than_the_window_is_ever_in_flight(paced_by: Pacing, window: int) -> None:
    """A withheld RECEIPT stops a window of one, and takes one place of a window of five."""
    outcome = await _outcome(Faults(withhold_receipt_seq=3), window=window, paced_by=paced_by)
    assert outcome.violations == {"no RECEIPT": 1, "not settled": 1}
    assert (outcome.sent_in_all == 3) == (window == 1)


@pytest.mark.parametrize(
    ("faults", "violation"),
    [
        (Faults(drop_seq=2), "seq missing"),
        (Faults(repeat_seq=2), "seq repeated or reordered"),
        (Faults(swap_content_seq=2), "content under another seq"),
        (Faults(other_id_seq=16), "message id differs"),
        (Faults(gap_seq=2), "gap: the edge gave up on a slow reader"),
        (Faults(error_at_number=b"00000002"), "connection lost"),
        (Faults(close_at_number=b"00000002"), "connection lost"),
    ],
)
async def test_a_broken_promise_is_found(faults: Faults, violation: str) -> None:
    outcome = await _outcome(faults)
    assert violation in outcome.violations
    assert any(example.startswith(violation) for example in outcome.examples)


async def test_what_an_error_frame_says_is_told() -> None:
    outcome = await _outcome(Faults(error_at_number=b"00000002"))
    assert "ERROR 'no such thing' it is not there" in outcome.examples[0]


async def test_a_message_that_the_last_watcher_never_gets_is_found_without_a_later_one() -> None:
    """Nothing follows it, so no jump of the seq gives it away."""
    outcome = await _outcome(Faults(drop_seq=1), window=1, paced_by="delivery")
    assert outcome.violations == {"not settled": 1}


async def test_a_refused_send_is_counted_and_its_place_is_used_again() -> None:
    outcome = await _outcome(Faults(refuse_number=b"00000001"), window=1)
    assert outcome.refusals == {"UNAVAILABLE": 1}
    assert outcome.violations == {}
    assert outcome.messages > 5


async def test_pings_are_answered_and_every_frame_is_masked() -> None:
    async with fake_edge(Faults(is_ping_sent=True)) as (edge, address):
        await _generate(address)
        assert edge.pongs > 0
        assert edge.unmasked == 0


async def test_fragmented_messages_are_read() -> None:
    outcome = await _outcome(Faults(is_fragmented=True))
    assert outcome.violations == {}
    assert outcome.deliveries > 5


async def test_a_sender_that_watches_gets_its_own_messages_too() -> None:
    outcome = await _outcome(Faults(), watchers=0, sender_watches=True)
    assert outcome.violations == {}
    assert outcome.deliveries > 5


async def test_an_edge_that_says_nothing_is_given_up_with_its_address() -> None:
    async with fake_edge(Faults(is_silent=True)) as (_, address):
        with pytest.raises(ConnectFailed, match=rf"edge {address}: no answer to s0 in 0\.3 s"):
            await _generate(address, connect_timeout_s=0.3)


async def test_an_edge_that_is_not_there_is_told_at_once() -> None:
    async with fake_edge() as (_, address):
        pass
    with pytest.raises(ConnectFailed, match=f"edge {address}"):
        await _generate(address)


async def _outcome(
    faults: Faults,
    *,
    conversations: int = 1,
    watchers: int = 1,
    window: int = 4,
    paced_by: Pacing = "receipt",
    sender_watches: bool = False,
) -> Outcome:
    async with fake_edge(faults) as (_, address):
        return await _generate(
            address,
            conversations=conversations,
            watchers=watchers,
            window=window,
            paced_by=paced_by,
            sender_watches=sender_watches,
        )


async def _generate(
    address: Address,
    *,
    conversations: int = 1,
    watchers: int = 1,
    window: int = 4,
    paced_by: Pacing = "receipt",
    sender_watches: bool = False,
    connect_timeout_s: float = 5,
) -> Outcome:
    plan = Plan(
        run_id="t",
        window=window,
        content_bytes=100,
        paced_by=paced_by,
        connect_timeout_s=connect_timeout_s,
        drain_timeout_s=0.3,
        conversations=tuple(
            ConversationPlan(
                conversation_id=f"c{number}",
                sender=ClientPlan(f"s{number}", "token", address),
                sender_watches=sender_watches,
                watchers=tuple(ClientPlan(f"w{number}-{at}", "token", address) for at in range(watchers)),
            )
            for number in range(conversations)
        ),
    )
    start_us = int(time.monotonic() * 1e6) + 100_000
    schedule = Schedule(start_us, start_us, start_us + int(_MEASURED_S * 1e6))
    commands = asyncio.StreamReader()
    commands.feed_data(msgspec.json.encode(schedule) + b"\n")
    return await generate(plan, commands)
