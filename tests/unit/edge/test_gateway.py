"""The HTTP API over real HTTP: what each call does, and how everything else is refused.

Every answer of every test is also held against the description that the API gives of itself: a status or a field that
is not in it fails the test.
"""

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry
from yarl import URL

from edge.auth import DevTokens, TokenVerifier
from edge.bodies import message_body
from edge.config import EdgeSettings
from edge.gateway import Gateway
from edge.gateway.pages import page_routes
from edge.limits import TokenBuckets
from edge.model import Conversation, ConversationId, ConversationView, Seq, Stored, WatermarkKind
from services.chat.errors import NotAMember
from services.runtime.config import ConfigError
from services.runtime.errors import (
    Aborted,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    Internal,
    NotFound,
    RateLimited,
    ServiceError,
    TooLarge,
    Unavailable,
    Unimplemented,
)
from services.runtime.metrics import Metrics
from tests.support.clock import ManualClock
from tests.unit.edge.fake_chat import GROUP, FakeChat, FakeDevices, FakePresence, message

Json = dict[str, Any]
LOST = "you are not a member of this conversation, or there is no such conversation"
ORIGIN = "https://chat.example.org"
KIB = 1 << 10


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Json:
        value = json.loads(self.raw)
        assert isinstance(value, dict)
        return value


class World:
    """An API on a free port, over a chat that does as it is told, and alice with a token."""

    def __init__(self, **chosen: Any) -> None:
        self.settings = EdgeSettings(**{"dev_tokens": True, **chosen})
        self.clock = ManualClock(time_ms=1_795_341_600_000)
        self.registry = CollectorRegistry()
        self.chat = FakeChat()
        metrics = Metrics(self.registry)
        dev_tokens = DevTokens(self.settings, self.clock)
        verifier = TokenVerifier(self.settings, self.clock, dev_tokens)
        send_limit = TokenBuckets("sends", rate=20, burst=3, clock=self.clock, metrics=metrics)
        self.gateway = Gateway(
            self.chat,
            FakePresence(),
            FakeDevices(),
            verifier,
            dev_tokens if self.settings.dev_tokens else None,
            send_limit,
            self.settings,
            self.clock,
            metrics,
        )
        app = web.Application()
        self.gateway.mount(app)
        self._server = TestServer(app)
        self.client = TestClient(self._server)
        self.alice = dev_tokens.issue("alice")[0]

    async def __aenter__(self) -> Self:
        await self._server.start_server(auto_decompress=False)
        await self.client.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = "",
        chunked: bool = False,
    ) -> Answer:
        """As alice, unless told otherwise (None: as nobody)."""
        sent = {"Content-Type": "application/json"} if raw is not None or body is not None else {}
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.alice}"
        data = json.dumps(body).encode() if body is not None else raw
        async with self.client.request(
            method,
            URL(f"/api/v1{path}", encoded=True),
            data=data,
            headers={**sent, **(headers or {})},
            skip_auto_headers=("Content-Type",),
            chunked=chunked or None,
        ) as response:
            answer = Answer(response.status, response.headers.copy(), await response.read())
        self._hold_against_the_description(method, path, answer)
        return answer

    def _hold_against_the_description(self, method: str, path: str, answer: Answer) -> None:
        for route in self.gateway.routes:
            pattern = re.sub(r"\{\w+\}", "[^/]+", route.path)
            if route.method == method and re.fullmatch(pattern, path.partition("?")[0]):
                if answer.status >= 400:
                    assert answer.status in route.all_refusals, (route.name, answer)
                else:
                    described = route.answers[answer.status].shape
                    assert (described is None) is (answer.raw == b""), answer
                    if described not in (None, dict):
                        json_of = msgspec.json.encode(msgspec.json.decode(answer.raw, type=described))
                        assert json.loads(json_of) == answer.json, "a field that is not described"
        if answer.status >= 400:
            assert set(answer.json) <= {"event", "code", "message", "retryAfterMs"}, answer
            assert answer.json["event"] == "error"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["x-correlation-id"]

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"parley_edge_http_{name}", labels) or 0


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


def refused(answer: Answer, status: int, code: str, *, saying: str = "") -> None:
    assert answer.status == status, answer
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json["code"] == code, answer
    assert saying in answer.json["message"], answer


# Every call that needs a token, with a body that is good.
CALLS: list[tuple[str, str, object]] = [
    ("POST", "/conversations", {"type": "group", "memberIds": ["bob"]}),
    ("GET", "/conversations", None),
    ("GET", "/conversations/g1", None),
    ("PUT", "/conversations/g1/members/carol", None),
    ("DELETE", "/conversations/g1/members/carol", None),
    ("GET", "/conversations/g1/messages", None),
    ("POST", "/conversations/g1/messages", {"content": "hi", "type": "text"}),
    ("POST", "/conversations/g1/read", {"messageId": "g1-0000000003"}),
]
OF_ONE_CONVERSATION = [call for call in CALLS if "g1" in call[1]]
WITH_BODY = [call for call in CALLS if call[2] is not None]


# ---- What the calls do.


