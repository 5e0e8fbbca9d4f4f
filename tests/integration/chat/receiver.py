"""A push service that knows when each push came, and may keep its answers to itself for a while."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from tests.e2e.api import Api, User
from tests.support.push_services import WebPushService


class Receiver(WebPushService):
    def __init__(self, application_key: ec.EllipticCurvePrivateKey) -> None:
        super().__init__(application_key)
        self.accepted_at_s: list[float] = []
        """When `accepted` grew, on the event loop's clock."""
        self._answers_left: int | None = None
        self._answering = asyncio.Event()
        self._answering.set()

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/push/{name}", self._accept)]

    def answer_only(self, count: int) -> None:
        """Takes everything, as before, but after that many answers gives no more."""
        self._answers_left = count
        self._answering.clear()

    def answer_everything(self) -> None:
        self._answers_left = None
        self._answering.set()

    async def register(self, api: Api, user: User, *names: str) -> None:
        """Devices of that user, as a browser would register them."""
        for name in names:
            address = self.subscribe(name)
            keys = {"p256dh": address.p256dh, "auth": address.auth}
            body = {"platform": "webpush", "endpoint": address.endpoint, "keys": keys}
            (await api.call("POST", "/devices", token=user.token, json=body)).must_be(201)

    def of_messages(self, device: str) -> Mapping[str, list[tuple[str, str]]]:
        """By message id: the (`Topic`, tag) of every push that the device was given for it. More than one is still
        one notification to the person, as long as all of them are equal."""
        pushes: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for push in self.accepted_by(device):
            if push.body["event"] == "message":
                pushes[push.body["messageId"]].append((push.headers["Topic"], push.body["tag"]))
        return pushes

    async def _accept(self, request: web.Request) -> web.Response:
        answer = await self._push(request)
        self.accepted_at_s += [asyncio.get_running_loop().time()] * (len(self.accepted) - len(self.accepted_at_s))
        if self._answers_left is not None:
            if self._answers_left == 0:
                await self._answering.wait()
            else:
                self._answers_left -= 1
        return answer


def assert_visible_once(receiver: Receiver, device: str, message_ids: set[str]) -> int:
    """Exactly these messages, each shown once. Gives the number of pushes that replaced an equal one."""
    pushes = receiver.of_messages(device)
    assert pushes.keys() == message_ids, f"missing {message_ids - pushes.keys()}, more {pushes.keys() - message_ids}"
    for message_id, given in pushes.items():
        assert len(set(given)) == 1, f"{message_id} is shown more than once: {given}"
    shown = {given[0] for given in pushes.values()}
    assert len(shown) == len(message_ids), "two messages replace one another"
    return sum(len(given) for given in pushes.values()) - len(pushes)
