"""A chat that makes no mistake, and the history of some people who use it while an edge is killed.

What the checker's own tests begin with: clean as it is, and wrong in one place as soon as somebody plants something.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from tests.chaos.entries import (
    AddDevice,
    AddMember,
    AnyEntry,
    AnyOperation,
    AnyResult,
    Connect,
    Conversation,
    Disconnected,
    Done,
    Fault,
    FaultBegan,
    FinalLog,
    FinalMarks,
    GapTold,
    Healed,
    Invoked,
    Limits,
    Live,
    Logged,
    Mark,
    Measured,
    Message,
    Moment,
    Notified,
    Page,
    PresenceTold,
    Pushed,
    Read,
    Received,
    Refused,
    RemoveMember,
    Restarted,
    Role,
    Send,
    Source,
    Started,
    Status,
    StatusTold,
    Stored,
    Subscribe,
    Succeeded,
    UnreadTold,
    Unsure,
)

EDGES = ("edge-1", "edge-2")
ROOM, PAIR = "groom", "dpair"
ALICE, BOB, CAROL, DAVE, EVE = "alice", "bob", "carol", "dave", "eve"
# Dave is offline, with two devices; Eve is removed in the end.
MEMBERS = {ROOM: (ALICE, BOB, CAROL, DAVE, EVE), PAIR: (ALICE, BOB)}
DEVICES = ("dave's phone", "dave's tablet")
MARKER = "body-7c1e"
LIMITS = Limits(connections_per_user=4, sends_per_s=20, send_burst=60)


@dataclass(slots=True)
class _Client:
    user: str
    edge: str
    session: int = 0
    # Of each conversation that it is subscribed to: the operation, and the last seq that it has.
    subscriptions: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.user}'s client"


class PerfectChat:
    """Each method does something and records it; time goes on by itself."""

    def __init__(self, rng: random.Random) -> None:
        self.entries: list[AnyEntry] = []
        self._rng = rng
        self._now_s = 100.0
        self._ops = count(1)
        self._keys = count(1)
        self._logs: dict[str, list[Message]] = {ROOM: [], PAIR: []}
        self._read: dict[tuple[str, str], int] = {}
        self._delivered: dict[tuple[str, str], int] = {}
        self._members = {conversation: list(members) for conversation, members in MEMBERS.items()}
        self._clients = {user: _Client(user, EDGES[place % 2]) for place, user in enumerate((ALICE, BOB, CAROL, EVE))}
        conversations = tuple(Conversation(each, members) for each, members in MEMBERS.items())
        self._add(
            Started(
                at_s=self._now_s,
                seed=7,
                body_marker=MARKER,
                edges=EDGES,
                conversations=conversations,
                limits=LIMITS,
            )
        )

    # ---- The parts of a run.

    def begin(self) -> None:
        self._measure(Moment.BEFORE)
        dave = _Client(DAVE, EDGES[0])
        self._connect(dave)
        for device in DEVICES:
            self._succeed(self._invoke(dave, AddDevice(device)), Done())
        self._disconnect(dave, 1000)
        self._pass(25.0)
        for client in self._clients.values():
            self._connect(client)
            self._subscribe(client, ROOM, self._rng.choice((None, 0)))
        self._subscribe(self._clients[ALICE], PAIR, 0)
        for about in (ALICE, BOB, CAROL, EVE):
            for client in self._clients.values():
                self._add(PresenceTold(at_s=self._soon(), client=client.name, about=about, status="online"))
        self._add(PresenceTold(at_s=self._soon(), client=self._clients[BOB].name, about=DAVE, status="offline"))

    def send(self, user: str, conversation: str = ROOM) -> None:
        client = self._clients[user]
        op, message = self._say(client, conversation)
        self._store(conversation, message)
        self._succeed(op, Stored(message.message_id, message.seq))

    def send_pipelined(self, user: str, conversation: str = ROOM) -> None:
        client = self._clients[user]
        said = []
        for place in range(3):
            op, message = self._say(client, conversation, ahead=place)
            said.append((op, message))
        for op, message in said:
            self._store(conversation, message)
            self._succeed(op, Stored(message.message_id, message.seq))

    def send_unanswered(self, user: str, *, stored: bool) -> None:
        """The connection is lost before the answer; the client tries again, with the same key."""
        client = self._clients[user]
        op, message = self._say(client, ROOM)
        if stored:
            self._store(ROOM, message)
        self._add(Unsure(at_s=self._soon(), op=op, reason="the connection was lost"))
        self.move(user)
        again = self._invoke(client, Send(ROOM, message.key, message.content))
        if not stored:
            self._store(ROOM, message)
        self._succeed(again, Stored(message.message_id, message.seq))

    def send_refused(self, user: str) -> None:
        op = self._invoke(self._clients[user], Send(ROOM, f"refused {next(self._keys)}", f"{MARKER} refused"))
        self._add(Refused(at_s=self._soon(), op=op, code="RATE_LIMITED"))

    def mark(self, user: str, status: Status) -> None:
        client = self._clients[user]
        seq = client.last.get(ROOM, 0)
        if not any(message.seq == seq for message in self._logs[ROOM]) or not self._has_seen(user, seq):
            return
        op = self._invoke(client, Mark(ROOM, seq, status))
        marks = [self._delivered] if status is Status.DELIVERED else [self._delivered, self._read]
        moved = marks[-1].get((ROOM, user), 0) < seq
        for each in marks:
            each[ROOM, user] = max(seq, each.get((ROOM, user), 0))
        self._succeed(op, Done())
        for other in self._clients.values():
            if moved and ROOM in other.subscriptions:
                number = other.subscriptions[ROOM]
                self._add(StatusTold(at_s=self._soon(), subscription=number, user=user, seq=seq, status=status))

    def move(self, user: str) -> None:
        """Loses the connection, comes back over the other edge and resumes."""
        client = self._clients[user]
        watched = list(client.subscriptions)
        self._disconnect(client, 1006)
        client.edge = EDGES[1 - EDGES.index(client.edge)]
        self._connect(client)
        for conversation in watched:
            self._subscribe(client, conversation, client.last[conversation])

    def fall_behind(self, user: str, by: int = 3) -> None:
        """Is told of a gap, and reads what it was not given."""
        client = self._clients[user]
        number = client.subscriptions.pop(ROOM)
        first = client.last[ROOM] + 1
        for _ in range(by):
            self.send(ALICE if user != ALICE else BOB)
        self._add(GapTold(at_s=self._soon(), subscription=number, from_seq=first, to_seq=first + by - 1))
        client.subscriptions[ROOM] = number
        client.last[ROOM] = first + by - 1
        op = self._invoke(client, Read(ROOM, first - 1))
        self._succeed(op, Page(tuple(self._logs[ROOM][first - 1 :])))

    def kill_an_edge(self) -> None:
        self._pass(5.0)
        self._add(FaultBegan(at_s=self._soon(), fault=Fault.KILL, role=Role.EDGE, target=EDGES[0]))
        for user, client in self._clients.items():
            if client.edge == EDGES[0]:
                self.move(user)
        self.send(BOB)
        self._pass(1.0)
        self._add(Restarted(at_s=self._soon(), process=EDGES[0], by_hand=False))

    def restart_rolling(self) -> None:
        self._pass(5.0)
        self._add(FaultBegan(at_s=self._soon(), fault=Fault.ROLLING_RESTART, role=Role.EDGE, target="edges"))
        for user in self._clients:
            self.move(user)
        self.send(CAROL)

    def heal(self) -> None:
        self._pass(1.0)
        self._add(Healed(at_s=self._soon()))

    def remove_eve(self) -> None:
        client = self._clients[EVE]
        op = self._invoke(self._clients[ALICE], RemoveMember(ROOM, EVE))
        self._members[ROOM].remove(EVE)
        del client.subscriptions[ROOM]
        self._succeed(op, Done())
        self.send(ALICE)
        self._pass(3.0)

    def add_eve_again(self) -> None:
        op = self._invoke(self._clients[ALICE], AddMember(ROOM, EVE))
        self._members[ROOM].append(EVE)
        self._read[ROOM, EVE] = self._delivered[ROOM, EVE] = len(self._logs[ROOM])
        self._succeed(op, Done())
        self._subscribe(self._clients[EVE], ROOM, None)
        self.send(ALICE)

    def finish(self) -> None:
        """Waits for quiet and reads everything back three ways."""
        self._pass(25.0)
        for client in self._clients.values():
            self._add(PresenceTold(at_s=self._soon(), client=client.name, about=DAVE, status="offline"))
        bob = self._clients[BOB]
        read = self._read.get((PAIR, BOB), 0)
        unread = len(self._logs[PAIR]) - read
        self._add(
            UnreadTold(
                at_s=self._soon(), client=bob.name, user=BOB, conversation=PAIR, unread_count=unread, read_seq=read
            )
        )
        for conversation, log in self._logs.items():
            for source in Source:
                for reader in self._members[conversation] if source is Source.RESUME else (ALICE,):
                    self._add(
                        FinalLog(
                            at_s=self._soon(),
                            source=source,
                            reader=reader,
                            conversation=conversation,
                            after_seq=0,
                            messages=tuple(log),
                        )
                    )
            for user in self._members[conversation]:
                self._read_marks(conversation, user, len(log))
        self._measure(Moment.AFTER)
        self._add(Logged(at_s=self._soon(), process=EDGES[0], line='{"event": "ready", "level": "info"}'))

    # ---- How each is recorded.

    def _say(self, client: _Client, conversation: str, *, ahead: int = 0) -> tuple[int, Message]:
        number = next(self._keys)
        seq = len(self._logs[conversation]) + 1 + ahead
        message = Message(f"{conversation}-{seq:010d}", seq, client.user, f"k{number}", f"{MARKER} {number}")
        return self._invoke(client, Send(conversation, message.key, message.content)), message

    def _store(self, conversation: str, message: Message) -> None:
        """Makes it durable, shows it to all who watch and pushes it to who is away."""
        self._logs[conversation].append(message)
        who = (conversation, message.sender)
        self._read[who] = max(message.seq, self._read.get(who, 0))
        self._delivered[who] = max(message.seq, self._delivered.get(who, 0))
        for client in self._clients.values():
            number = client.subscriptions.get(conversation)
            if number is not None:
                self._add(Received(at_s=self._soon(), subscription=number, message=message))
                client.last[conversation] = message.seq
        if conversation == PAIR and message.sender != BOB:
            self._add(
                Notified(
                    at_s=self._soon(),
                    client=self._clients[BOB].name,
                    user=BOB,
                    conversation=PAIR,
                    seq=message.seq,
                    sender=message.sender,
                    unread_count=message.seq - self._read.get((PAIR, BOB), 0),
                )
            )
        for device in DEVICES if conversation == ROOM else ():
            self._add(
                Pushed(at_s=self._soon(), device=device, conversation=conversation, seq=message.seq, visible=True)
            )

    def _has_seen(self, user: str, seq: int) -> bool:
        numbers = {
            entry.op
            for entry in self.entries
            if isinstance(entry, Invoked) and entry.user == user and isinstance(entry.operation, Subscribe)
        }
        return any(
            isinstance(entry, Received) and entry.subscription in numbers and entry.message.seq == seq
            for entry in self.entries
        )

    def _connect(self, client: _Client) -> None:
        client.session += 1
        self._succeed(self._invoke(client, Connect()), Done())

    def _disconnect(self, client: _Client, code: int) -> None:
        client.subscriptions.clear()
        self._add(Disconnected(at_s=self._soon(), client=client.name, session=client.session, code=code))

    def _subscribe(self, client: _Client, conversation: str, after: int | None) -> None:
        op = self._invoke(client, Subscribe(conversation, after))
        log = self._logs[conversation]
        for message in log[after:] if after is not None else ():
            self._add(Received(at_s=self._soon(), subscription=op, message=message))
        client.subscriptions[conversation] = op
        client.last[conversation] = len(log)
        self._succeed(op, Live(len(log)))

    def _read_marks(self, conversation: str, user: str, head: int) -> None:
        read = self._read.get((conversation, user), 0)
        delivered = self._delivered.get((conversation, user), 0)
        for source, told in ((Source.MONGODB, delivered), (Source.HTTP, None)):
            self._add(
                FinalMarks(
                    at_s=self._soon(),
                    source=source,
                    conversation=conversation,
                    user=user,
                    delivered_seq=told,
                    read_seq=read,
                    unread_count=head - read,
                )
            )

    def _measure(self, moment: Moment) -> None:
        for process in (*EDGES, "chat-1"):
            descriptors = 40 + self._rng.randint(0, 8)
            self._add(
                Measured(
                    at_s=self._soon(),
                    moment=moment,
                    process=process,
                    descriptors=descriptors,
                    tasks=30,
                    memory_bytes=80 << 20,
                    queued=0,
                )
            )

    def _invoke(self, client: _Client, operation: AnyOperation) -> int:
        op = next(self._ops)
        self._add(
            Invoked(
                at_s=self._soon(),
                op=op,
                client=client.name,
                user=client.user,
                session=client.session,
                edge=client.edge,
                operation=operation,
            )
        )
        return op

    def _succeed(self, op: int, result: AnyResult) -> None:
        self._add(Succeeded(at_s=self._soon(), op=op, result=result))

    def _add(self, entry: AnyEntry) -> None:
        self.entries.append(entry)

    def _pass(self, seconds: float) -> None:
        self._now_s += seconds

    def _soon(self) -> float:
        self._now_s += 0.001 + 0.004 * self._rng.random()
        return self._now_s


def perfect_history(rng: random.Random) -> list[AnyEntry]:
    """A run with everything in it that a check looks at, and more of it as chance will have it."""
    chat = PerfectChat(rng)
    chat.begin()
    for _ in range(2):
        chat.send_pipelined(BOB)
        chat.send(ALICE, PAIR)
        chat.mark(CAROL, Status.DELIVERED)
        chat.send_refused(CAROL)
        _do_something(chat, rng)
        chat.mark(CAROL, Status.SEEN)
    chat.kill_an_edge()
    chat.fall_behind(CAROL)
    chat.send_unanswered(ALICE, stored=True)
    chat.send_unanswered(BOB, stored=False)
    _do_something(chat, rng)
    chat.restart_rolling()
    chat.heal()
    chat.remove_eve()
    if rng.random() < 0.5:
        chat.add_eve_again()
    chat.send_pipelined(ALICE)
    chat.mark(BOB, Status.SEEN)
    chat.finish()
    return chat.entries


def _do_something(chat: PerfectChat, rng: random.Random) -> None:
    choices: tuple[Callable[[str], None], ...] = (
        chat.send,
        chat.send_pipelined,
        chat.send_refused,
        partial(chat.send_unanswered, stored=True),
        partial(chat.send_unanswered, stored=False),
        partial(chat.mark, status=Status.DELIVERED),
        partial(chat.mark, status=Status.SEEN),
        chat.move,
        chat.fall_behind,
    )
    for _ in range(rng.randint(0, 8)):
        rng.choice(choices)(rng.choice((ALICE, BOB, CAROL, EVE)))