async def test_creating_a_group_passes_everything_on_and_answers_with_it(world: World) -> None:
    answer = await world.call(
        "POST", "/conversations", {"type": "group", "memberIds": ["bob"], "title": "Friends", "later": 1}
    )
    assert answer.status == 201
    assert answer.json == {
        "conversationId": "g1",
        "type": "group",
        "title": "Friends",
        "memberIds": ["alice", "bob"],
        "createdAt": "2026-11-22T10:00:00.000Z",
    }
    (_, creator, type_, member_ids, title, request_id), *_ = world.chat.asked
    assert (creator, type_, member_ids, title) == ("alice", "group", ["bob"], "Friends")
    assert uuid.UUID(request_id).version == 7


async def test_a_direct_conversation_that_was_there_is_answered_200(world: World) -> None:
    world.chat.created = False
    world.chat.conversation = Conversation(ConversationId("d1"), "direct", None, GROUP.member_ids, 0)
    answer = await world.call("POST", "/conversations", {"type": "direct", "memberIds": ["bob"], "title": None})
    assert answer.status == 200
    assert answer.json["title"] is None
    assert answer.json["type"] == "direct"


async def test_an_idempotency_key_names_the_request_and_without_one_each_is_another(world: World) -> None:
    for headers in ({"Idempotency-Key": "k-1"}, {"Idempotency-Key": "k-1"}, {}, {}):
        await world.call("POST", "/conversations", {"type": "group", "memberIds": []}, headers=headers)
    first, second, third, fourth = [asked[-1] for asked in world.chat.asked]
    assert first == second == "k-1"
    assert third != fourth


@pytest.mark.parametrize("key", ["", "a b", "x" * 129, "ä"])
async def test_an_idempotency_key_that_is_none_is_refused(world: World, key: str) -> None:
    answer = await world.call(
        "POST", "/conversations", {"type": "group", "memberIds": []}, headers={"Idempotency-Key": key}
    )
    refused(answer, 400, "INVALID_ARGUMENT", saying="Idempotency-Key")
    assert world.chat.asked == []


async def test_listing_answers_with_everything_that_a_list_shows(world: World) -> None:
    world.chat.next_cursor = "bmV4dA"
    empty = ConversationView(GROUP, Seq(0), Seq(0), None, False)
    ahead = ConversationView(GROUP, Seq(3), Seq(4), None, False)
    world.chat.views = (*world.chat.views, empty, ahead)
    answer = await world.call("GET", "/conversations?cursor=abc_-9&limit=3")
    assert world.chat.asked == [("list", "alice", "abc_-9", 3)]
    assert answer.json["nextCursor"] == "bmV4dA"
    first, second, third = answer.json["conversations"]
    last = message_body(message(7), "sent")
    del last["status"]  # whether the others have seen it is not looked up for a list
    assert first == {
        "conversationId": "g1",
        "type": "group",
        "title": "Friends",
        "memberIds": ["alice", "bob"],
        "createdAt": "2026-11-22T10:00:00.000Z",
        "lastMessage": last,
        "headSeq": 7,
        "readSeq": 5,
        "unreadCount": 2,
        "muted": False,
    }
    assert (second["lastMessage"], second["unreadCount"]) == (None, 0)
    assert third["unreadCount"] == 0


async def test_the_last_page_has_no_cursor(world: World) -> None:
    answer = await world.call("GET", "/conversations")
    assert answer.json["nextCursor"] is None
    assert world.chat.asked == [("list", "alice", "", 50)]


async def test_one_conversation_is_shown_as_the_list_shows_it(world: World) -> None:
    one = await world.call("GET", "/conversations/g1")
    listed = await world.call("GET", "/conversations")
    assert one.json == listed.json["conversations"][0]
    assert world.chat.asked[0] == ("get", "g1", "alice")


async def test_adding_a_member_answers_with_the_conversation_and_removing_with_nothing(world: World) -> None:
    added = await world.call("PUT", "/conversations/g1/members/carol@example.org")
    assert (added.status, added.json["conversationId"]) == (200, "g1")
    removed = await world.call("DELETE", "/conversations/g1/members/carol")
    assert (removed.status, removed.raw) == (204, b"")
    assert world.chat.asked == [("add", "g1", "alice", "carol@example.org"), ("remove", "g1", "alice", "carol")]


async def test_a_page_of_history_shows_what_the_others_have_received_and_seen(world: World) -> None:
    answer = await world.call("GET", "/conversations/g1/messages?afterSeq=4&beforeSeq=8&limit=200")
    assert world.chat.asked == [("read", "g1", "alice", 4, 8, 200)]
    assert [(m["seq"], m["status"]) for m in answer.json["messages"]] == [(5, "seen"), (6, "delivered"), (7, "sent")]
    assert answer.json["messages"][0] == message_body(message(5), "seen")
    assert answer.json["headSeq"] == 7


@pytest.mark.parametrize("query", ["", "?afterSeq=&beforeSeq=&limit=", "?unknown=1&unknown=2"])
async def test_bounds_that_are_absent_or_empty_ask_for_the_latest_page(world: World, query: str) -> None:
    assert (await world.call("GET", f"/conversations/g1/messages{query}")).status == 200
    assert world.chat.asked == [("read", "g1", "alice", None, None, 100)]


async def test_after_seq_0_is_the_whole_conversation_from_its_beginning(world: World) -> None:
    await world.call("GET", "/conversations/g1/messages?afterSeq=0")
    assert world.chat.asked == [("read", "g1", "alice", 0, None, 100)]


