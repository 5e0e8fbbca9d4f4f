"""People of a test who use a client library that nobody here wrote, in the words of wire.md."""

import asyncio
import json
from dataclasses import dataclass
from itertools import count

from tests.e2e.api import Json, User
from tests.e2e.clients import StompClient
from tests.e2e.frames import Frame, a, an_event
from tests.e2e.stompjs import StompJs
from tests.e2e.stomppy import StompPy
from tests.e2e.waiting import PATIENCE_S
from tests.e2e.world import World, topic
from tests.support.push_services import WebPushService

Library = type[StompJs] | type[StompPy]


@dataclass(frozen=True, slots=True)
class Sent:
    """What the RECEIPT of a message says."""

    message_id: str
    seq: int


class Person:
    """A connected user. Whatever he sends asks for a receipt and waits for it."""

    def __init__(self, user: User, client: StompClient) -> None:
        self.user = user
        self.client = client
        self._numbers = count(1)

    @property
    def id(self) -> str:
        return self.user.user_id

    async def watch(self, conversation: str, id: str = "conversation", *, ack: str = "auto") -> Frame:
        return await self.client.subscribe(topic(conversation), id, ack=ack)

    async def listen(self, queue: str) -> Frame:
        """Subscribe to one of the user's own queues."""
        return await self.client.subscribe(queue, queue)

    async def tell(self, destination: str, **body: object) -> Frame:
        """SEND, and the RECEIPT."""
        return await self.client.inbox.take(a("RECEIPT", receipt_id=await self._send(destination, body)))

    async def is_refused(self, destination: str, **body: object) -> Json:
        """SEND, and the refusal; he has to listen to `ERRORS`."""
        return await self.hears("error", receiptId=await self._send(destination, body))

    async def say(self, conversation: str, content: str) -> Sent:
        receipt = await self.tell("/app/chat.send", conversationId=conversation, content=content, type="text")
        return Sent(receipt.headers["message-id"], receipt.seq)

    async def read(self, conversation: str, message_id: str) -> None:
        await self.tell("/app/chat.read", conversationId=conversation, messageId=message_id)

    async def hears(self, event: str, *, timeout_s: float = PATIENCE_S, **fields: object) -> Json:
        """The body of the first such event that was not waited for before."""
        return (await self.client.inbox.take(an_event(event, **fields), timeout_s=timeout_s)).json()

    async def sees(self, other: User, status: str) -> Json:
        """The event that shows the other so; what he was before is passed over."""
        while (event := await self.hears("presence", userId=other.user_id))["status"] != status:
            pass
        return event

    def heard(self, event: str, **fields: object) -> list[Json]:
        """Every such event that has ever come, in order."""
        wanted = an_event(event, **fields)
        return [frame.json() for frame in self.client.inbox.frames if wanted(frame)]

    async def _send(self, destination: str, body: Json) -> str:
        """The receipt that it asks for."""
        receipt = f"told {next(self._numbers)}"
        headers = {"content-type": "application/json", "receipt": receipt}
        await self.client.send(destination, json.dumps(body), headers)
        return receipt


async def join(world: World, user: User, edge: int = 0, *, library: Library = StompJs) -> Person:
    """The user, connected to that edge."""
    client: StompClient = await library.start()
    world.close_at_end(client.close)
    headers = {"host": "parley", "Authorization": f"Bearer {user.token}"}
    connected = await client.connect(world.edge(edge), version="1.2", headers=headers)
    assert connected.command == "CONNECTED", connected
    return Person(user, client)


async def join_all(world: World, *places: tuple[User, int]) -> list[Person]:
    """Each user, connected to the edge beside him: the first by stompjs (whose Node takes a while to start), the others
    by stomp.py."""
    joining = [
        join(world, user, edge, library=StompPy if number else StompJs) for number, (user, edge) in enumerate(places)
    ]
    return list(await asyncio.gather(*joining))


async def register_browser(world: World, browsers: WebPushService, user: User) -> str:
    """A browser of that user, registered for pushes under his id; gives the device's id."""
    address = browsers.subscribe(user.user_id)
    body = {
        "platform": "webpush",
        "endpoint": address.endpoint,
        "keys": {"p256dh": address.p256dh, "auth": address.auth},
    }
    answer = await world.api().call("POST", "/devices", token=user.token, json=body)
    return str(answer.must_be(201)["deviceId"])
