"""Does the HTTP API do what wire.md says: what it answers, what it refuses, what it says about itself?"""

import asyncio
from datetime import UTC, datetime

import pytest

from tests.e2e.api import Json, User
from tests.e2e.expect import assert_is_message, assert_is_refusal, assert_is_time, same_message
from tests.e2e.openapi import operations_of, problems_of, resolve, routes_of
from tests.e2e.waiting import eventually
from tests.e2e.world import World

API = "/api/v1"
ROUTES = [
    ("POST", f"{API}/dev/token"),
    ("POST", f"{API}/conversations"),
    ("GET", f"{API}/conversations"),
    ("GET", f"{API}/conversations/{{}}"),
    ("PUT", f"{API}/conversations/{{}}/members/{{}}"),
    ("DELETE", f"{API}/conversations/{{}}/members/{{}}"),
    ("GET", f"{API}/conversations/{{}}/messages"),
    ("POST", f"{API}/conversations/{{}}/messages"),
]
"""Of this page of the contract, those that the foundation owns."""

MESSAGE_FIELDS = {
    "messageId",
    "conversationId",
    "seq",
    "senderId",
    "content",
    "type",
    "clientMessageId",
    "sentAt",
}


# ---- tokens


async def test_development_token_names_its_user_and_when_it_ends(world: World) -> None:
    answer = await world.api().call("POST", "/dev/token", json={"userId": "Alice.B_c-1@x"})
    body = answer.must_be(201)
    assert isinstance(body["token"], str)
    assert datetime.fromisoformat(body["expiresAt"]) > datetime.now(UTC)
    me = User("Alice.B_c-1@x", body["token"])
    conversation = (await world.api().create(me, [])).must_be(201)
    assert conversation["memberIds"] == ["Alice.B_c-1@x"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"userId": ""},
        {"userId": "x" * 65},
        {"userId": "two words"},
        {"userId": "line\nbreak"},
        {"userId": "ä"},
        {"userId": 7},
        {"userId": None},
        {"userId": ["a"]},
        [],
        "alice",
        None,
    ],
    ids=repr,
)
async def test_development_token_for_what_is_no_user_id_is_refused(world: World, body: object) -> None:
    assert_is_refusal(await world.api().call("POST", "/dev/token", json=body), "INVALID_ARGUMENT")


async def test_token_of_one_edge_is_good_at_every_edge(stack_world: World) -> None:
    alice = await stack_world.user("alice")
    conversation = await stack_world.group(alice)
    for edge in range(2):
        assert await stack_world.api(edge).members(alice, conversation) == [alice.user_id]


# ---- conversations


async def test_group_has_its_creator_its_members_and_its_title(world: World) -> None:
    alice, bob, carol = await world.users(3)
    answer = await world.api().create(alice, [bob.user_id, carol.user_id], title="Grüße")
    created = answer.must_be(201)
    assert set(created) >= {"conversationId", "type", "title", "memberIds", "createdAt"}
    assert created["type"] == "group"
    assert created["title"] == "Grüße"
    assert sorted(created["memberIds"]) == sorted([alice.user_id, bob.user_id, carol.user_id])
    assert_is_time(created["createdAt"])
    assert "x-stale-ms" not in answer.headers
    for member in (alice, bob, carol):
        seen = await world.api(1).call("GET", f"/conversations/{created['conversationId']}", token=member.token)
        assert seen.must_be(200)["conversationId"] == created["conversationId"]
        assert seen.json()["title"] == "Grüße"
        assert sorted(seen.json()["memberIds"]) == sorted(created["memberIds"])


async def test_two_groups_of_the_same_people_are_two_conversations(world: World) -> None:
    alice, bob = await world.users(2)
    assert await world.group(alice, bob) != await world.group(alice, bob)


async def test_direct_conversation_of_a_pair_exists_once_whoever_asks(world: World) -> None:
    alice, bob = await world.users(2)
    first = (await world.api().create(alice, [bob.user_id], type="direct")).must_be(201)
    assert first["type"] == "direct"
    assert sorted(first["memberIds"]) == sorted([alice.user_id, bob.user_id])
    again = (await world.api(1).create(bob, [alice.user_id], type="direct")).must_be(200)
    assert again["conversationId"] == first["conversationId"]
    assert again["createdAt"] == first["createdAt"]