async def test_sending_answers_201_with_the_message(world: World) -> None:
    answer = await world.call(
        "POST", "/conversations/g1/messages", {"content": "Grüße 😀", "type": "text", "clientMessageId": "c-1"}
    )
    assert answer.status == 201
    assert world.chat.asked == [("send", "g1", "alice", "c-1", "Grüße 😀", "text")]
    assert answer.json == {
        "messageId": "g1-0000000008",
        "conversationId": "g1",
        "seq": 8,
        "senderId": "alice",
        "content": "Grüße 😀",
        "type": "text",
        "clientMessageId": "c-1",
        "sentAt": "2026-11-22T10:00:00.123Z",
        "status": "sent",
    }


async def test_a_repeated_send_answers_200_with_the_first_ones_id_seq_and_time(world: World) -> None:
    world.chat.stored = Stored("g1-0000000002", Seq(2), 0, True)
    answer = await world.call(
        "POST", "/conversations/g1/messages", {"content": "hi", "type": "text", "clientMessageId": "c-1"}
    )
    assert answer.status == 200
    assert (answer.json["messageId"], answer.json["seq"]) == ("g1-0000000002", 2)
    assert answer.json["sentAt"] == "1970-01-01T00:00:00.000Z"


@pytest.mark.parametrize("given", [{}, {"clientMessageId": None}])
async def test_a_send_without_a_client_message_id_is_given_one(world: World, given: Json) -> None:
    sent = [
        await world.call("POST", "/conversations/g1/messages", {"content": "hi", "type": "text", **given})
        for _ in range(2)
    ]
    ids = [answer.json["clientMessageId"] for answer in sent]
    assert [asked[3] for asked in world.chat.asked] == ids
    assert len(set(ids)) == 2
    assert {uuid.UUID(id_).version for id_ in ids} == {7}


@pytest.mark.parametrize(
    "content",
    ['{"$gt":""}', "__proto__", "<script>alert(1)</script>", "\u202egnp.exe", "\u0000", "a\r\nb", " ", "𝄞" * 4 * KIB],
    ids=ascii,
)
async def test_content_is_passed_on_to_the_letter(world: World, content: str) -> None:
    answer = await world.call("POST", "/conversations/g1/messages", {"content": content, "type": "text"})
    assert (answer.status, answer.json["content"]) == (201, content)
    assert world.chat.asked[0][4] == content


async def test_marking_as_read_moves_the_seen_watermark(world: World) -> None:
    answer = await world.call("POST", "/conversations/g1/read", {"messageId": "g1-0000000003"})
    assert (answer.status, answer.raw) == (204, b"")
    assert world.chat.asked == [("mark", "g1", "alice", WatermarkKind.SEEN, 3)]


@pytest.mark.parametrize(
    "message_id", ["", "3", "g2-0000000003", "g1-3", "g1-0000000000", "g1", "-0000000001", "g1-00000000٣"]
)
async def test_marking_needs_a_message_of_that_conversation(world: World, message_id: str) -> None:
    answer = await world.call("POST", "/conversations/g1/read", {"messageId": message_id})
    refused(answer, 400, "INVALID_ARGUMENT", saying="messageId")
    assert world.chat.asked == []


async def test_a_development_token_is_good_for_the_next_call(world: World) -> None:
    answer = await world.call("POST", "/dev/token", {"userId": "bob"}, token=None)
    assert answer.status == 201
    assert answer.json["expiresAt"] == "2026-11-22T22:00:00.000Z"
    await world.call("GET", "/conversations", token=answer.json["token"])
    assert world.chat.asked == [("list", "bob", "", 50)]


async def test_without_development_tokens_there_is_no_such_path() -> None:
    async with World(dev_tokens=False) as world:
        refused(await world.call("POST", "/dev/token", {"userId": "bob"}), 404, "INVALID_ARGUMENT")


@pytest.mark.parametrize("user_id", ["", "a b", "bob\n", "x" * 65, "ä"])
async def test_no_development_token_for_what_is_no_user_id(world: World, user_id: str) -> None:
    answer = await world.call("POST", "/dev/token", {"userId": user_id}, token=None)
    refused(answer, 400, "INVALID_ARGUMENT", saying="userId: expected 1 to 64 of")


# ---- Who asks.


@pytest.mark.parametrize(("method", "path", "body"), CALLS, ids=lambda value: str(value)[:40])
async def test_every_call_needs_a_token(world: World, method: str, path: str, body: object) -> None:
    for token, challenge in ((None, "Bearer"), ("a.b.c", 'Bearer error="invalid_token"')):
        answer = await world.call(method, path, body, token=token)
        refused(answer, 401, "UNAUTHENTICATED")
        assert answer.headers["WWW-Authenticate"] == challenge
    assert world.chat.asked == []


async def test_a_token_that_has_expired_is_refused(world: World) -> None:
    world.clock.advance(world.settings.dev_token_ttl_s + world.settings.jwt_leeway_s)
    refused(await world.call("GET", "/conversations"), 401, "UNAUTHENTICATED", saying="expired")


@pytest.mark.parametrize("header", ["", "Basic YTpi", "Bearer", "Bearer a b"])
async def test_another_authorization_is_refused(world: World, header: str) -> None:
    answer = await world.call("GET", "/conversations", headers={"Authorization": header}, token=None)
    refused(answer, 401, "UNAUTHENTICATED")


async def test_a_token_in_the_url_is_nothing(world: World) -> None:
    answer = await world.call("GET", f"/conversations?token={world.alice}&access_token={world.alice}", token=None)
    refused(answer, 401, "UNAUTHENTICATED")


