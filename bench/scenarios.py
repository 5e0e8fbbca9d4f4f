"""What each scenario consists of: how many conversations of whom, on which edges, and how its sender is paced.

`pairs`: two people each, the sender paced by RECEIPTs; people who talk are on different edges where there are several.
`latency`: one pair, one message at a time (a RECEIPT and a delivery, then the next).
`fanout`: one sender, many watchers. `groups`: several groups whose members all watch. Both are paced by the slowest
watcher: by RECEIPTs alone a sender would outrun what any edge can fan out, and measure only the slow-reader ladder.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from bench.gateway import Gateway
from bench.plan import Address, ClientPlan, ConversationPlan, Pacing

FANOUT_WINDOW = 4
"""Messages in flight in `fanout` and `groups`: enough that the edge never waits for the sender."""
GROUP_MEMBERS = 10


@dataclass(frozen=True, slots=True)
class Times:
    """Full load runs for the sum; only what falls into the second part is counted."""

    warm_up_s: float
    measured_s: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. `watchers` are per conversation, beside the sender; `label` is unique within a report."""

    name: str
    label: str
    conversations: int
    watchers: int
    sender_watches: bool
    window: int
    paced_by: Pacing
    times: Times

    @property
    def clients(self) -> int:
        return self.conversations * (self.watchers + 1)


def pairs(count: int, window: int, times: Times) -> Scenario:
    return Scenario(
        name="pairs",
        label=f"pairs {count}, window {window}",
        conversations=count,
        watchers=1,
        sender_watches=False,
        window=window,
        paced_by="receipt",
        times=times,
    )


def latency(times: Times) -> Scenario:
    return Scenario(
        name="latency",
        label="latency, one at a time",
        conversations=1,
        watchers=1,
        sender_watches=False,
        window=1,
        paced_by="delivery",
        times=times,
    )


def fanout(subscribers: int, times: Times) -> Scenario:
    return Scenario(
        name="fanout",
        label=f"fanout to {subscribers}",
        conversations=1,
        watchers=subscribers,
        sender_watches=False,
        window=FANOUT_WINDOW,
        paced_by="delivery",
        times=times,
    )


def groups(count: int, times: Times) -> Scenario:
    return Scenario(
        name="groups",
        label=f"groups {count} of {GROUP_MEMBERS}",
        conversations=count,
        watchers=GROUP_MEMBERS - 1,
        sender_watches=True,
        window=FANOUT_WINDOW,
        paced_by="delivery",
        times=times,
    )


async def make_conversations(
    scenario: Scenario, edges: Sequence[Address], gateway: Gateway, *, user_prefix: str
) -> list[ConversationPlan]:
    """New users and their conversations, made over HTTP.

    Member m of conversation c is on edge c + m (modulo their number): a pair is never on one edge if there are two.

    Raises:
        SetUpFailed: the edge refused or did not answer.
    """
    size = scenario.watchers + 1
    places = [(conversation, member) for conversation in range(scenario.conversations) for member in range(size)]
    clients = await gateway.clients(
        [f"{user_prefix}-{conversation}-{member}" for conversation, member in places],
        [edges[(conversation + member) % len(edges)] for conversation, member in places],
    )
    teams = [clients[at : at + size] for at in range(0, len(clients), size)]
    return await asyncio.gather(*(_make_conversation(scenario, team, gateway) for team in teams))


async def _make_conversation(scenario: Scenario, team: Sequence[ClientPlan], gateway: Gateway) -> ConversationPlan:
    sender, *watchers = team
    if scenario.name in ("pairs", "latency"):
        conversation_id = await gateway.create_direct(sender, watchers[0])
    else:
        conversation_id = await gateway.create_group(sender, watchers, title=scenario.label)
    return ConversationPlan(
        conversation_id=conversation_id,
        sender=sender,
        sender_watches=scenario.sender_watches,
        watchers=tuple(watchers),
    )