async def test_direct_conversation_raced_by_both_is_one(world: World) -> None:
    for _ in range(10):
        alice, bob = await world.users(2)
        answers = await asyncio.gather(
            *(world.api(edge).create(alice, [bob.user_id], type="direct") for edge in (0, 1)),
            *(world.api(edge).create(bob, [alice.user_id], type="direct") for edge in (0, 1)),
        )
        assert len({answer.must_be(200, 201)["conversationId"] for answer in answers}) == 1
        assert [answer.status for answer in answers].count(201) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": "group"},
        {"memberIds": ["x"]},
        {"type": "channel", "memberIds": ["x"]},
        {"type": "group", "memberIds": "x"},
        {"type": "group", "memberIds": [7]},
        {"type": "group", "memberIds": ["two words"]},
        {"type": "group", "memberIds": [""]},
        {"type": "group", "memberIds": {"$gt": ""}},
        {"type": "group", "memberIds": ["x"], "title": 7},
        {"type": "direct", "memberIds": []},
        {"type": "direct", "memberIds": ["x", "y"]},
        {"type": {"$ne": "group"}, "memberIds": ["x"]},
        [],
        None,
    ],
    ids=repr,
)
async def test_conversation_that_makes_no_sense_is_refused(world: World, body: object) -> None:
    alice = await world.user("alice")
    answer = await world.api().call("POST", "/conversations", token=alice.token, json=body)
    assert_is_refusal(answer, "INVALID_ARGUMENT")
    assert await _listed(world, alice) == []


async def test_group_of_more_than_a_thousand_is_refused(world: World) -> None:
    alice = await world.user("alice")
    answer = await world.api().create(alice, [f"u{number}" for number in range(1001)])
    assert answer.status in (400, 413)
    assert answer.json()["code"] in ("INVALID_ARGUMENT", "TOO_LARGE")


async def test_list_shows_newest_activity_first_and_counts_what_is_unread(world: World) -> None:
    alice, bob = await world.users(2)
    first, second = await world.group(alice, bob), await world.group(alice, bob)
    await world.api().send(bob, second, "to the second")
    await world.api().send(bob, first, "one")
    await world.api().send(bob, first, "two")
    listed = await _list_settles(world, alice, [first, second])
    assert [one["headSeq"] for one in listed] == [2, 1]
    assert [one["readSeq"] for one in listed] == [0, 0]
    assert [one["unreadCount"] for one in listed] == [2, 1]
    assert {one["type"] for one in listed} == {"group"}
    assert [sorted(one["memberIds"]) for one in listed] == [sorted([alice.user_id, bob.user_id])] * 2
    assert_is_message(listed[0]["lastMessage"], conversation=first, sender=bob.user_id, content="two", seq=2)
    empty = await world.group(alice)
    one = (await world.api().call("GET", f"/conversations/{empty}", token=alice.token)).must_be(200)
    assert one["lastMessage"] is None
    assert (one["headSeq"], one["readSeq"], one["unreadCount"]) == (0, 0, 0)


async def test_own_message_is_not_unread(world: World) -> None:
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    await world.api().send(bob, conversation, "his")
    await world.api().send(alice, conversation, "hers")

    async def unread(user: User) -> int:
        answer = await world.api().call("GET", f"/conversations/{conversation}", token=user.token)
        return int(answer.must_be(200)["unreadCount"])

    async def settled() -> bool:
        return (await unread(alice), await unread(bob)) == (0, 1)

    await eventually(settled)


async def test_list_is_paged_without_loss_or_repeat(world: World) -> None:
    alice = await world.user("alice")
    made = [await world.group(alice) for _ in range(7)]
    seen: list[str] = []
    query: dict[str, object] = {"limit": 3}
    while True:
        page = (await world.api(len(seen)).call("GET", "/conversations", token=alice.token, query=query)).must_be(200)
        assert len(page["conversations"]) <= 3
        seen += [one["conversationId"] for one in page["conversations"]]
        if not page["nextCursor"]:
            break
        query["cursor"] = page["nextCursor"]
    assert sorted(seen) == sorted(made)


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": -1}, {"limit": "many"}, {"cursor": "made up"}], ids=repr)
async def test_list_with_a_bad_query_is_refused(world: World, query: dict[str, object]) -> None:
    alice = await world.user("alice")
    answer = await world.api().call("GET", "/conversations", token=alice.token, query=query)
    assert_is_refusal(answer, "INVALID_ARGUMENT")