async def test_two_authorization_headers_are_refused(world: World) -> None:
    head = f"GET /api/v1/conversations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.alice}\r\n"
    answer = await _raw(world, f"{head}Authorization: Bearer {world.alice}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert (await _raw(world, f"{head}\r\n".encode())).startswith(b"HTTP/1.1 200 ")


async def test_a_body_is_not_even_read_before_it_is_known_who_sends_it(world: World) -> None:
    answer = await world.call("POST", "/conversations/g1/messages", raw=b"[" * 70 * KIB, token=None)
    refused(answer, 401, "UNAUTHENTICATED")


# ---- Whose conversation it is.


@pytest.mark.parametrize("id_", ["g-1", "x" * 65, "%2e%2e", "g1%00", "g1%0a", "%D9%A1", "*", "$gt", "g1.g2"])
@pytest.mark.parametrize(("method", "path", "body"), OF_ONE_CONVERSATION, ids=lambda value: str(value)[:40])
async def test_an_id_that_cannot_be_one_is_answered_as_one_that_does_not_exist(
    world: World, method: str, path: str, body: object, id_: str
) -> None:
    impossible = await world.call(method, path.replace("g1", id_), body)
    assert world.chat.asked == []
    # In words over gRPC, as chat says it.
    world.chat.raises = Forbidden.told(str(NotAMember()))
    absent = await world.call(method, path, body)
    refused(impossible, 403, "FORBIDDEN", saying=LOST)
    assert (impossible.status, impossible.raw) == (absent.status, absent.raw)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize("id_", ["x" * 65, "a%20b", "a%0a", "%C3%A4", "a:b"])
async def test_a_member_that_cannot_be_one_is_refused(world: World, method: str, id_: str) -> None:
    answer = await world.call(method, f"/conversations/g1/members/{id_}")
    refused(answer, 400, "INVALID_ARGUMENT", saying="userId: expected")
    assert world.chat.asked == []


# ---- What chat refuses.


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Forbidden(), 403, "FORBIDDEN"),
        (NotFound(), 403, "FORBIDDEN"),
        (Conflict(), 409, "CONFLICT"),
        (RateLimited(retry_after_ms=1_200), 429, "RATE_LIMITED"),
        (TooLarge(), 413, "TOO_LARGE"),
        (Unavailable(), 503, "UNAVAILABLE"),
        (DeadlineExceeded(), 503, "UNAVAILABLE"),
        (Aborted(), 503, "UNAVAILABLE"),
        (Internal(), 500, "INTERNAL"),
        (Unimplemented(), 500, "INTERNAL"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ServiceError) else str(value),
)
async def test_a_refusal_of_chat_has_its_own_status(world: World, error: ServiceError, status: int, code: str) -> None:
    world.chat.raises = error
    answer = await world.call("POST", "/conversations/g1/messages", {"content": "hi", "type": "text"})
    refused(answer, status, code)


async def test_later_is_said_twice_in_the_body_and_in_whole_seconds_in_the_header(world: World) -> None:
    world.chat.raises = RateLimited(retry_after_ms=1_200)
    answer = await world.call("POST", "/conversations/g1/messages", {"content": "hi", "type": "text"})
    assert answer.json["retryAfterMs"] == 1_200
    assert answer.headers["Retry-After"] == "2"


async def test_what_is_away_inside_is_nobodys_business(world: World) -> None:
    world.chat.raises = Unavailable(status="10.0.0.7:8090 refused")
    answer = await world.call("GET", "/conversations/g1")
    refused(answer, 503, "UNAVAILABLE")
    assert b"10.0.0.7" not in answer.raw
    assert answer.json["retryAfterMs"] > 0


async def test_a_mark_is_refused_as_everything_else_is(world: World) -> None:
    world.chat.raises = Forbidden()
    refused(await world.call("POST", "/conversations/g1/read", {"messageId": "g1-0000000003"}), 403, "FORBIDDEN")


