"""Who talks to whom, and on which edge."""

import pytest

from bench import scenarios
from bench.gateway import Gateway, SetUpFailed
from bench.plan import Address
from bench.scenarios import Scenario, Times
from tests.unit.bench.fake_edge import Faults, fake_edge

_TIMES = Times(warm_up_s=0, measured_s=1)


async def test_a_pair_is_on_two_edges_when_there_are_two() -> None:
    async with fake_edge() as (_, address):
        edges = [address, Address("127.0.0.1", 1)]
        async with Gateway(address, timeout_s=5) as gateway:
            made = await scenarios.make_conversations(scenarios.pairs(4, 16, _TIMES), edges, gateway, user_prefix="u")
    assert all(pair.sender.edge != pair.watchers[0].edge for pair in made)
    assert {pair.sender.edge for pair in made} == set(edges)
    assert len({pair.conversation_id for pair in made}) == 4


@pytest.mark.parametrize(
    ("scenario", "clients"),
    [
        (scenarios.pairs(3, 16, _TIMES), 6),
        (scenarios.latency(_TIMES), 2),
        (scenarios.fanout(25, _TIMES), 26),
        (scenarios.groups(2, _TIMES), 20),
    ],
)
async def test_everybody_is_a_user_of_their_own_with_a_token(scenario: Scenario, clients: int) -> None:
    async with fake_edge() as (_, address), Gateway(address, timeout_s=5) as gateway:
        made = await scenarios.make_conversations(scenario, [address], gateway, user_prefix="u")
    everybody = [client for plan in made for client in (plan.sender, *plan.watchers)]
    assert len({client.user_id for client in everybody}) == clients == scenario.clients
    assert all(client.token == f"token-of-{client.user_id}" for client in everybody)


async def test_an_edge_without_development_tokens_is_told_as_such() -> None:
    async with fake_edge(Faults(has_no_tokens=True)) as (_, address), Gateway(address, timeout_s=5) as gateway:
        with pytest.raises(SetUpFailed, match=r"/api/v1/dev/token was answered 403: .*FORBIDDEN"):
            await scenarios.make_conversations(scenarios.latency(_TIMES), [address], gateway, user_prefix="u")


async def test_an_edge_that_says_nothing_is_told_as_such() -> None:
    async with fake_edge(Faults(is_silent=True)) as (_, address), Gateway(address, timeout_s=0.2) as gateway:
        with pytest.raises(SetUpFailed, match=r"no answer in 0\.2 s"):
            await scenarios.make_conversations(scenarios.latency(_TIMES), [address], gateway, user_prefix="u")