# ---- members


async def test_member_is_added_and_removed_and_repeating_it_is_harmless(world: World) -> None:
    alice, bob = await world.users(2)
    conversation = await world.group(alice)
    for _ in range(2):
        (await world.api().add_member(alice, conversation, bob.user_id)).must_be(200, 201, 204)
        assert await world.api(1).members(bob, conversation) == sorted([alice.user_id, bob.user_id])
    for _ in range(2):
        (await world.api(1).remove_member(alice, conversation, bob.user_id)).must_be(200, 204)
        assert await world.api().members(alice, conversation) == [alice.user_id]
    assert_is_refusal(await world.api().call("GET", f"/conversations/{conversation}", token=bob.token), "FORBIDDEN")


async def test_member_may_leave(world: World) -> None:
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    (await world.api().remove_member(bob, conversation, bob.user_id)).must_be(200, 204)
    assert await world.api().members(alice, conversation) == [alice.user_id]
    assert conversation not in [one["conversationId"] for one in await _listed(world, bob)]


async def test_new_member_reads_the_whole_history(world: World) -> None:
    alice, bob = await world.users(2)
    conversation = await world.group(alice)
    await world.api().send(alice, conversation, "before")
    await world.api().add_member(alice, conversation, bob.user_id)
    assert [message["content"] for message in await world.api(1).history(bob, conversation)] == ["before"]


async def test_what_is_no_user_id_cannot_become_a_member(world: World) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    answer = await world.api().add_member(alice, conversation, "two%20words")
    assert_is_refusal(answer, "INVALID_ARGUMENT")


async def test_direct_conversation_keeps_its_two_members(world: World) -> None:
    alice, bob, carol = await world.users(3)
    direct = (await world.api().create(alice, [bob.user_id], type="direct")).must_be(201)["conversationId"]
    assert (await world.api().add_member(alice, direct, carol.user_id)).status in (400, 403, 409)
    assert await world.api().members(alice, direct) == sorted([alice.user_id, bob.user_id])


# ---- messages


async def test_message_sent_over_http_is_the_message_in_the_history(world: World) -> None:
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    answer = await world.api().send(alice, conversation, "hello", "c-1")
    sent = answer.must_be(201)
    assert_is_message(sent, conversation=conversation, sender=alice.user_id, content="hello", seq=1)
    assert sent["clientMessageId"] == "c-1"
    page = (await world.api(1).page(bob, conversation)).must_be(200)
    assert page["headSeq"] == 1
    assert len(page["messages"]) == 1
    assert same_message(page["messages"][0], sent)
    assert page["messages"][0]["status"] in ("sent", "delivered")


async def test_repeat_over_http_gets_200_and_the_same_message(world: World) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    first = (await world.api().send(alice, conversation, "hello", "c-1")).must_be(201)
    again = (await world.api(1).send(alice, conversation, "hello", "c-1")).must_be(200)
    assert same_message(first, again)
    without_id = [(await world.api().send(alice, conversation, "hello")).must_be(201) for _ in range(2)]
    assert [message["seq"] for message in without_id] == [2, 3]


async def test_history_is_read_forwards_and_backwards_in_pages(world: World) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    for number in range(1, 8):
        await world.api().send(alice, conversation, f"m{number}")

    async def seqs(**query: int) -> list[int]:
        page = (await world.api(1).page(alice, conversation, **query)).must_be(200)
        assert page["headSeq"] == 7
        return [message["seq"] for message in page["messages"]]

    assert await seqs(afterSeq=0) == [1, 2, 3, 4, 5, 6, 7]
    assert await seqs(afterSeq=0, limit=3) == [1, 2, 3]
    assert await seqs(afterSeq=3, limit=3) == [4, 5, 6]
    assert await seqs(afterSeq=6, limit=3) == [7]
    assert await seqs(afterSeq=7) == []
    assert await seqs(afterSeq=1000) == []
    assert await seqs(beforeSeq=4) == [1, 2, 3]
    assert await seqs(beforeSeq=6, limit=2) == [4, 5]
    assert await seqs(beforeSeq=1) == []
    assert await seqs(afterSeq=2, beforeSeq=6) == [3, 4, 5]
    assert await seqs(afterSeq=2, beforeSeq=6, limit=2) == [3, 4]
    assert await seqs() == [1, 2, 3, 4, 5, 6, 7]