async def test_a_bug_is_logged_once_with_where_it_was_and_told_to_nobody(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    world.chat.raises = RuntimeError("the password is xyzzy")
    answer = await world.call("GET", "/conversations/g1", headers={"x-correlation-id": "find-me"})
    refused(answer, 500, "INTERNAL")
    assert b"xyzzy" not in answer.raw
    captured = capfd.readouterr()
    log = captured.out + captured.err
    assert log.count("http_request_failed") == 1
    assert "fake_chat.py" in log
    world.chat.raises = None
    assert (await world.call("GET", "/conversations/g1")).status == 200


# ---- How much.


async def test_sends_over_http_count_against_the_users_limit_and_nothing_else_does(world: World) -> None:
    body = {"content": "hi", "type": "text"}
    for _ in range(3):
        assert (await world.call("POST", "/conversations/g1/messages", body)).status == 201
    answer = await world.call("POST", "/conversations/g1/messages", body)
    refused(answer, 429, "RATE_LIMITED")
    assert len(world.chat.asked) == 3
    assert (await world.call("GET", "/conversations/g1/messages")).status == 200
    world.clock.advance(answer.json["retryAfterMs"] / 1000)
    assert (await world.call("POST", "/conversations/g1/messages", body)).status == 201


@pytest.mark.parametrize("letter", ["a", "ä", "€", "😀"])
async def test_content_may_have_16_kib_of_utf_8_and_no_more(world: World, letter: str) -> None:
    longest = letter * (16 * KIB // len(letter.encode()))
    body = {"content": longest, "type": "text"}
    assert (await world.call("POST", "/conversations/g1/messages", body)).status == 201
    answer = await world.call("POST", "/conversations/g1/messages", {"content": longest + letter, "type": "text"})
    refused(answer, 413, "TOO_LARGE", saying="at most 16384 bytes")
    assert len(world.chat.asked) == 1


@pytest.mark.parametrize(("method", "path", "body"), WITH_BODY, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
async def test_a_body_that_is_too_large_is_refused_before_it_is_parsed(
    world: World, method: str, path: str, body: object, chunked: bool
) -> None:
    limit = (128 if path == "/conversations" else 64) * KIB
    good = json.dumps(body).encode()
    fits = await world.call(method, path, raw=good + b" " * (limit - len(good)), chunked=chunked)
    assert fits.status < 300
    # Not JSON at all: whoever looked at it would say so.
    answer = await world.call(method, path, raw=b"[" * (limit + 1), chunked=chunked)
    refused(answer, 413, "TOO_LARGE", saying=f"at most {limit} bytes")
    assert len(world.chat.asked) == 1


async def test_a_length_that_is_only_claimed_is_refused_at_once(world: World) -> None:
    head = (
        f"POST /api/v1/conversations/g1/read HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.alice}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {1 << 40}\r\n\r\n"
    )
    assert (await _raw(world, head.encode())).startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_never_comes_is_not_waited_for() -> None:
    async with World(connect_timeout_s=0.05) as world:
        head = (
            f"POST /api/v1/conversations/g1/read HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.alice}\r\n"
            "Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{"
        )
        answer = await _raw(world, head.encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"expected within 0.05 s" in answer


async def test_a_thousand_members_with_the_longest_ids_fit_into_one_request(world: World) -> None:
    members = [f"{number:064d}" for number in range(1_000)]
    answer = await world.call("POST", "/conversations", {"type": "group", "memberIds": members})
    assert answer.status == 201
    assert world.chat.asked[0][3] == members


# ---- Bodies.


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "body: expected JSON"),
        (b"{", "body: expected JSON"),
        (b'{"content":"hi","type":"text"', "body: expected JSON"),
        (b'{"content":"hi","type":"te', "body: expected JSON"),
        (b"not json", "body: expected JSON"),
        (b'{"content":"hi","type":"text"} x', "body: expected JSON"),
        (b'{"content":"hi","type":"text",}', "body: expected JSON"),
        (b"{'content':'hi'}", "body: expected JSON"),
        (b"null", "body: expected an object, got null"),
        (b"[]", "body: expected an object, got an array"),
        (b'"text"', "body: expected an object, got a string"),
        (b'{"content":NaN,"type":"text"}', "body: expected JSON"),
        (b'{"content":"hi","type":"text","x":NaN}', "body: expected JSON"),
        (b'{"content":"hi","type":"text","x":-Infinity}', "body: expected JSON"),
        (b'{"content":"hi","content":"ho","type":"text"}', "a name stands twice"),
        (b'{"content":"hi","type":"text","x":{"a":1,"a":2}}', "a name stands twice"),
        (b'{"content":"hi","\\u0063ontent":"ho","type":"text"}', "a name stands twice"),
        (b'{"content":{"$gt":""},"type":"text"}', "content: expected a string, got an object"),
        (b'{"content":["hi"],"type":"text"}', "content: expected a string, got an array"),
        (b'{"content":7,"type":"text"}', "content: expected a string, got an integer"),
        (b'{"content":null,"type":"text"}', "content: expected a string, got null"),
        (b'{"content":true,"type":"text"}', "content: expected a string, got true or false"),
        (b'{"content":"","type":"text"}', "content: expected at least one character"),
        (b'{"type":"text"}', "content: is missing"),
        (b'{"content":"hi","type":"html"}', 'type: expected "text"'),
        (b'{"content":"hi","type":7}', "type: expected a string"),
        (b'{"content":"hi","type":"text","clientMessageId":""}', "clientMessageId: expected 1 to 128 bytes"),
        (b'{"content":"hi","type":"text","clientMessageId":5}', "clientMessageId: expected a string or null"),
        (b'{"content":"\\ud800","type":"text"}', "body: expected JSON"),
        (b'{"content":"\\udc00\\ud800","type":"text"}', "body: expected JSON"),
        (b'{"content":"\xed\xa0\x80","type":"text"}', "body: expected UTF-8"),
        (b'{"content":"\xff","type":"text"}', "body: expected UTF-8"),
        (b'{"content":"hi","type":"text","x":"\xff"}', "body: expected UTF-8"),
        (b'\xef\xbb\xbf{"content":"hi","type":"text"}', "body: expected JSON"),
        ('{"content":"hi","type":"text"}'.encode("utf-16"), "body: expected UTF-8"),
        (b'{"content":"hi","type":"text","x":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "nested too deeply"),
        (b'{"content":"hi","type":"text","x":' + b'{"a":' * 12_000, "nested too deeply"),
        (b'{"content":' + b"[" * 60_000, "content: expected a string"),
        (b'{"content":"hi","type":"text","x":' + b"9" * 5_000 + b"}", "a number is too long"),
    ],
    ids=lambda value: ascii(value)[:50],
)
async def test_a_body_that_is_not_what_was_asked_for_is_refused_with_a_reason(
    world: World, raw: bytes, said: str
) -> None:
    answer = await world.call("POST", "/conversations/g1/messages", raw=raw)
    refused(answer, 400, "INVALID_ARGUMENT", saying=said)
    assert world.chat.asked == []
    assert (await world.call("GET", "/conversations")).status == 200


async def test_a_hundred_thousand_levels_are_too_large_before_they_are_too_deep(world: World) -> None:
    answer = await world.call("POST", "/conversations/g1/messages", raw=b"[" * 100_000)
    refused(answer, 413, "TOO_LARGE")


async def test_a_refusal_does_not_repeat_what_was_sent(world: World) -> None:
    for raw in (b'{"content":"hi","type":"xyzzy"}', b'{"content":"xyzzy\xff"}', b'{"xyzzy":1,"xyzzy":2}', b"xyzzy"):
        assert b"xyzzy" not in (await world.call("POST", "/conversations/g1/messages", raw=raw)).raw
    assert b"xyzzy" not in (await world.call("GET", "/conversations?limit=xyzzy")).raw


@pytest.mark.parametrize(("length", "status"), [(128, 201), (129, 400)])
async def test_a_client_message_id_is_measured_in_bytes(world: World, length: int, status: int) -> None:
    id_ = "ä" * 64 + "x" * (length - 128)
    answer = await world.call("POST", "/conversations/g1/messages", {"content": "hi", "clientMessageId": id_})
    assert answer.status == status


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"memberIds": []}, "type: is missing"),
        ({"type": "channel", "memberIds": []}, 'type: expected "direct" or "group"'),
        ({"type": "group"}, "memberIds: is missing"),
        ({"type": "group", "memberIds": "bob"}, "memberIds: expected an array, got a string"),
        ({"type": "group", "memberIds": [7]}, "memberIds[0]: expected a string, got an integer"),
        ({"type": "group", "memberIds": ["bob", "b b"]}, "memberIds: expected each to be 1 to 64 of"),
        ({"type": "group", "memberIds": ["bob\n"]}, "memberIds: expected each to be 1 to 64 of"),
        ({"type": "group", "memberIds": [], "title": "x" * 201}, "title: expected a string"),
        ({"type": "group", "memberIds": [], "title": {"$ne": None}}, "title: expected a string or null"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_conversation_that_cannot_be_is_refused_with_a_reason(world: World, body: object, said: str) -> None:
    refused(await world.call("POST", "/conversations", body), 400, "INVALID_ARGUMENT", saying=said)
    assert world.chat.asked == []


@pytest.mark.parametrize("type_", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
async def test_a_body_of_another_type_is_refused(world: World, type_: str) -> None:
    answer = await world.call(
        "POST", "/conversations/g1/read", {"messageId": "g1-0000000003"}, headers={"Content-Type": type_}
    )
    refused(answer, 400, "INVALID_ARGUMENT", saying="Content-Type: expected application/json")


@pytest.mark.parametrize("type_", ["application/json; charset=utf-8", "Application/JSON"])
async def test_json_is_json_with_any_parameter_and_in_any_case(world: World, type_: str) -> None:
    answer = await world.call(
        "POST", "/conversations/g1/read", {"messageId": "g1-0000000003"}, headers={"Content-Type": type_}
    )
    assert answer.status == 204


async def test_a_compressed_body_is_refused(world: World) -> None:
    answer = await world.call("POST", "/conversations/g1/read", raw=b"x", headers={"Content-Encoding": "br"})
    refused(answer, 400, "INVALID_ARGUMENT", saying="Content-Encoding")


# ---- Queries.


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("limit=0", "limit: expected an integer >= 1"),
        ("limit=201", "limit: expected an integer <= 200"),
        ("limit=-1", "limit: expected an integer >= 1"),
        ("limit=ten", "limit: expected an integer"),
        ("limit=1.0", "limit: expected an integer"),
        ("limit=1e1", "limit: expected an integer"),
        ("limit=null", "limit: expected an integer"),
        ("limit=%D9%A1", "limit: expected an integer"),
        ("limit=%201", "limit: expected an integer"),
        ("limit=1_0", "limit: expected an integer"),
        ("limit=9999999999999999999999", "limit: expected an integer"),
        ("limit=10&limit=20", "limit: expected once"),
        ("afterSeq=-1", "afterSeq: expected an integer >= 0"),
        ("afterSeq=null", "afterSeq: expected an integer"),
        ("afterSeq=10000000000", "afterSeq: expected an integer <= 9999999999"),
        ("beforeSeq=0", "beforeSeq: expected an integer >= 1"),
        ("beforeSeq[$gt]=1&beforeSeq=x", "beforeSeq: expected an integer"),
    ],
)
async def test_a_number_that_is_none_or_out_of_range_is_refused_by_its_name(
    world: World, query: str, said: str
) -> None:
    refused(await world.call("GET", f"/conversations/g1/messages?{query}"), 400, "INVALID_ARGUMENT", saying=said)
    assert world.chat.asked == []


