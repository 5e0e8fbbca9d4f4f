"""The ways in which somebody says how far he has read: over an edge, or past it at one chat replica.

Each raises AssertionError where it was refused or not answered: `eventually` tries again.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import grpc

from protos.chat.v1 import chat_pb2, chat_pb2_grpc
from scripts.stack import Service
from services.runtime.channel import open_channel
from tests.e2e.api import Api, ConversationId, User
from tests.e2e.frames import an_answer_to
from tests.e2e.world import Connection

_RPC_S = 5.0

_receipts = count(1)


async def read_over_http(api: Api, user: User, conversation: ConversationId, message_id: str) -> None:
    path = f"/conversations/{conversation}/read"
    answer = await api.call("POST", path, token=user.token, json={"messageId": message_id})
    answer.must_be(204)


async def read_over_stomp(connection: Connection, conversation: ConversationId, message_id: str) -> None:
    """The connection has to have the queue of errors."""
    receipt = f"read-{next(_receipts)}"
    headers = {"destination": "/app/chat.read", "content-type": "application/json", "receipt": receipt}
    body = json.dumps({"conversationId": conversation, "messageId": message_id})
    await connection.client.send("SEND", headers, body)
    answer = await connection.take(an_answer_to(receipt))
    assert answer.command == "RECEIPT", answer


async def read_at_chat(chat: chat_pb2_grpc.ChatServiceStub, user: User, conversation: ConversationId, seq: int) -> None:
    """As an edge does that routes this conversation to that replica."""
    move = chat_pb2.WatermarkMove(
        conversation_id=conversation, user_id=user.user_id, kind=chat_pb2.WATERMARK_KIND_SEEN, seq=seq
    )
    try:
        answer = await chat.MoveWatermarks(chat_pb2.MoveWatermarksRequest(moves=[move]), timeout=_RPC_S)
    except grpc.aio.AioRpcError as error:
        raise AssertionError(f"{error.code()}: {error.details()}") from error
    assert not answer.results[0].HasField("refusal"), answer


@asynccontextmanager
async def stubs_of(chats: Sequence[Service]) -> AsyncIterator[Sequence[chat_pb2_grpc.ChatServiceStub]]:
    async with AsyncExitStack() as closing:
        channels = [open_channel(chat.address) for chat in chats]
        for channel in channels:
            closing.push_async_callback(channel.close)
        yield [chat_pb2_grpc.ChatServiceStub(channel) for channel in channels]