async def test_page_of_the_history_never_holds_more_than_200(world: World) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    for start in range(0, 210, 30):
        await asyncio.gather(
            *(world.api().send(alice, conversation, f"m{number}") for number in range(start, start + 30))
        )
    full = (await world.api().page(alice, conversation, afterSeq=0, limit=200)).must_be(200)
    assert [message["seq"] for message in full["messages"]] == list(range(1, 201))
    unlimited = (await world.api().page(alice, conversation, afterSeq=0)).must_be(200)
    assert 0 < len(unlimited["messages"]) <= 200
    more = await world.api().page(alice, conversation, afterSeq=0, limit=201)
    assert more.status == 400 or len(more.json()["messages"]) <= 200
    assert [message["seq"] for message in await world.api().history(alice, conversation)] == list(range(1, 211))


@pytest.mark.parametrize(
    "query",
    [{"limit": 0}, {"limit": -1}, {"limit": "x"}, {"afterSeq": -1}, {"afterSeq": "x"}, {"beforeSeq": "1;2"}],
    ids=repr,
)
async def test_history_with_a_bad_query_is_refused(world: World, query: dict[str, object]) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    path = f"/conversations/{conversation}/messages"
    assert_is_refusal(await world.api().call("GET", path, token=alice.token, query=query), "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": "text"},
        {"content": "x", "type": "video"},
        {"content": 7, "type": "text"},
        {"content": None, "type": "text"},
        {"content": {"$gt": ""}, "type": "text"},
        {"content": "x", "type": "text", "clientMessageId": ""},
        {"content": "x", "type": "text", "clientMessageId": "x" * 129},
        {"content": "x", "type": "text", "clientMessageId": "ä" * 65},
        {"content": "x", "type": "text", "clientMessageId": 7},
        [],
        "x",
        None,
    ],
    ids=lambda body: repr(body)[:60],
)
async def test_message_that_makes_no_sense_is_refused(world: World, body: object) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    path = f"/conversations/{conversation}/messages"
    assert_is_refusal(await world.api().call("POST", path, token=alice.token, json=body), "INVALID_ARGUMENT")
    assert await world.api().history(alice, conversation) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"content": "\xff", "type": "text"}',
        b'{"content": NaN, "type": "text"}',
        b'{"content": "\\ud800", "type": "text"}',
        b"[" * 20_000,
        b'{"content":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
    ],
    ids=lambda data: repr(data)[:40],
)
async def test_body_that_is_no_json_object_is_refused(world: World, data: bytes) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    path = f"/conversations/{conversation}/messages"
    assert_is_refusal(await world.api().call("POST", path, token=alice.token, data=data), "INVALID_ARGUMENT")


async def test_content_is_counted_in_bytes_and_refused_above_16_kib(world: World) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    largest = "ä" * (8 * 1024)
    (await world.api().send(alice, conversation, largest)).must_be(201)
    assert_is_refusal(await world.api().send(alice, conversation, largest + "x"), "TOO_LARGE")
    assert [message["content"] for message in await world.api().history(alice, conversation)] == [largest]


@pytest.mark.parametrize(
    "content",
    ["<script>alert(1)</script>", "\u202eright to left", "\0\x01\x7f", '{"$where":"1"}', "\r\n\n ", "\U0001f9d1‍🚀"],
    ids=ascii,
)
async def test_content_is_stored_to_the_letter(world: World, content: str) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    await world.api().send(alice, conversation, content)
    assert [message["content"] for message in await world.api(1).history(alice, conversation)] == [content]