@pytest.mark.parametrize("query", ["limit=101", "limit=0", "cursor=a%20b", "cursor=%00", "cursor=" + "x" * 257])
async def test_a_list_is_asked_for_with_a_cursor_of_ours_and_a_limit_up_to_100(world: World, query: str) -> None:
    answer = await world.call("GET", f"/conversations?{query}")
    refused(answer, 400, "INVALID_ARGUMENT", saying=query.partition("=")[0])
    assert world.chat.asked == []


# ---- Paths, methods, headers.


@pytest.mark.parametrize(
    "path", ["", "/", "/nothing", "/conversations/", "/conversations//messages", "/presence/bob", "/device", "/dev"]
)
async def test_a_path_that_does_not_exist_is_404_with_the_error_object(world: World, path: str) -> None:
    for token in ("", None):
        refused(await world.call("GET", path, token=token), 404, "INVALID_ARGUMENT", saying="openapi.json")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/conversations", "GET, POST"),
        ("PATCH", "/conversations/g1", "GET"),
        ("GET", "/conversations/g1/members/bob", "DELETE, PUT"),
        ("OPTIONS", "/conversations", "GET, POST"),
        ("PROPFIND", "/conversations/g1/read", "POST"),
    ],
)
async def test_a_method_that_a_path_does_not_have_is_405(world: World, method: str, path: str, allowed: str) -> None:
    answer = await world.call(method, path)
    refused(answer, 405, "INVALID_ARGUMENT", saying=allowed)
    assert answer.headers["Allow"] == allowed


async def test_a_correlation_id_comes_back_and_an_odd_one_is_replaced(world: World) -> None:
    async def given_back(sent: str) -> str:
        answer = await world.call("GET", "/conversations", headers={"x-correlation-id": sent})
        return answer.headers["x-correlation-id"]

    assert await given_back("trace-1:a.b_c") == "trace-1:a.b_c"
    for odd in ("a b", "x" * 65, "", "ä"):
        assert uuid.UUID(await given_back(odd)).version == 7
    refusal = await world.call("GET", "/nothing", headers={"x-correlation-id": "of-a-refusal"})
    assert refusal.headers["x-correlation-id"] == "of-a-refusal"


async def test_requests_are_counted_by_route_and_never_by_id(world: World) -> None:
    for id_ in ("g1", "g2"):
        await world.call("GET", f"/conversations/{id_}")
    await world.call("GET", "/nothing")
    await world.call("PROPFIND", "/conversations")
    route = "/api/v1/conversations/{conversationId}"
    assert world.count("requests_total", method="GET", route=route, status="200") == 2
    assert world.count("seconds_count", method="GET", route=route) == 2
    assert world.count("requests_total", method="GET", route="none", status="404") == 1
    assert world.count("requests_total", method="other", route="none", status="405") == 1


# ---- Pages of other origins.


@pytest.fixture
async def shared() -> AsyncIterator[World]:
    """An API that pages of one other origin may use."""
    async with World(allowed_origins=(ORIGIN,)) as world:
        yield world


async def test_a_page_of_an_allowed_origin_may_read_answers_and_refusals(shared: World) -> None:
    for path in ("/conversations", "/nothing"):
        answer = await shared.call("GET", path, headers={"Origin": ORIGIN})
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert answer.headers["Vary"] == "Origin"
        assert "x-correlation-id" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_a_preflight_of_an_allowed_origin_is_answered_without_a_token(shared: World) -> None:
    answer = await shared.call("OPTIONS", "/conversations/g1/members/bob", headers=_preflight(ORIGIN), token=None)
    assert (answer.status, answer.raw) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
    assert "authorization" in answer.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize(
    "origin", ["https://chat.example.org.evil.net", "http://chat.example.org", "null", "https://CHAT.example.org", "*"]
)
async def test_a_page_of_another_origin_is_not_let_in(shared: World, origin: str) -> None:
    preflight = await shared.call("OPTIONS", "/conversations", headers=_preflight(origin), token=None)
    refused(preflight, 405, "INVALID_ARGUMENT")
    answer = await shared.call("GET", "/conversations", headers={"Origin": origin})
    for headers in (preflight.headers, answer.headers):
        assert not any(name.lower().startswith("access-control-") for name in headers)
        assert headers["Vary"] == "Origin"


async def test_without_allowed_origins_nothing_is_said_about_origins(world: World) -> None:
    answer = await world.call("GET", "/conversations", headers={"Origin": ORIGIN})
    assert not any(name.lower().startswith("access-control-") for name in answer.headers)


def _preflight(origin: str) -> Json:
    return {"Origin": origin, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}


# ---- The description.