async def test_same_client_message_id_with_another_body_is_a_conflict(world: World) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    await world.api().send(alice, conversation, "original", "c-1")
    assert_is_refusal(await world.api(1).send(alice, conversation, "forged", "c-1"), "CONFLICT")
    assert [message["content"] for message in await world.api().history(alice, conversation)] == ["original"]


# ---- what is refused to whom


def _calls(conversation: str, user_id: str) -> list[tuple[str, str, Json | None]]:
    base = f"/conversations/{conversation}"
    return [
        ("GET", base, None),
        ("GET", f"{base}/messages", None),
        ("POST", f"{base}/messages", {"content": "x", "type": "text"}),
        ("PUT", f"{base}/members/{user_id}", None),
        ("DELETE", f"{base}/members/{user_id}", None),
    ]


@pytest.mark.parametrize("conversation", ["nonsense", "g0000000000000000000000000", "%00", "x" * 300, "..%2f"])
async def test_unknown_conversation_is_forbidden_however_it_is_called(world: World, conversation: str) -> None:
    alice = await world.user("alice")
    for method, path, body in _calls(conversation, alice.user_id):
        answer = await world.api().call(method, path, token=alice.token, json=body)
        assert answer.status in (400, 403), (method, path, answer)
        assert answer.json()["code"] in ("FORBIDDEN", "INVALID_ARGUMENT")
    for method, path, body in _calls("nonsense", alice.user_id):
        assert_is_refusal(await world.api().call(method, path, token=alice.token, json=body), "FORBIDDEN")


@pytest.mark.parametrize("token", [None, "", "garbage", "a.b.c"], ids=repr)
async def test_nobody_gets_anything_without_a_good_token(world: World, token: str | None) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    calls = [
        *_calls(conversation, alice.user_id),
        ("GET", "/conversations", None),
        ("POST", "/conversations", {"type": "group", "memberIds": []}),
    ]
    for method, path, body in calls:
        answer = await world.api().call(method, path, token=token, json=body)
        assert_is_refusal(answer, "UNAUTHENTICATED")


async def test_token_in_the_url_is_worth_nothing(world: World) -> None:
    alice = await world.user("alice")
    for name in ("token", "access_token", "passcode", "Authorization"):
        answer = await world.api().call("GET", "/conversations", query={name: alice.token})
        assert_is_refusal(answer, "UNAUTHENTICATED")


# ---- the API about itself


async def test_openapi_document_is_sound_and_covers_every_route(world: World) -> None:
    answer = await world.api().call("GET", "/openapi.json")
    document = answer.must_be(200)
    assert problems_of(document) == []
    assert set(ROUTES) - routes_of(document) == set()


async def test_openapi_document_describes_the_fields_that_are_answered(world: World) -> None:
    document = (await world.api().call("GET", "/openapi.json")).must_be(200)
    for path, method, operation in operations_of(document):
        if method == "post" and path.endswith("/messages"):
            response = resolve(document, operation["responses"]["201"])
            schema = resolve(document, response["content"]["application/json"]["schema"])
            assert _properties(document, schema) >= MESSAGE_FIELDS
            return
    pytest.fail("POST …/messages is not described")


async def test_health_is_public_and_metrics_are_not(world: World) -> None:
    for path, status in (("/healthz", 200), ("/readyz", 200), ("/metrics", 404)):
        async with world.http.get(world.edge() + path) as response:
            assert response.status == status, path


def _properties(document: Json, schema: Json) -> set[str]:
    found = set(schema.get("properties", {}))
    for part in schema.get("allOf", []):
        found |= _properties(document, resolve(document, part))
    return found


async def _listed(world: World, user: User) -> list[Json]:
    listed = (await world.api().call("GET", "/conversations", token=user.token)).must_be(200)["conversations"]
    assert isinstance(listed, list)
    return listed


async def _list_settles(world: World, user: User, wanted: list[str]) -> list[Json]:
    """The list once it shows these in this order: lastMessage is written after the sender has been answered."""

    async def look() -> list[Json] | None:
        listed = await _listed(world, user)
        shown = [one["conversationId"] for one in listed]
        complete = all(one["lastMessage"] and one["lastMessage"]["seq"] == one["headSeq"] for one in listed)
        return listed if shown == wanted and complete else None

    settled = await eventually(look, what=f"the list shows {wanted}")
    return settled