async def test_the_description_is_open_to_anybody_and_holds_every_route(world: World) -> None:
    answer = await world.call("GET", "/openapi.json", token=None)
    described = {(method.upper(), path) for path, methods in answer.json["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in world.gateway.routes}
    assert described >= {
        (method, re.sub(r"g1", "{conversationId}", path).replace("carol", "{userId}")) for method, path, _ in CALLS
    }
    assert ("POST", "/dev/token") in described


async def test_the_description_has_the_structure_of_openapi_3_1(world: World) -> None:
    document = (await world.call("GET", "/openapi.json", token=None)).json
    assert document["openapi"].startswith("3.1.")
    assert {"title", "version"} <= set(document["info"])
    assert document["servers"] == [{"url": "/api/v1"}]
    names = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            names.append(operation["operationId"])
            placed = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert placed == set(re.findall(r"\{(\w+)\}", path))
            for parameter in operation.get("parameters", ()):
                assert parameter["in"] in ("path", "query", "header")
                assert parameter["schema"]["type"] in ("string", "integer", "array")
                assert parameter["in"] != "path" or parameter["required"] is True
            assert ("requestBody" in operation) is (method == "post")
            assert all(re.fullmatch(r"[2-5]\d\d", status) for status in operation["responses"])
            assert operation["security"] == ([] if path in ("/dev/token", "/openapi.json") else [{"token": []}])
            assert ("401" in operation["responses"]) is (operation["security"] != [])
            assert "500" in operation["responses"]
    assert len(names) == len(set(names))
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


async def test_every_reference_of_the_description_leads_somewhere_and_every_part_is_used(world: World) -> None:
    answer = await world.call("GET", "/openapi.json", token=None)
    used = set(re.findall(r'"\$ref":"#/components/(\w+)/(\w+)"', answer.raw.decode()))
    assert answer.raw.count(b"$ref") >= len(used) > 10
    components = answer.json["components"]
    assert used == {(kind, name) for kind in ("schemas", "responses") for name in components[kind]}


async def test_the_description_shows_each_refusal_with_the_error_object(world: World) -> None:
    components = (await world.call("GET", "/openapi.json", token=None)).json["components"]
    for response in components["responses"].values():
        assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
    error = components["schemas"]["ErrorBody"]
    assert set(error["required"]) == {"event", "code", "message"}
    assert set(error["properties"]["code"]["enum"]) == {
        "INVALID_ARGUMENT", "UNAUTHENTICATED", "FORBIDDEN", "CONFLICT", "RATE_LIMITED", "TOO_LARGE", "UNAVAILABLE",
        "INTERNAL",
    }  # fmt: skip


async def test_the_description_shows_the_limits_that_are_kept(world: World) -> None:
    document = (await world.call("GET", "/openapi.json", token=None)).json
    parameters = document["paths"]["/conversations/{conversationId}/messages"]["get"]["parameters"]
    limits = {p["name"]: (p["schema"].get("minimum"), p["schema"].get("maximum")) for p in parameters}
    assert limits["limit"] == (1, 200)
    assert limits["afterSeq"] == (0, 9_999_999_999)
    message_shape = document["components"]["schemas"]["NewMessage"]
    assert message_shape["required"] == ["content"]
    assert message_shape["properties"]["type"]["enum"] == ["text"]


# ---- The page.


@pytest.fixture
async def pages(tmp_path: Any) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    (tmp_path / "web" / "assets").mkdir(parents=True)
    for name, content in {
        "index.html": "<!doctype html>",
        "plain.js": "1",
        "assets/app.css": "a{}",
        ".env": "SECRET",
        "notes.md": "SECRET",
        "../outside.txt": "SECRET",
    }.items():
        (tmp_path / "web" / name).write_text(content)
    (tmp_path / "web" / "link.txt").symlink_to(tmp_path / "outside.txt")
    app = web.Application()
    app.add_routes(page_routes(str(tmp_path / "web")))
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "type_", "content"),
    [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/index.html", "text/html; charset=utf-8", "<!doctype html>"),
        ("/plain.js", "text/javascript; charset=utf-8", "1"),
        ("/assets/app.css", "text/css; charset=utf-8", "a{}"),
    ],
)
async def test_each_file_of_the_page_has_its_type_and_a_strict_policy(
    pages: TestClient[web.Request, web.Application], path: str, type_: str, content: str
) -> None:
    async with pages.get(path, headers={"Host": "chat.example.org:8080"}) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, type_)
        assert await response.text() == content
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';")
        assert "connect-src 'self' ws://chat.example.org:8080 wss://chat.example.org:8080;" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_page_that_has_not_changed_is_not_sent_again(pages: TestClient[web.Request, web.Application]) -> None:
    async with pages.get("/") as first:
        assert first.headers["Cache-Control"] == "no-cache"
        etag = first.headers["ETag"]
    async with pages.get("/", headers={"If-None-Match": f'W/"x", {etag}'}) as again:
        assert (again.status, await again.read(), again.headers["ETag"]) == (304, b"", etag)
    async with pages.get("/plain.js", headers={"If-None-Match": etag}) as other:
        assert other.status == 200


@pytest.mark.parametrize(
    "path", ["/.env", "/notes.md", "/link.txt", "/outside.txt", "/../outside.txt", "/%2e%2e/outside.txt", "/assets/"]
)
async def test_nothing_else_is_served(pages: TestClient[web.Request, web.Application], path: str) -> None:
    async with pages.get(URL(path, encoded=True)) as response:
        assert response.status == 404
        assert "SECRET" not in await response.text()


@pytest.mark.parametrize("host", ["x; script-src *", "a b", "x\u00e4", "'unsafe-inline'"])
async def test_a_host_header_cannot_widen_the_policy(
    pages: TestClient[web.Request, web.Application], host: str
) -> None:
    async with pages.get("/", headers={"Host": host}) as response:
        assert response.status == 200
        assert "connect-src 'self';" in response.headers["Content-Security-Policy"]


def test_a_web_root_without_a_page_stops_the_edge_and_none_means_no_page(tmp_path: Any) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigError, match="PARLEY_EDGE_WEB_ROOT"):
            page_routes(str(root))
    assert page_routes("") == []


async def _raw(world: World, request: bytes) -> bytes:
    """What comes back first for these bytes."""
    reader, writer = await asyncio.open_connection(world.client.server.host, world.client.server.port)
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        return head + await reader.readexactly(int(length[1]) if length else 0)
    finally:
        writer.close()
        await writer.wait_closed()
